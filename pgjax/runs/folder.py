"""The run folder: its files, its lock, and the settings in it.

config.json         the settings, with their digest
metrics.jsonl       one line per update; it depends only on config and seed
digests.jsonl       one line per update: a digest of the parameters after it
timings.jsonl       one line per update: seconds, steps per second
manifest.json       versions, platform, threads, params_sha256
checkpoints/N.ckpt  the state after N updates: the last three and the best
failure.json        if the environment failed: the reset seed and the actions that led to it
evaluation.json     statistics of the final evaluation
learning_curve.png

The folder of several seeds holds a run folder seed-N for each, seeds.json, an evaluation.json with
statistics over the seeds, and learning_curve.png.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgjax.config.settings import EnvSource, TrainConfig
from pgjax.errors import ConfigError, RunError, short_repr
from pgjax.runs import store
from pgjax.runs.trust import ALLOW, foreign_names, trusted

_LOCK = ".lock"
MOST_SEEDS = 10**5  # in one folder
_TAKEN = "{} is not empty: choose another --run-dir, or resume the run in it with pgjax resume"
_CANNOT = "{} cannot be made ({}): choose another --run-dir"


def absolute(path: Path | str) -> Path:
    """Return an absolute path, with ~ replaced by the home folder.

    Do so once, before an environment is made: it may change the current folder.

    Raises:
      ConfigError: if there is no such home folder.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as e:
        raise ConfigError(f"{path}: {e}") from None


def output_file(out: Path | str, what: str, *suffixes: str) -> Path:
    """Return the absolute path of a file to write.

    Raises:
      ConfigError: if it has none of the suffixes, or is a folder or a symbolic link.
    """
    path = absolute(out)
    if path.suffix not in suffixes:
        raise ConfigError(f"{what} must end in {' or '.join(suffixes)}, got {path.name!r}")
    if path.is_symlink() or path.is_dir():
        kind = "symbolic link" if path.is_symlink() else "folder"
        raise ConfigError(f"{path} is a {kind}: choose another --out")
    return path


def new_run_dir(config: TrainConfig) -> Path:
    """Return the absolute path of a new run folder: config.run_dir, or a new name in runs/.

    Does not create it.

    Raises:
      RunError: if the path is a file or a non-empty folder, or the folder cannot be made.
    """
    if config.run_dir is None:
        name = re.sub(r"[^\w.-]", "-", config.env_id).strip("-")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = absolute("runs") / f"{name}-seed{config.seed}-{stamp}-{os.getpid()}"
        # Runs that one process starts in the same second are numbered.
        later = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
        return next(p for p in itertools.chain([path], later) if not p.exists())
    path = absolute(config.run_dir)
    try:
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as e:  # for example, the name is too long
        raise RunError(_CANNOT.format(path, e.strerror)) from None
    if existing == path and not path.is_dir():
        raise RunError(f"{path} is not a folder: choose another --run-dir")
    if existing == path and _holds_anything(path):
        raise RunError(_TAKEN.format(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"{path} cannot be made in {existing}: choose another --run-dir")
    return path


def _holds_anything(path: Path) -> bool:
    """Whether the folder holds more than leftovers of a run killed before its first update."""
    return any(p.name != _LOCK and not p.name.endswith(".tmp") for p in path.iterdir())


@contextlib.contextmanager
def locked_folder(path: Path, *, new: bool) -> Iterator[None]:
    """Create and lock a run folder for one process; remove it on exit if it is still empty.

    Raises:
      RunError: if another process uses the folder, or if `new` and it is not empty.
    """
    import filelock

    made = [p for p in (path, *path.parents) if not p.exists()]
    lock = filelock.FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        advice = "wait for it" + ", or choose another --run-dir" * new
        raise RunError(f"{path} is in use by another process: {advice}") from None
    except OSError as e:
        raise RunError(_CANNOT.format(path, e.strerror)) from None
    try:
        if new and _holds_anything(path):
            raise RunError(_TAKEN.format(path))
        yield
    finally:
        # A process that waits for the lock checks that the file still exists.
        with contextlib.suppress(OSError):
            os.unlink(path / _LOCK)
        lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def resume_command(run_dir: Path) -> str:
    """Return the command that resumes a run.

    >>> resume_command(Path("my runs/1"))
    "pgjax resume 'my runs/1'"
    """
    return f"pgjax resume {shlex.quote(str(run_dir))}"


def seed_folder(run_dir: Path, seed: int) -> Path:
    """Return the run folder of one seed in the folder of several seeds."""
    return run_dir / f"seed-{seed}"


def write_seeds(run_dir: Path, seeds: range) -> None:
    """Record the consecutive seeds whose runs a folder holds."""
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
        raise RunError(f"{run_dir / 'seeds.json'} is not a valid list of seeds: train again")
    return range(first, first + count)


def seed_folders(run_dir: Path) -> list[Path]:
    """Return the run folders in a folder of several seeds; empty for the folder of a single run.

    A seed that failed before its first update has none.
    """
    folders = [seed_folder(run_dir, seed) for seed in seeds_in(run_dir)]
    return [folder for folder in folders if (folder / "config.json").exists()]


def diverged(run_dir: Path) -> str | None:
    """Return why one of several seeds ended before the others, or None if it did not."""
    try:
        reason = store.read_sealed(run_dir / "manifest.json").get("diverged")
    except (store.DamagedError, AttributeError):
        return None
    return None if reason is None else str(reason)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    store.replace(path, (json.dumps(value, indent=2) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Parse the lines of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_config(run_dir: Path) -> TrainConfig:
    """Read the settings of a run.

    Raises:
      RunError: if it is not the folder of one run, or config.json is damaged or was changed.
      ConfigError: if the settings are not valid.
    """
    if folders := seed_folders(run_dir):
        raise RunError(f"{run_dir} holds several runs: choose one, such as {folders[0]}")
    if not (run_dir / "config.json").exists():
        raise RunError(f"{run_dir} is not a run folder: choose one that pgjax train wrote")
    return TrainConfig.from_json(_sealed(run_dir / "config.json"))


def _sealed(path: Path) -> dict[str, Any]:
    try:
        return store.read_sealed(path)
    except store.DamagedError as e:
        raise RunError(f"{e}: train again") from None


def read_config(
    run_dir: Path, *, allow_env_import: bool, env: EnvSource | None = None
) -> TrainConfig:
    """Read the settings of a run from a possibly untrusted source.

    `env` makes the environment if config.json cannot name it; see `with_env`.

    Raises:
      ConfigError: if the settings name code to import, `allow_env_import` is false, and the folder
        is not trusted.
      RunError, ConfigError: as for `load_config`.
    """
    config = load_config(run_dir)
    names = foreign_names(config)
    if names and not allow_env_import and not trusted(run_dir, config):
        raise ConfigError(
            f"{run_dir} makes its environment import {short_repr(', '.join(names))}: allow it with "
            f"--allow-env-import, or {ALLOW}=1, if you trust the folder"
        )
    return with_env(config, env, run_dir)


def with_env(config: TrainConfig, env: EnvSource | None, run_dir: Path) -> TrainConfig:
    """Return the settings of a run with the environment that was given in Python.

    Raises:
      ConfigError: if it is missing, or if an id names the environment.
    """
    if env is None and not config.named:
        raise ConfigError(
            f"the environment {config.env_id} of {run_dir} was given in Python and has no name: "
            f"pass it again, as in pgjax.load({str(run_dir)!r}, env=...)"
        )
    if env is not None and config.named:
        raise ConfigError(f"the environment of {run_dir} is {config.env_id}: leave out env")
    return dataclasses.replace(config, env=env)
