"""Evaluations while a run trains, for --eval-every."""

import json
from pathlib import Path
from typing import Any

from pgjax.errors import RunError
from pgjax.evaluation.evaluate import evaluate
from pgjax.runs import store
from pgjax.runs.folder import read_lines
from pgjax.runs.run import RunData

_NAME = "evaluations.jsonl"


def record_evaluation(run: RunData, metrics: dict[str, Any]) -> float:
    """Evaluate a run as it is now, add a line to evaluations.jsonl, and return the mean return.

    The file is replaced atomically, and a line for the same or a later update, which a run that was
    killed has left, is replaced too.

    Args:
      run: a run with the state after an update.
      metrics: the metrics of the update.
    """
    names = "update", "total_env_steps"
    result = {name: metrics[name] for name in names} | evaluate(run, run.config.eval_episodes)
    before = (row for row in read_evaluations(run.path) if row["update"] < result["update"])
    lines = "".join(json.dumps(row) + "\n" for row in [*before, result])
    store.replace(run.path / _NAME, lines.encode())
    return float(result["mean"])


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Read evaluations.jsonl; empty if there is none.

    Raises:
      RunError: if it is damaged.
    """
    if not (run_dir / _NAME).exists():
        return []
    try:
        rows = read_lines(run_dir / _NAME)
        for row in rows:
            for name in ("update", "total_env_steps", "mean", "episodes"):
                float(row[name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise RunError(f"{run_dir / _NAME} cannot be read ({e}): remove it") from None
    return rows
