"""Evaluations of the runs of several seeds, and evaluation.json, which holds what they give."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import EnvSource
from pgjax.errors import ConfigError, RunError
from pgjax.evaluation.statistics import summarize, too_few
from pgjax.runs.checkpoints import CheckpointName
from pgjax.runs.folder import diverged, read_config, read_lines, seed_folders, write_json
from pgjax.runs.run import RunData, RunLike, as_run, load, run_path

_NAME = "evaluation.json"


def seed_runs(
    run: RunLike,
    seed: int,
    *,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool,
    env: EnvSource | None = None,
) -> list[tuple[RunData, int]]:
    """Return the runs in a folder, each with the random seed of its episodes.

    A single run has the episodes of `seed`. Those of several seeds have different ones, so that
    their results are independent: a run of seed s has those of seed + s (modulo 2**32).

    Raises:
      ConfigError: if `seed` is not an integer from 0 to 2**32 - 1.
      Otherwise as for `pgjax.load`.
    """
    seed = int(check_seed(seed))
    folders = [] if isinstance(run, RunData) else seed_folders(run_path(run))
    options: Any = {"allow_env_import": allow_env_import, "env": env}
    if not folders:
        return [(as_run(run, checkpoint=checkpoint, **options), seed)]
    runs = [_load_seed(path, checkpoint, **options) for path in folders]
    return [(of_seed, (seed + of_seed.config.seed) % 2**32) for of_seed in runs]


def _load_seed(path: Path, checkpoint: CheckpointName | str, **options: Any) -> RunData:
    """Load a run; one that diverged in its first update has no checkpoint, and did not change."""
    if not diverged(path) or read_lines(path / "metrics.jsonl"):
        return load(path, checkpoint=checkpoint, **options)
    config = read_config(path, **options)
    with open_env(config, 1) as opened:
        agent = make_agent(config, opened)
    return RunData(path, config, agent, agent.init(config.seed))


def check_seed(seed: int) -> np.uint32:
    """Return a random seed; raise ConfigError unless it is an integer from 0 to 2**32 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ConfigError(f"--seed must be an integer from 0 to {2**32 - 1}, got {seed!r}")
    return np.uint32(seed)


def seeds_summary(results: dict[int, dict[str, Any]], unfinished: list[int]) -> dict[str, Any]:
    """Summarise evaluations, given those of each seed and the seeds that ended early.

    Returns:
      `episodes` (per seed), `mean_by_seed`, `unfinished` if there are any, and the
      `interquartile_mean` of the means with `low` and `high`, or the `mean` of fewer than five.
    """
    means = {str(seed): result["mean"] for seed, result in results.items()}
    summary = {"episodes": next(iter(results.values()))["episodes"], "mean_by_seed": means}
    if unfinished:
        summary["unfinished"] = unfinished
    return summary | summarize(list(means.values()))


def summary_sentence(summary: dict[str, Any]) -> str:
    """Format the result of `seeds_summary` as one line, without the seeds."""
    if "low" not in summary:
        return f"mean {summary['mean']:.1f}; {too_few(len(summary['mean_by_seed']))}"
    return (
        "interquartile mean {interquartile_mean:.1f}, 95 % bootstrap interval {low:.1f} to "
        "{high:.1f}"
    ).format(**summary)


def save_evaluation(run_dir: Path, result: dict[str, Any]) -> None:
    """Write evaluation.json."""
    try:
        write_json(run_dir / _NAME, result)
    except OSError as e:
        raise RunError(f"cannot write {run_dir / _NAME} ({e})") from None


def read_evaluation(run_dir: Path) -> dict[str, Any]:
    """Read the evaluation.json of a single run.

    Raises:
      RunError: if it is missing, or is not an evaluation.
    """
    try:
        found = json.loads((run_dir / _NAME).read_text())
        if not math.isfinite(found["mean"]) or not isinstance(found["episodes"], int):
            raise ValueError("it is not an evaluation")
        if not isinstance(found.get("returns", []), list):
            raise ValueError("its returns are not a list")
    except FileNotFoundError:
        reason = "has no evaluation.json"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        reason = f"has an {_NAME} that cannot be read ({type(e).__name__}: {e})"
    else:
        return found
    together = run_dir.parent if run_dir in seed_folders(run_dir.parent) else run_dir
    raise RunError(f"{run_dir} {reason}: write it with pgjax evaluate {together} --save")
