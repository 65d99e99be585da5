"""Which checkpoints of a run are valid, and the TrainState in one."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp

from pgjax.config.settings import ADDED, TrainConfig
from pgjax.errors import RunError, RunWarning
from pgjax.runs import store
from pgjax.types import TrainState


def settings_digest(config: TrainConfig) -> str:
    """Digest of what an update follows from, so that no other run's checkpoint passes for ours."""
    values = config.to_json()
    if not config.length_matters:
        del values["updates"]
    for name in ADDED:
        if values[name] == getattr(TrainConfig, name):
            del values[name]
    return store.digest_of(values)


def warn_of_damage(wrong: str) -> None:
    warnings.warn(f"{wrong}: going back to what was before", RunWarning, stacklevel=3)


def valid_checkpoints(
    path: Path, config: TrainConfig, tell: Callable[[str], None] = warn_of_damage
) -> Iterator[store.Checkpoint]:
    """The checkpoints of a run that are whole, newest first; tells of each that is not."""
    told = set()
    for found in store.checkpoints(path / "checkpoints", path):
        wrong = ""
        if isinstance(found, store.DamagedError):
            wrong = str(found)
        elif found.settings != settings_digest(config):
            wrong = f"{found.path} is of another run"
        if isinstance(found, store.Checkpoint) and not wrong:
            yield found
        elif wrong not in told:
            told.add(wrong)
            tell(wrong)


def restore(checkpoint: store.Checkpoint, init: Callable[[], TrainState]) -> TrainState:
    """The TrainState of a checkpoint.

    Args:
      checkpoint: from `usable`.
      init: gives a state of the same shapes; it is traced, not run.

    Raises:
      RunError: if it does not fit.
    """
    like = jax.eval_shape(lambda: with_key_data(init()))
    leaves = jax.tree.leaves(like)
    least = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    try:
        if not least <= checkpoint.size <= least + 2**12 + 2**9 * len(leaves):
            raise ValueError(f"{checkpoint.size} bytes for {least} of parameters and their like")
        state = flax.serialization.from_bytes(like, checkpoint.body())
        for old, new in zip(leaves, jax.tree.leaves(state), strict=True):
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise ValueError(f"{new.dtype}{new.shape} where {old.dtype}{old.shape} belongs")
    except Exception as e:  # of many types: whatever strange bytes make a parser raise
        raise RunError(f"{checkpoint.path} does not fit its run ({e}): train again") from None
    return with_typed_key(jax.tree.map(jnp.asarray, state))


def with_key_data(state: TrainState) -> TrainState:
    """Its key as numbers, which files and other processes take."""
    return state._replace(key=jax.random.key_data(state.key))


def with_typed_key(state: TrainState) -> TrainState:
    """The inverse of plain."""
    return state._replace(key=jax.random.wrap_key_data(state.key))
