"""Find the valid checkpoints of a run, and restore a TrainState from one."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp

from pgjax.config.settings import TrainConfig
from pgjax.errors import RunError, RunWarning
from pgjax.runs import store
from pgjax.types import TrainState


def settings_digest(config: TrainConfig) -> str:
    """Digest of the settings that determine an update; it identifies checkpoints of another run."""
    values = config.to_json()
    if not config.length_matters:
        del values["updates"]
    return store.digest_of(values)


def warn_of_damage(problem: str) -> None:
    """Warn that a checkpoint is skipped."""
    warnings.warn(f"{problem}: using an earlier checkpoint", RunWarning, stacklevel=3)


def valid_checkpoints(
    path: Path, config: TrainConfig, report: Callable[[str], None] = warn_of_damage
) -> Iterator[store.Checkpoint]:
    """Yield the intact checkpoints of a run, newest first, and report every invalid one."""
    reported = set()
    for found in store.checkpoints(path / "checkpoints", path):
        problem = ""
        if isinstance(found, store.DamagedError):
            problem = str(found)
        elif found.settings != settings_digest(config):
            problem = f"{found.path} belongs to another run"
        if isinstance(found, store.Checkpoint) and not problem:
            yield found
        elif problem not in reported:
            reported.add(problem)
            report(problem)


def refuse_changed_logs(path: Path) -> None:
    """Raise RunError if a checkpoint of a run is whole, but its logs were changed.

    Call it if no checkpoint is valid: to train from the beginning would delete the whole ones.
    """
    for found in store.checkpoints(path / "checkpoints", path):
        if isinstance(found, store.ChangedLogError):
            raise RunError(
                f"{found}, so that no checkpoint fits it: restore the file from a copy, or train "
                "again in another folder; nothing was deleted"
            )


def restore(checkpoint: store.Checkpoint, init: Callable[[], TrainState]) -> TrainState:
    """Read the TrainState of a checkpoint.

    Args:
      checkpoint: from `valid_checkpoints`.
      init: returns a state with the same shapes and dtypes; it is traced, not executed.

    Raises:
      RunError: if the shapes or dtypes of the checkpoint differ.
    """
    like = jax.eval_shape(lambda: with_key_data(init()))
    leaves = jax.tree.leaves(like)
    least = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    try:
        if not least <= checkpoint.size <= least + 2**12 + 2**9 * len(leaves):
            raise ValueError(f"it has {checkpoint.size} bytes, the state about {least}")
        state = flax.serialization.from_bytes(like, checkpoint.body())
        for old, new in zip(leaves, jax.tree.leaves(state), strict=True):
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise ValueError(f"{new.dtype}{new.shape} in place of {old.dtype}{old.shape}")
    except Exception as e:  # on damaged bytes, parsers raise many types of exceptions
        raise RunError(f"{checkpoint.path} does not fit its run ({e}): train again") from None
    return with_typed_key(jax.tree.map(jnp.asarray, state))


def with_key_data(state: TrainState) -> TrainState:
    """Replace the typed key with its data, which can be saved or sent to other processes."""
    return state._replace(key=jax.random.key_data(state.key))


def with_typed_key(state: TrainState) -> TrainState:
    """Inverse of `with_key_data`."""
    return state._replace(key=jax.random.wrap_key_data(state.key))
