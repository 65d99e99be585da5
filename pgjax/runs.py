"""The run folder: what a run leaves behind, and how it is read back.

config.json            the settings
metrics.jsonl          a line per update; follows from config and seed alone
timings.jsonl          a line per update: seconds, steps a second
manifest.json          versions, platform, threads, params_sha256
checkpoints/N.msgpack  the TrainState after N updates
evaluation.json        returns and lengths of the evaluation at the end
learning_curve.png

Of several seeds a folder holds seed-N, a run folder for each, evaluation.json over the seeds and
learning_curve.png.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np

from pgjax.config import TrainConfig
from pgjax.errors import RunError
from pgjax.types import Params, TrainState

_PACKAGES = ("pgjax", "jax", "jaxlib", "flax", "optax", "gymnasium", "numpy")


def params_sha256(params: Params) -> str:
    """Hex digest over the bytes of the parameters, leaf by leaf in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


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
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not an empty folder: choose another --run-dir")
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"{path} cannot be made in {existing}: choose another --run-dir")
    return path


def seed_folders(run_dir: Path) -> list[Path]:
    """The run folders of several seeds in a folder, by seed; none in that of a single run."""
    found = {int(p.name[5:]): p for p in run_dir.glob("seed-*") if p.name[5:].isdecimal()}
    return [found[seed] for seed in sorted(found)]


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    _write(path, (json.dumps(value, indent=2) + "\n").encode())


def append_lines(path: Path, values: list[dict[str, Any]]) -> None:
    """Add JSON lines to a file."""
    with path.open("a") as file:
        file.write("".join(json.dumps(value, allow_nan=False) + "\n" for value in values))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_state(run_dir: Path, state: TrainState) -> None:
    """Write a TrainState to checkpoints/, and remove those before it."""
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    data = flax.serialization.to_bytes(jax.device_get(_plain(state)))
    path = folder / f"{int(state.step):08d}.msgpack"
    _write(path, data)
    for older in folder.glob("*.msgpack"):
        if older != path:
            older.unlink()


def load_state(run_dir: Path, init: Callable[[], TrainState]) -> TrainState:
    """The last TrainState of a run.

    Args:
      run_dir: the run folder.
      init: gives a state of the same shapes; it is traced, not run.

    Raises:
      RunError: if there is none, or it does not fit.
    """
    files = sorted((run_dir / "checkpoints").glob("*.msgpack"))
    if not files:
        raise RunError(f"{run_dir} holds no checkpoint: the run did not finish, train again")
    like = jax.eval_shape(lambda: _plain(init()))
    try:
        state = flax.serialization.from_bytes(like, files[-1].read_bytes())
        for old, new in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise ValueError(f"{new.dtype}{new.shape} where {old.dtype}{old.shape} belongs")
    except Exception as e:  # of many types: whatever a damaged file makes a parser raise
        raise RunError(f"{files[-1]} cannot be read ({e}): train again") from None
    state = jax.tree.map(jnp.asarray, state)
    return state._replace(key=jax.random.wrap_key_data(state.key))


def _plain(state: TrainState) -> TrainState:
    return state._replace(key=jax.random.key_data(state.key))


def load_config(run_dir: Path) -> TrainConfig:
    """The settings of a run.

    Raises:
      RunError: if the folder holds none.
      ConfigError: if they are not valid.
    """
    if folders := seed_folders(run_dir):
        raise RunError(f"{run_dir} holds the runs of several seeds: name one, such as {folders[0]}")
    try:
        values = json.loads((run_dir / "config.json").read_text())
    except (OSError, ValueError) as e:
        raise RunError(
            f"{run_dir} is not a run folder ({e}): name one that pgjax train left"
        ) from None
    if not isinstance(values, dict):
        raise RunError(f"{run_dir / 'config.json'} does not hold settings: train again")
    return TrainConfig.from_json(values)


def manifest(config: TrainConfig, state: TrainState, totals: dict[str, int]) -> dict[str, Any]:
    """What a result rests on, and the digest of the result."""
    device = jax.devices()[0]
    return {
        "params_sha256": params_sha256(state.params),
        "updates": int(state.step),
        **totals,
        "seed": config.seed,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": f"{device.platform}: {device.device_kind}",
        "num_devices": jax.device_count(),
        "threads": threads(),
        "prng": str(jax.random.key_impl(state.key)),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def threads() -> int:
    """What XLA's CPU backend takes: NPROC if it is set, else the cores this process may use."""
    asked = os.environ.get("NPROC", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
