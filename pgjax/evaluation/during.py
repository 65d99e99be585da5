"""Evaluations while a run trains, for --eval-every."""

import json
from typing import Any

from pgjax.evaluation.evaluate import evaluate
from pgjax.runs import store
from pgjax.runs.folder import read_lines
from pgjax.runs.run import RunData


def record_evaluation(run: RunData, metrics: dict[str, Any]) -> None:
    """Evaluate a run as it is now, and add a line to evaluations.jsonl.

    The file is replaced atomically, and a line for the same or a later update, which a run that was
    killed has left, is replaced too.

    Args:
      run: a run with the state after an update.
      metrics: the metrics of the update.
    """
    names = "update", "total_env_steps"
    result = {name: metrics[name] for name in names} | evaluate(run, run.config.eval_episodes)
    path = run.path / "evaluations.jsonl"
    before = read_lines(path) if path.exists() else []
    rows = [*(row for row in before if row["update"] < result["update"]), result]
    store.replace(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
