"""The learning curve of a run, from its metrics.jsonl. Needs matplotlib."""

from pathlib import Path

from pgjax import runs
from pgjax.errors import RunError


def learning_curve(run_dir: Path, out: Path | None = None) -> Path:
    """Draw mean return (with the range from worst to best episode) over environment steps.

    Args:
      run_dir: a run folder.
      out: a picture file; by default learning_curve.png in the folder.

    Returns:
      Where the picture is.

    Raises:
      RunError: if the folder holds no metrics, or the picture cannot be written.
    """
    # Without pyplot: no global state, and no window system.
    from matplotlib.figure import Figure

    config = runs.load_config(run_dir)
    try:
        rows = runs.read_lines(run_dir / "metrics.jsonl")
        steps = [row["total_env_steps"] for row in rows]
        curves = {k: [row[f"{k}_return"] for row in rows] for k in ("mean", "min", "max")}
    except (OSError, ValueError, KeyError) as e:
        raise RunError(f"{run_dir} has no readable metrics.jsonl ({e})") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(
        steps, curves["min"], curves["max"], alpha=0.2, linewidth=0, label="worst to best episode"
    )
    axes.plot(steps, curves["mean"], linewidth=1.5, label="mean of the update's episodes")
    axes.set(
        title=f"{config.env_id}, seed {config.seed}", xlabel="environment steps", ylabel="return"
    )
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    out = out or run_dir / "learning_curve.png"
    try:
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as e:
        raise RunError(f"cannot write the picture {out}: {e}") from None
    return out
