"""Learning curves of groups of runs, over a common grid of environment steps."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pgjax.errors import ConfigError, RunError, counted
from pgjax.evaluation.groups import Group
from pgjax.evaluation.statistics import FEWEST, bootstrap_interval, middle_mean
from pgjax.runs.folder import diverged, read_lines
from pgjax.runs.metrics import Metrics

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the pale yellow.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
STYLES = "solid", "dashed", "dotted", "dashdot"
_POINTS = 500  # of a grid
_RESAMPLES = 2_000  # for each point of a band


class Curve(NamedTuple):
    """Mean returns of a group of runs over environment steps."""

    steps: np.ndarray
    """[points] environment steps."""
    mean: np.ndarray
    """[points] over seeds: the interquartile mean, of fewer than five the mean."""
    low: np.ndarray
    """[points] the lower end of the band."""
    high: np.ndarray
    """[points] the upper end of the band."""
    meaning: str
    """What line and band are."""
    left_out: int
    """Number of seeds that diverged."""


def draw_groups(axes: Any, groups: Sequence[Group], smooth: int) -> None:
    """Draw a curve for each group, with a band if it has several seeds."""
    for i, group in enumerate(groups):
        curve = group_curve(group, smooth)
        meaning = f"{group.name}: {curve.meaning}{not_shown(curve.left_out)}"
        draw_curve(
            axes,
            curve._replace(meaning=textwrap.fill(meaning, 90)),
            color=COLOURS[i % len(COLOURS)],
            linestyle=STYLES[i // len(COLOURS) % len(STYLES)],
        )
    axes.set(
        title=groups[0].config.env_id,
        xlabel="environment steps",
        ylabel=with_smoothing("mean return of an update", smooth),
    )


def not_shown(left_out: int) -> str:
    """Say how many seeds a curve leaves out; empty if none."""
    return f" ({counted(left_out, 'seed')} diverged, not shown)" if left_out else ""


def draw_curve(axes: Any, curve: Curve, **style: Any) -> None:
    """Draw a curve and its band; the legend says what they mean."""
    if len(curve.steps) > 1 and not np.array_equal(curve.low, curve.high):
        band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
        axes.fill_between(curve.steps, curve.low, curve.high, **band)
    draw_line(axes, curve.steps, curve.mean, linewidth=1.8, label=curve.meaning, **style)


def group_curve(group: Group, smooth: int = 1) -> Curve:
    """Compute the mean returns of a group and their spread, without the seeds that diverged.

    Raises:
      ConfigError: if all seeds diverged.
      RunError: if the metrics of a run cannot be read.
    """
    folders = without_diverged(group)
    if not folders:
        raise ConfigError(f"{group.name}: all seeds diverged, so there is no curve: leave it out")
    runs = {seed: read_columns(path, smooth, "mean_return") for seed, path in folders.items()}
    return mean_curve(runs)._replace(left_out=len(group.folders) - len(folders))


def without_diverged(group: Group) -> dict[int, Path]:
    """Return the run folder of each seed that did not diverge."""
    return {seed: path for seed, path in group.folders.items() if diverged(path) is None}


def mean_curve(runs: Mapping[int, Sequence[np.ndarray]], points: int = _POINTS) -> Curve:
    """Compute the mean of the curves of several seeds, and their spread.

    Args:
      runs: for each seed, the environment steps and the values, each [updates].
      points: the largest number of points of the result.
    """
    grid = common_grid([steps for steps, _ in runs.values()], points)
    values = np.array([np.interp(grid, steps, of_run) for steps, of_run in runs.values()])
    meaning = f"seed {next(iter(runs))}"
    mean, low, high = values.mean(0), values.min(0), values.max(0)
    if len(runs) >= FEWEST:
        mean = middle_mean(values, axis=0)
        low, high = bootstrap_interval(middle_mean, values.T, resamples=_RESAMPLES)
        meaning = f"interquartile mean of {len(runs)} seeds, with its 95 % bootstrap interval"
    elif len(runs) > 1:
        meaning = f"mean of {len(runs)} seeds, from the lowest to the highest seed"
    return Curve(grid, mean, low, high, meaning, 0)


def common_grid(steps: Sequence[np.ndarray], points: int = _POINTS) -> np.ndarray:
    """Return at most `points` environment steps at which to compare runs, given those of updates.

    They reach from the first update of any run, before which the others have the return of their
    own first update, to the last update of the run that ends first.
    """
    if len(steps[0]) <= points and all(np.array_equal(of, steps[0]) for of in steps):
        return steps[0]
    first, last = min(of[0] for of in steps), min(of[-1] for of in steps)
    return np.unique(np.linspace(first, last, points))


def read_columns(run_dir: Path, smooth: int, *names: str) -> list[np.ndarray]:
    """Read total_env_steps and other columns of metrics.jsonl, smoothed by a moving average."""
    table = read_table(run_dir, *names)
    return [table["total_env_steps"], *(moving_average(table[name], smooth) for name in names)]


def read_table(run_dir: Path, *needed: str) -> Metrics:
    """Read metrics.jsonl, of which total_env_steps and the columns that are needed are checked."""
    try:
        rows = read_lines(run_dir / "metrics.jsonl")
        if not rows:
            raise ValueError("it is empty")
        for row in rows:
            for name in ("total_env_steps", *needed):
                row[name] = float(row[name])
        return Metrics(rows)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        reason = f"{type(e).__name__}: {e}"
        raise RunError(
            f"{run_dir} has no readable metrics.jsonl ({reason}): resume it, or train again"
        ) from None


def moving_average(values: np.ndarray, size: int) -> np.ndarray:
    """Mean of each value and the `size` - 1 before it, of fewer at the start.

    >>> moving_average(np.array([1.0, 3.0, 5.0, 10.0]), 3).tolist()
    [1.0, 2.0, 3.0, 6.0]
    """
    sums = np.convolve(values, np.ones(min(size, len(values))))[: len(values)]
    return sums / np.minimum(np.arange(1, len(values) + 1), size)


def with_smoothing(label: str, smooth: int) -> str:
    """Add to the label of an axis that curves are smoothed."""
    return f"{label},\nmoving average over {smooth:,} updates" if smooth > 1 else label


def draw_line(axes: Any, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """Draw a line; a single point, which would be invisible, as a dot."""
    axes.plot(x, y, marker="o" if len(x) == 1 else None, **style)
