"""The run folder: its files, its lock, and the settings in it.

config.json         the settings, with their digest
metrics.jsonl       a line per update; depends only on the settings
digests.jsonl       a line per update: digest of the parameters after it
timings.jsonl       a line per update: seconds, steps per second
manifest.json       versions, platform, threads, params_sha256
checkpoints/N.ckpt  the TrainState after N updates: the last three and the best
failure.json        if the environment failed: the reset seed and actions that reproduce it
evaluation.json     statistics of the evaluation after training
learning_curve.png

The folder of several seeds holds a run folder seed-N for each, seeds.json, and an evaluation.json
and a learning_curve.png over all seeds.
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
_TAKEN = "{0} is not an empty folder: choose another --run-dir, or run pgjax resume {0}"
_CANNOT = "{} cannot be made ({}): choose another --run-dir"


def new_run_dir(config: TrainConfig) -> Path:
    """Return the path of a new run folder, config.run_dir or a new name in runs/.

    Does not create it.

    Raises:
      RunError: if the path is not an empty or new folder, or cannot be made.
    """
    if config.run_dir is None:
        name = re.sub(r"[^\w.-]", "-", config.env_id)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{name}-seed{config.seed}-{stamp}-{os.getpid()}"
    path = Path(config.run_dir)
    try:
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as e:  # for example, the name is too long
        raise RunError(_CANNOT.format(path, e.strerror)) from None
    if existing == path and (not path.is_dir() or _holds_anything(path)):
        raise RunError(_TAKEN.format(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"{path} cannot be made in {existing}: choose another --run-dir")
    return path


def _holds_anything(path: Path) -> bool:
    """Whether a folder holds more than a run killed before its first update would leave."""
    return any(p.name != _LOCK and not p.name.endswith(".tmp") for p in path.iterdir())


@contextlib.contextmanager
def locked_folder(path: Path, *, new: bool) -> Iterator[None]:
    """Make a run folder and lock it against other processes; remove it at the end if it is empty.

    Raises:
      RunError: if another process uses it, or if `new` is true and it is not empty.
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
        # Safe while another process waits: it checks that the file exists.
        with contextlib.suppress(OSError):
            os.unlink(path / _LOCK)
        lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def seed_folder(run_dir: Path, seed: int) -> Path:
    """Return the run folder of one seed in the folder of several seeds."""
    return run_dir / f"seed-{seed}"


def write_seeds(run_dir: Path, seeds: range) -> None:
    """Write seeds.json: the consecutive seeds whose runs a folder holds."""
    store.write_sealed(run_dir / "seeds.json", {"first": seeds.start, "count": len(seeds)})


def seeds_in(run_dir: Path) -> range:
    """Return the seeds whose runs a folder holds; empty for the folder of a single run.

    Raises:
      RunError: if seeds.json is damaged.
    """
    if not (run_dir / "seeds.json").exists():
        return range(0)
    values = _sealed(run_dir / "seeds.json")
    first, count = values.get("first"), values.get("count")
    if not isinstance(first, int) or not isinstance(count, int) or not 0 < count <= MOST_SEEDS:
        raise RunError(f"{run_dir / 'seeds.json'} holds no range of seeds: train again")
    return range(first, first + count)


def seed_folders(run_dir: Path) -> list[Path]:
    """Return the run folders in a folder of several seeds; empty for the folder of a single run."""
    return [seed_folder(run_dir, seed) for seed in seeds_in(run_dir)]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    store.replace(path, (json.dumps(value, indent=2) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Parse the lines of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_config(run_dir: Path) -> TrainConfig:
    """Read the settings of a run.

    Raises:
      RunError: if the folder holds no settings, or config.json was changed.
      ConfigError: if the settings are invalid.
    """
    if folders := seed_folders(run_dir):
        raise RunError(f"{run_dir} holds the runs of several seeds: name one, such as {folders[0]}")
    if not (run_dir / "config.json").exists():
        raise RunError(f"{run_dir} is not a run folder: name one that pgjax train wrote")
    return TrainConfig.from_json(_sealed(run_dir / "config.json"))


def _sealed(path: Path) -> dict[str, Any]:
    try:
        return store.read_sealed(path)
    except store.DamagedError as e:
        raise RunError(f"{e}: train again") from None


def read_config(run_dir: Path, *, allow_env_import: bool) -> TrainConfig:
    """Read the settings of a run that may come from an untrusted source.

    Raises:
      ConfigError: if the environment id names a module to import and `allow_env_import` is false.
      RunError, ConfigError: as for `load_config`.
    """
    config = load_config(run_dir)
    if ":" in config.env_id and not allow_env_import:
        raise ConfigError(
            f"{run_dir} was trained on {config.env_id!r}, which imports a module: if you trust it, "
            "add --allow-env-import"
        )
    return config
