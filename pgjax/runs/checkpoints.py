"""Find the valid checkpoints of a run, and restore a TrainState from one."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import flax.serialization
import jax
import jax.numpy as jnp

from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, RunError, RunWarning, short_repr
from pgjax.runs import store
from pgjax.runs.states import RunState
from pgjax.types import TrainState

_State = TypeVar("_State", bound=RunState)
# Which checkpoint of a run: that with the highest score, the newest, or that after an update.
CheckpointName = Literal["best", "last"] | int


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


def choose(
    found: Iterator[store.Checkpoint], name: CheckpointName | str
) -> store.Checkpoint | None:
    """Return one of the checkpoints of a run, or None if the run has none.

    Args:
      found: the intact checkpoints, newest first.
      name: "best", "last", or the update after which it was written, as a number or its digits.

    Raises:
      ConfigError: if it is none of these.
      RunError: if no checkpoint was kept after that update.
    """
    if isinstance(name, bool) or not (name in ("best", "last") or str(name).isdecimal()):
        raise ConfigError(
            f"--checkpoint must be best, last or the number of an update, got {short_repr(name)}"
        )
    if name == "last":
        return next(found, None)
    there = list(found)
    if name == "best":  # the oldest among equals, which is the one that is kept
        return max(reversed(there), key=lambda at: at.score, default=None)
    if chosen := [at for at in there if at.update == int(name)]:
        return chosen[0]
    updates = ", ".join(str(at.update) for at in reversed(there)) or "none"
    raise RunError(
        f"there is no intact checkpoint of update {name}: choose one of those that were kept "
        f"({updates}), best or last"
    )


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


def restore(checkpoint: store.Checkpoint, init: Callable[[], RunState]) -> RunState:
    """Read the state of a run from a checkpoint.

    Args:
      checkpoint: from `valid_checkpoints`.
      init: returns a state with the same shapes and dtypes; it is traced, not executed.

    Raises:
      RunError: if the shapes or dtypes of the checkpoint differ.
    """
    typed = jax.eval_shape(init)
    like = jax.eval_shape(with_key_data, typed)
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
    return with_typed_keys(state, typed)


def with_typed_keys(state: _State, like: _State) -> _State:
    """Make the keys of a state typed again, where they are in `like`, arrays or their shapes."""

    def typed(x: Any, like: Any) -> jax.Array:
        if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jnp.asarray(x)
        impl: list[Any] = []
        jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
        return jax.random.wrap_key_data(jnp.asarray(x), impl=impl[0])

    return jax.tree.map(typed, state, like)


def with_key_data(state: _State) -> _State:
    """Replace the typed keys of a state with their data, which can be saved.

    Use it to save a state of your own loop with flax.serialization; `to_orbax` does so for Orbax.

    Args:
      state: a TrainState.

    Returns:
      The state, with a key of uint32 numbers.

    Example:
      >>> import flax.serialization, jax, numpy as np, optax, pgjax
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
      >>> obs = np.zeros(4, np.float32)
      >>> state = algorithm.init(jax.random.key(7), obs)
      >>> data = flax.serialization.to_bytes(pgjax.runs.with_key_data(state))
      >>> like = pgjax.runs.with_key_data(algorithm.init(jax.random.key(0), obs))
      >>> again = pgjax.runs.with_typed_key(flax.serialization.from_bytes(like, data))
      >>> bool((again.key == state.key).all()), int(again.step)
      (True, 0)
    """

    def data(x: Any) -> Any:
        typed = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if typed else x

    return jax.tree.map(data, state)


def with_typed_key(state: TrainState) -> TrainState:
    """Make the key of a state typed again: the inverse of `with_key_data`, after loading.

    Use it on what flax.serialization returns, whose arrays may be NumPy's. The key has JAX's
    default implementation.

    Args:
      state: a TrainState with a key of uint32 numbers.

    Returns:
      The state, of JAX arrays, with a typed key.

    Example:
      >>> import jax, numpy as np, optax, pgjax
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
      >>> state = algorithm.init(jax.random.key(7), np.zeros(4, np.float32))
      >>> plain = pgjax.runs.with_key_data(state)
      >>> str(pgjax.runs.with_typed_key(plain).key.dtype)
      'key<fry>'
    """
    state = jax.tree.map(jnp.asarray, state)
    return state._replace(key=jax.random.wrap_key_data(state.key))
