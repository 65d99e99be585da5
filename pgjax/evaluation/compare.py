"""Compare the evaluations of runs, grouped by their settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.errors import ConfigError, RunError
from pgjax.evaluation.groups import Group, group_runs
from pgjax.evaluation.seeds import read_evaluation
from pgjax.evaluation.statistics import probability_of_improvement, summarize
from pgjax.runs.folder import diverged, read_lines
from pgjax.runs.run import RunLike


def compare(*runs: RunLike) -> dict[str, Any]:
    """Compare the evaluations of runs of one task, which evaluation.json holds.

    Use it to say which settings are better, and how sure that is. Nothing is evaluated anew.

    Args:
      *runs: each is a run, its folder, or the folder of several seeds. Runs whose settings
        differ only in the seed become one group.

    Returns:
      `env_id`; `groups`, a list in the order of the arguments; and `improvement`, a list with an
      entry for each group but the first. A group has

      - `name`, and `settings`, the settings in which the groups differ (the name leaves out those
        in which each follows the preset of its algorithm),
      - `mean_by_seed`, the mean return of each seed's evaluation, and `episodes`, their number,
      - `interquartile_mean` of these means, and `low` and `high`, the ends of its 95 % bootstrap
        interval; or the `mean` of fewer than five,
      - `env_steps` and `seconds` of training, the mean over the seeds (seeds that were trained
        together in one program share its time),
      - `diverged`, a list of the seeds that did; they count with their last finite state.

      An entry of `improvement` has `over`, the name of a group, and `probability`, that a seed of
      the first group has a higher mean return than one of this group: the share of pairs of seeds
      in which it is higher, where equal means count half. With five or more seeds in both, also
      `low` and `high`, the ends of its 95 % bootstrap interval.

    Raises:
      ConfigError: if there are none, the runs are of different tasks, two have the same settings
        and seed, or only some were evaluated with `stochastic`.
      RunError: if a run has no evaluation.json: `pgjax train`, `pgjax resume` and `pgjax evaluate
        --save` write it; or if a file cannot be read.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice".

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> for rate in (0.01, 0.001):
      ...     config = pgjax.TrainConfig(
      ...         "CartPole-v1", updates=1, episodes_per_update=2, learning_rate=rate,
      ...         run_dir=path / str(rate),
      ...     )
      ...     result = pgjax.evaluate(pgjax.train(config), 2, save=True)
      >>> found = pgjax.compare(path / "0.01", path / "0.001")
      >>> [group["name"] for group in found["groups"]]
      ['learning_rate 0.01', 'learning_rate 0.001']
    """
    return compare_groups(group_runs(runs))


def compare_groups(groups: Sequence[Group]) -> dict[str, Any]:
    """Compare the evaluations of groups of runs, as `compare` does."""
    evaluations = [{seed: read_evaluation(of) for seed, of in x.folders.items()} for x in groups]
    if len({bool(of.get("stochastic")) for x in evaluations for of in x.values()}) > 1:
        raise ConfigError(
            "some runs were evaluated with --stochastic, others without: evaluate them in one way"
        )
    rows = [_summary(*pair) for pair in zip(groups, evaluations, strict=True)]
    first, *others = [list(row["mean_by_seed"].values()) for row in rows]
    improvement = [
        {"over": row["name"], **probability_of_improvement(first, other)}
        for row, other in zip(rows[1:], others, strict=True)
    ]
    return {"env_id": groups[0].config.env_id, "groups": rows, "improvement": improvement}


def _summary(group: Group, evaluations: dict[int, dict[str, Any]]) -> dict[str, Any]:
    means = {str(seed): float(of["mean"]) for seed, of in evaluations.items()}
    episodes = [of["episodes"] for of in evaluations.values()]
    costs = [training_cost(path) for path in group.folders.values()]
    env_steps, seconds = np.mean(costs, axis=0)
    return {
        "name": group.name,
        "settings": group.settings,
        "mean_by_seed": means,
        "episodes": sum(episodes),
        **summarize(list(means.values())),
        "env_steps": float(env_steps),
        "seconds": float(seconds),
        "diverged": [seed for seed, path in group.folders.items() if diverged(path)],
    }


def training_cost(run_dir: Path) -> tuple[float, float]:
    """Return the environment steps and seconds of a run; zeros if it has no update."""
    try:
        steps = [float(row["total_env_steps"]) for row in read_lines(run_dir / "metrics.jsonl")]
        seconds = [_seconds(row) for row in read_lines(run_dir / "timings.jsonl")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise RunError(f"{run_dir} has no readable logs ({e}): train again") from None
    return steps[-1] if steps else 0.0, sum(seconds)


def _seconds(timing: dict[str, float]) -> float:
    """Duration of an update; the Python loop times its two halves."""
    if "seconds" in timing:
        return float(timing["seconds"])
    return float(timing["seconds_collecting"]) + float(timing["seconds_updating"])
