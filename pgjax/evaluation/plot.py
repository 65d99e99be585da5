"""Plot learning curves of a run, of several seeds, or of several runs, with matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.errors import ConfigError, RunError, check_count, counted
from pgjax.evaluation.curves import (
    draw_curve,
    draw_groups,
    draw_line,
    group_curve,
    read_columns,
    with_smoothing,
)
from pgjax.evaluation.during import read_evaluations
from pgjax.evaluation.groups import Group, group_runs, listed_runs
from pgjax.runs import store
from pgjax.runs.folder import absolute, diverged, load_config, read_lines, seed_folders
from pgjax.runs.run import RunLike, run_path


def plot(
    run: RunLike | Sequence[RunLike], out: Path | str | None = None, *, smooth: int = 1
) -> Path:
    """Plot the mean return against environment steps, with the range from worst to best episode.

    Use it to see how training progressed, or to compare runs.

    For the folder of several seeds, plot a thin line for each seed, and their mean with a band.
    Returns are interpolated to common environment steps, up to where the first seed ends. With five
    or more seeds, the line is their interquartile mean and the band its 95 % bootstrap interval at
    each step; with two to four, their mean, and the range from the lowest to the highest. The line
    of a seed that diverged ends with a cross, and the mean leaves it out.

    For several runs of one task, plot such a mean for each group of runs whose settings differ only
    in the seed; the legend names the settings in which the groups differ, without those in which
    each follows the preset of its algorithm. Seeds that diverged are left out, and counted in the
    legend.

    Args:
      run: a run, its folder, or the folder of several seeds; or a sequence of these.
      out: the image file; by default learning_curve.png in the run folder. Several runs need it.
        Missing folders are created.
      smooth: show the mean of so many updates, each with those before it. The plot says so.

    Returns:
      The path of the image.

    Raises:
      ConfigError: if an argument is invalid, or the runs cannot be compared, since they are of
        different tasks, two are the same, or all seeds of a group diverged.
      RunError: if a folder holds no metrics, or the image cannot be written.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> pgjax.plot(pgjax.train(config)).name
      'learning_curve.png'
    """
    # Not pyplot, which has global state and may need a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    smooth = check_count("--smooth", smooth)
    runs = listed_runs(run)
    if len(runs) > 1 and out is None:
        raise ConfigError("a plot of several runs needs a file: add --out FILE")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    if len(runs) == 1:
        run_dir = run_path(runs[0])
        folders = seed_folders(run_dir)
        if folders:
            _draw_seeds(axes, folders, smooth)
        else:
            _draw_run(axes, run_dir, smooth)
        axes.legend(loc="best", frameon=False)
    else:
        groups = group_runs(runs)
        draw_groups(axes, groups, smooth)
        # Below the axes, since names may be long.
        figure.set_figheight(4 + 0.3 * len(groups))
        figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.3)
    return _save(figure, run_path(runs[0]) / "learning_curve.png" if out is None else absolute(out))


def _save(figure: Any, out: Path) -> Path:
    image = io.BytesIO()
    try:
        figure.savefig(image, dpi=130, format=out.suffix.removeprefix(".") or "png")
        out.parent.mkdir(parents=True, exist_ok=True)
        store.replace(out, image.getvalue())
    except (OSError, ValueError) as e:
        raise RunError(f"cannot write the image {out} ({e}): choose another --out") from None
    return out


def _draw_run(axes: Any, run_dir: Path, smooth: int = 1) -> None:
    config = load_config(run_dir)
    names = "mean_return", "min_return", "max_return"
    steps, mean, low, high = read_columns(run_dir, smooth, *names)
    label = "worst to best episode"
    if len(steps) == 1:  # an area over a single point would be invisible
        axes.vlines(steps, low, high, alpha=0.2, linewidth=8, label=label)
    else:
        axes.fill_between(steps, low, high, alpha=0.2, linewidth=0, label=label)
    draw_line(axes, steps, mean, linewidth=1.5, label="mean of the update's episodes")
    if rows := read_evaluations(run_dir):
        label = f"evaluation, mean of {counted(rows[0]['episodes'], 'episode')}"
        points = [row["total_env_steps"] for row in rows], [row["mean"] for row in rows]
        axes.plot(*points, "o", color="tab:orange", markersize=4, label=label)
    title = f"{config.env_id}, seed {config.seed}"
    ylabel = with_smoothing("return", smooth)
    axes.set(title=title, xlabel="environment steps", ylabel=ylabel)


def _draw_seeds(axes: Any, folders: list[Path], smooth: int = 1) -> None:
    """Draw a thin line for each seed, and their mean with its band."""
    ended = []
    for i, folder in enumerate(folders):
        if not read_lines(folder / "metrics.jsonl") and diverged(folder):  # in its first update
            continue
        steps, mean = read_columns(folder, smooth, "mean_return")
        label = "each seed" if i == 0 else None
        draw_line(axes, steps, mean, color="tab:blue", alpha=0.3, linewidth=0.8, label=label)
        if diverged(folder):
            ended.append((steps[-1], mean[-1]))
    if ended:
        axes.plot(*np.array(ended).T, "x", color="tab:red", label="diverged")
    config = load_config(folders[0])
    group = Group("all seeds", {}, config, dict(enumerate(folders, config.seed)))
    draw_curve(axes, group_curve(group, smooth), color="tab:orange")
    title = f"{config.env_id}, seeds {config.seed} to {load_config(folders[-1]).seed}"
    ylabel = with_smoothing("mean return of an update", smooth)
    axes.set(title=title, xlabel="environment steps", ylabel=ylabel)
