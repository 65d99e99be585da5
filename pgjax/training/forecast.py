"""What can be said before a run is verified: where it starts, how long, and on which machine."""

import json
import warnings
from pathlib import Path

from pgjax.config.settings import TrainConfig
from pgjax.errors import RunError, RunWarning
from pgjax.runs import store
from pgjax.runs.checkpoints import valid_checkpoints, warn_of_damage
from pgjax.runs.folder import load_config, read_lines
from pgjax.runs.provenance import differences, machine_facts
from pgjax.runs.run import RunLike, run_path

_SPEED_ONLY = ("devices", "processes", "threads")  # facts that never change a result


def checkpoint_before(
    path: Path, config: TrainConfig, first: int, *, quiet: bool = False
) -> store.Checkpoint | None:
    """Return the last checkpoint from which update `first` can be repeated, or None."""
    if config.restarts_episodes:
        return None
    report = (lambda problem: None) if quiet else warn_of_damage
    return next((at for at in valid_checkpoints(path, config, report) if at.update < first), None)


def sample_ranges(path: Path, size: int) -> list[tuple[int, int]]:
    """Return the first and last updates of the samples that `verify` compares.

    Each has at most `size` updates: the first ones, and those after each checkpoint that was kept.

    Raises:
      ConfigError, RunError: if it is not a run folder, or its settings are not valid.
    """
    config = load_config(path)
    try:
        recorded = len(read_lines(path / "metrics.jsonl"))
    except (OSError, ValueError) as e:
        raise RunError(f"{path} has no readable logs ({e}): train again") from None
    kept = valid_checkpoints(path, config, lambda problem: None)
    starts = sorted({0} if config.restarts_episodes else {0, *(at.update for at in kept)})
    ends = [*starts[1:], recorded]
    pairs = zip(starts, ends, strict=True)
    return [(start + 1, min(start + size, end)) for start, end in pairs if start < end]


def expected_seconds(run: RunLike, first: int = 1, last: int | None = None) -> float | None:
    """Return how long the updates that `verify` repeats took, from timings.jsonl.

    Args:
      run: a run or its folder.
      first, last: as for `verify`.

    Returns:
      The seconds, without the evaluation; None if the timings cannot be read.

    Raises:
      ConfigError, RunError: if it is not a run folder, or its settings are not valid.
    """
    path = run_path(run)
    checkpoint = checkpoint_before(path, load_config(path), first, quiet=True)
    start = checkpoint.update if checkpoint else 0
    try:
        return float(
            sum(
                seconds
                for row in map(json.loads, store.read_regular(path / "timings.jsonl").splitlines())
                if start < row["update"] and (last is None or row["update"] <= last)
                for name, seconds in row.items()
                if name.startswith("seconds")  # in the Python loop, of collecting and of updating
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def duration(seconds: float) -> str:
    """Write a duration with its unit.

    >>> duration(0.2), duration(89), duration(150), duration(9000)
    ('1 s', '89 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def warn_of_other_machine(path: Path, config: TrainConfig) -> None:
    """Warn of differences between this machine and that of a run which may change results.

    Call it when the environment is open: only then are the versions of its engines known.
    """
    here = {name: x for name, x in machine_facts(config).items() if name not in _SPEED_ONLY}
    try:
        differs = differences(here, store.read_sealed(path / "manifest.json")["machine"])
    except (store.DamagedError, KeyError, AttributeError, TypeError):
        return  # what is damaged is reported with the result
    if differs:
        warnings.warn(
            f"this machine differs from that of the run, so results may too: {'; '.join(differs)}",
            RunWarning,
            stacklevel=2,
        )
