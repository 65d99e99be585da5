"""The run folder: what a run leaves behind, and how it is read back.

config.json         the settings, with their own digest
metrics.jsonl       a line per update; follows from config and seed alone
digests.jsonl       a line per update: a digest of the parameters after it
timings.jsonl       a line per update: seconds, steps a second
manifest.json       versions, platform, threads, params_sha256
checkpoints/N.ckpt  the TrainState after N updates: the last three and the best
failure.json        what leads to where an environment failed, if one did
evaluation.json     returns and lengths of the evaluation at the end
learning_curve.png

Of several seeds a folder holds seed-N, a run folder for each, seeds.json, evaluation.json over the
seeds and learning_curve.png.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, RunError
from pgjax.runs import store

_LOCK = ".lock"
MOST_SEEDS = 10**5  # in one folder
_TAKEN = "{} is not an empty folder: choose another --run-dir, or pgjax resume what is there"
_CANNOT = "{} cannot be made ({}): choose another --run-dir"


def new_run_dir(config: TrainConfig) -> Path:
    """The folder of a new run, not made yet: config.run_dir, or a fresh one under runs/.

    Raises:
      RunError: if it exists and holds anything, or is no folder.
    """
    if config.run_dir is None:
        name = re.sub(r"[^\w.-]", "-", config.env_id)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{name}-seed{config.seed}-{stamp}-{os.getpid()}"
    path = Path(config.run_dir)
    try:
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as e:  # a name that is too long
        raise RunError(_CANNOT.format(path, e.strerror)) from None
    if existing == path and (not path.is_dir() or _holds_anything(path)):
        raise RunError(_TAKEN.format(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"{path} cannot be made in {existing}: choose another --run-dir")
    return path


def _holds_anything(path: Path) -> bool:
    """Beyond what a run leaves that was killed before its first update."""
    return any(p.name != _LOCK and not p.name.endswith(".tmp") for p in path.iterdir())


@contextlib.contextmanager
def locked_folder(path: Path, *, new: bool) -> Iterator[None]:
    """Make and hold a run folder; one that is left with nothing in it is removed.

    Raises:
      RunError: if another process holds it or, where it should be new, has been there.
    """
    import filelock

    made = [p for p in (path, *path.parents) if not p.exists()]
    lock = filelock.FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise RunError(
            f"{path} is in use by another process: wait for it, or choose another --run-dir"
        ) from None
    except OSError as e:
        raise RunError(_CANNOT.format(path, e.strerror)) from None
    try:
        if new and _holds_anything(path):
            raise RunError(_TAKEN.format(path))
        yield
    finally:
        with contextlib.suppress(OSError):  # whoever waits for the lock looks whether it is there
            os.unlink(path / _LOCK)
        lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def seed_folder(run_dir: Path, seed: int) -> Path:
    """Where a folder of several seeds holds the run of one."""
    return run_dir / f"seed-{seed}"


def write_seeds(run_dir: Path, seeds: range) -> None:
    """Say that a folder holds the runs of several seeds, which are consecutive."""
    store.write_sealed(run_dir / "seeds.json", {"first": seeds.start, "count": len(seeds)})


def seeds_in(run_dir: Path) -> range:
    """The seeds whose runs a folder holds; none where it is that of a single run.

    Raises:
      RunError: if what says which there are is damaged.
    """
    if not (run_dir / "seeds.json").exists():
        return range(0)
    values = _sealed(run_dir / "seeds.json")
    first, count = values.get("first"), values.get("count")
    if not isinstance(first, int) or not isinstance(count, int) or not 0 < count <= MOST_SEEDS:
        raise RunError(f"{run_dir / 'seeds.json'} does not name seeds: train again")
    return range(first, first + count)


def seed_folders(run_dir: Path) -> list[Path]:
    """The run folders of several seeds in a folder, by seed; none in that of a single run."""
    return [seed_folder(run_dir, seed) for seed in seeds_in(run_dir)]


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    store.replace(path, (json.dumps(value, indent=2) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_config(run_dir: Path) -> TrainConfig:
    """The settings of a run.

    Raises:
      RunError: if the folder holds none, or they were changed since.
      ConfigError: if they are not valid.
    """
    if folders := seed_folders(run_dir):
        raise RunError(f"{run_dir} holds the runs of several seeds: name one, such as {folders[0]}")
    if not (run_dir / "config.json").exists():
        raise RunError(f"{run_dir} is not a run folder: name one that pgjax train left")
    return TrainConfig.from_json(_sealed(run_dir / "config.json"))


def _sealed(path: Path) -> dict[str, Any]:
    try:
        return store.read_sealed(path)
    except store.DamagedError as e:
        raise RunError(f"{e}: train again") from None


def read_config(run_dir: Path, *, allow_env_import: bool) -> TrainConfig:
    """As `load_config`, for a folder whose writer need not be trusted.

    Raises:
      ConfigError: also if it would have us import a module.
    """
    config = load_config(run_dir)
    if ":" in config.env_id and not allow_env_import:
        raise ConfigError(
            f"{run_dir} names an environment in a module to import, {config.env_id!r}: if you "
            "trust it, say so with --allow-env-import"
        )
    return config
