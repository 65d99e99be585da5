"""The curves of a report: numbers for the library that draws them in a browser."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pgjax.evaluation.curves import (
    Curve,
    mean_curve,
    moving_average,
    read_table,
    with_smoothing,
    without_diverged,
)
from pgjax.evaluation.during import read_evaluations
from pgjax.evaluation.groups import Group
from pgjax.runs.metrics import Metrics

# The most points of a curve of returns and of another metric; and of those of all groups together,
# since they decide the size of the report.
_RETURN_POINTS, _RETURN_TOTAL = 500, 5_000
_METRIC_POINTS, _METRIC_TOTAL = 100, 1_000
_FEWEST_POINTS = 10
# Counts, and what is shown with the returns.
_NO_CURVE = {"update", "episodes", "env_steps", "total_episodes", "total_env_steps"} | {
    f"{kind}_{what}" for kind in ("min", "max") for what in ("return", "length")
}


def report_curves(groups: Sequence[Group], smooth: int) -> list[dict[str, Any]]:
    """Compute the curves of returns, of evaluations during training, and of every other metric.

    Args:
      groups: runs of one task; seeds that diverged are left out.
      smooth: show the mean of so many updates; evaluations are not smoothed.

    Returns:
      For each chart its `title`; `markers`, whether points are marked; and a list `curves`, in
      which a group has `group`, its index; `meaning`, what line and band are; and the lists `x`,
      `mean`, and if there is a band `low` and `high`. The first chart is that of the returns.

    Raises:
      RunError: if the logs of a run cannot be read.
    """
    tables = [
        {seed: read_table(path, "mean_return") for seed, path in without_diverged(group).items()}
        for group in groups
    ]
    points = _points(groups, _RETURN_POINTS, _RETURN_TOTAL)
    title = with_smoothing("Mean return of an update", smooth).replace("\n", " ")
    charts = [_chart(title, _returns(tables, smooth, points))]
    evaluations = [_evaluations(group) for group in groups]
    if any(evaluations):
        curves = [mean_curve(of, points) if of else None for of in evaluations]
        charts.append(_chart("Evaluations during training", curves, markers=True))
    points = _points(groups, _METRIC_POINTS, _METRIC_TOTAL)
    for name in dict.fromkeys(name for of in tables for table in of.values() for name in table):
        curves = [_curve(of, name, smooth, points) for of in tables]
        if name not in _NO_CURVE | {"mean_return"} and any(curves):
            charts.append(_chart(name, curves))
    return charts


def _points(groups: Sequence[Group], of_each: int, of_all: int) -> int:
    return max(_FEWEST_POINTS, min(of_each, of_all // len(groups)))


def _returns(
    tables: Sequence[Mapping[int, Metrics]], smooth: int, points: int
) -> list[Curve | None]:
    """The curve of each group; that of a run alone has the range of its episodes for a band."""
    curves = [_curve(of, "mean_return", smooth, points) for of in tables]
    if len(tables) > 1 or len(tables[0]) != 1:
        return curves
    low, high = (_curve(tables[0], name, smooth, points) for name in ("min_return", "max_return"))
    if curves[0] is None or low is None or high is None:
        return curves
    meaning = f"{curves[0].meaning}, from the worst to the best episode"
    return [curves[0]._replace(low=low.mean, high=high.mean, meaning=meaning)]


def _curve(tables: Mapping[int, Metrics], name: str, smooth: int, points: int) -> Curve | None:
    """The curve of a metric; None unless every update of every seed has a number."""
    columns = {seed: table.get(name) for seed, table in tables.items()}
    runs = {
        seed: (tables[seed]["total_env_steps"], moving_average(column, smooth))
        for seed, column in columns.items()
        if column is not None
        and column.ndim == 1
        and column.dtype.kind in "if"
        and np.isfinite(column).all()
    }
    return mean_curve(runs, points) if runs and len(runs) == len(tables) else None


def _evaluations(group: Group) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Environment steps and mean returns of each seed that was evaluated while it was trained."""
    rows = {seed: read_evaluations(path) for seed, path in without_diverged(group).items()}
    return {
        seed: (_column(of, "total_env_steps"), _column(of, "mean"))
        for seed, of in rows.items()
        if of
    }


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def _chart(title: str, curves: Sequence[Curve | None], *, markers: bool = False) -> dict[str, Any]:
    found = [_as_json(i, curve) for i, curve in enumerate(curves) if curve is not None]
    return {"title": title, "markers": markers, "curves": found}


def _as_json(group: int, curve: Curve) -> dict[str, Any]:
    steps = [round(x) for x in curve.steps.tolist()]
    found = {"group": group, "meaning": curve.meaning, "x": steps, "mean": _rounded(curve.mean)}
    if np.array_equal(curve.low, curve.high):
        return found
    return found | {"low": _rounded(curve.low), "high": _rounded(curve.high)}


def _rounded(values: np.ndarray) -> list[float | None]:
    """Numbers of five digits, to save space; JSON has none that is not finite.

    >>> _rounded(np.array([1.23456789, np.nan]))
    [1.2346, None]
    """
    return [float(f"{x:.5g}") if np.isfinite(x) else None for x in values.tolist()]
