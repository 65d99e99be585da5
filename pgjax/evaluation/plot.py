"""Plot the learning curve of a run, or of several seeds, with matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.errors import RunError
from pgjax.runs import store
from pgjax.runs.folder import absolute, diverged, load_config, read_lines, seed_folders
from pgjax.runs.run import RunLike, run_path

_RETURNS = ("mean_return", "min_return", "max_return")


def plot(run: RunLike, out: Path | str | None = None) -> Path:
    """Plot the mean return against environment steps, with the range from worst to best episode.

    Use it to see how training progressed. For a folder of several seeds, plot the mean return of
    each seed, and the mean over the seeds: for each update that all of them have, the mean of their
    returns against the mean of their environment steps. The line of a seed that diverged ends with
    a cross, and the mean leaves it out.

    Args:
      run: a run, its folder, or the folder of several seeds.
      out: the image file; by default learning_curve.png in the run folder. Missing folders are
        created.

    Returns:
      The path of the image.

    Raises:
      RunError: if the folder holds no metrics, or the image cannot be written.

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

    run_dir = run_path(run)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    folders = seed_folders(run_dir)
    if folders:
        _draw_seeds(axes, folders)
    else:
        _draw_run(axes, run_dir)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    out = absolute(out) if out is not None else run_dir / "learning_curve.png"
    image = io.BytesIO()
    try:
        figure.savefig(image, dpi=130, format=out.suffix.removeprefix(".") or "png")
        out.parent.mkdir(parents=True, exist_ok=True)
        store.replace(out, image.getvalue())
    except (OSError, ValueError) as e:
        raise RunError(f"cannot write the image {out} ({e}): choose another --out") from None
    return out


def _draw_run(axes: Any, run_dir: Path) -> None:
    config = load_config(run_dir)
    steps, mean, low, high = _read(run_dir, "total_env_steps", *_RETURNS)
    label = "worst to best episode"
    if len(steps) == 1:  # an area over a single point would be invisible
        axes.vlines(steps, low, high, alpha=0.2, linewidth=8, label=label)
    else:
        axes.fill_between(steps, low, high, alpha=0.2, linewidth=0, label=label)
    _draw_line(axes, steps, mean, linewidth=1.5, label="mean of the update's episodes")
    title = f"{config.env_id}, seed {config.seed}"
    axes.set(title=title, xlabel="environment steps", ylabel="return")


def _draw_seeds(axes: Any, folders: list[Path]) -> None:
    config = load_config(folders[0])
    columns = "total_env_steps", "mean_return"
    ended = [folder for folder in folders if diverged(folder)]
    curves = [_read(folder, *columns) for folder in folders if folder not in ended]
    short = [_read(folder, *columns) for folder in ended if read_lines(folder / "metrics.jsonl")]
    shortest = min(len(steps) for steps, _ in curves)
    for i, (steps, mean) in enumerate(curves + short):
        label = "each seed" if i == 0 else None
        _draw_line(axes, steps, mean, color="tab:blue", alpha=0.3, linewidth=0.8, label=label)
    steps, mean = np.mean([[column[:shortest] for column in curve] for curve in curves], 0)
    label = "mean over seeds"
    if ended:
        label = "mean over seeds that did not diverge"
        ends = np.array([[column[-1] for column in curve] for curve in short]).reshape(-1, 2)
        axes.plot(*ends.T, "x", color="tab:red", label="diverged")
    _draw_line(axes, steps, mean, color="tab:orange", linewidth=1.8, label=label)
    last = config.seed + len(folders) - 1
    title = f"{config.env_id}, seeds {config.seed} to {last}"
    axes.set(title=title, xlabel="environment steps", ylabel="mean return of an update")


def _draw_line(axes: Any, x: Sequence[float], y: Sequence[float], **style: Any) -> None:
    """Draw a line; a single point, which would be invisible, as a dot."""
    axes.plot(x, y, marker="o" if len(x) == 1 else None, **style)


def _read(run_dir: Path, *names: str) -> list[list[float]]:
    """Read columns of metrics.jsonl."""
    try:
        rows = read_lines(run_dir / "metrics.jsonl")
        if not rows:
            raise ValueError("it is empty")
        return [[float(row[name]) for row in rows] for name in names]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        reason = f"{type(e).__name__}: {e}"
        raise RunError(
            f"{run_dir} has no readable metrics.jsonl ({reason}): resume it, or train again"
        ) from None
