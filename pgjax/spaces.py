"""What stands between Gymnasium's spaces and the arrays a policy reads and writes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from pgjax.envs.base import check_action
from pgjax.errors import SpaceError, shown
from pgjax.policies import Activation, GaussianPolicy, SoftmaxPolicy

_MOST = 2**20  # numbers in an observation or an action, which a log and a layer hold many times


class Observations(NamedTuple):
    """How observations of a space become the rows that a policy sees."""

    size: int  # length d of a row
    dtype: Any  # of a row
    encode: Callable[[Any], np.ndarray]  # one observation -> [d]; ValueError for a wrong shape


class Actions(NamedTuple):
    """How the raw actions of a policy become what an environment of a space receives."""

    discrete: bool  # or continuous
    shape: tuple[int, ...]  # of one raw action
    send: Callable[[np.ndarray], Any]  # raw [n, ...] -> n actions, each contained in the space

    def check(self, raw: np.ndarray) -> None:
        """Raise SpaceError unless raw [n, ...] are actions of this space."""
        check_action(self.discrete, self.shape, raw[0])


def observations(space: gym.Space) -> Observations:
    """Box of any shape and dtype, flattened; Discrete, one-hot.

    float64 becomes float32 where JAX computes in that (its default).

    Raises:
      SpaceError: for any other space.
    """
    if isinstance(space, spaces.Box):
        shape, size = space.shape, _size("observation", space, math.prod(space.shape))
        dtype: Any = space.dtype
        kinds = "biuf" if dtype.kind == "f" else "biu"  # no fractions where they would be cut off
        if dtype.itemsize == 8:  # not always: the call is slow, and made for every update
            dtype = jax.dtypes.canonicalize_dtype(dtype)

        def flatten(obs: Any) -> np.ndarray:
            given = obs
            try:
                obs = np.asarray(given)
            except ValueError:  # a list of lists of unequal lengths
                obs = np.asarray(None)
            if obs.dtype.kind not in kinds:
                raise ValueError(f"is {shown(given)}, but the space says {space.dtype}")
            if obs.shape != shape:
                raise ValueError(f"has shape {obs.shape}, but the space says {shape}")
            return obs if len(shape) == 1 else obs.ravel()

        return Observations(size, dtype, flatten)
    if isinstance(space, spaces.Discrete):
        start, n = int(space.start), _size("observation", space, int(space.n))

        def one_hot(obs: Any) -> np.ndarray:
            number = np.asarray(obs)
            integer = number.shape == () and number.dtype.kind in "biu"
            if not integer or not start <= int(number) < start + n:
                raise ValueError(f"is {shown(obs)}, but the space says {start} to {start + n - 1}")
            row = np.zeros(n, np.float32)
            row[int(number) - start] = 1.0
            return row

        return Observations(n, np.float32, one_hot)
    raise SpaceError(_unsupported("observation", space))


def actions(space: gym.Space, squash: bool = False) -> Actions:
    """Discrete adds its start; Box clips to its bounds, or with `squash` scales tanh to them.

    Box is per dimension, in the shape and dtype of the space; integers are rounded.

    Raises:
      SpaceError: for any other space, or a bound that tanh cannot be scaled to.
    """
    if isinstance(space, spaces.Discrete):
        start, _ = int(space.start), _size("action", space, int(space.n))
        return Actions(True, (), lambda raw: [action + start for action in raw.tolist()])
    if isinstance(space, spaces.Box):
        size = _size("action", space, math.prod(space.shape))
        return Actions(False, (size,), _send_box(space, squash))
    raise SpaceError(_unsupported("action", space))


def _send_box(space: spaces.Box, squash: bool) -> Callable[[np.ndarray], Any]:
    dtype, shape = space.dtype, space.shape
    low, high = space.low.ravel(), space.high.ravel()
    integers = np.issubdtype(dtype, np.integer)
    working = np.float64 if integers else dtype
    if squash and not space.is_bounded():
        raise SpaceError(
            f"tanh needs finite bounds, and the action space is {space}: do not squash"
        )

    def send(raw: np.ndarray) -> Any:
        raw = raw.astype(working, copy=False)
        if squash:
            raw = low + (high - low) * ((np.tanh(raw) + 1) / 2)
        if integers:
            raw = np.rint(raw)
        # Last, and after the cast: float32(0.1) lies above a float64 bound of 0.1.
        sent = np.minimum(np.maximum(raw, low), high).astype(dtype).reshape(-1, *shape)
        # An element of a 1-D array is a scalar, which is not contained in a Box of shape ().
        return sent if shape else [np.asarray(x) for x in sent]

    return send


def policy_for(
    space: gym.Space,
    hidden_sizes: tuple[int, ...] = (16, 16),
    activation: Activation = nn.relu,
    squash: bool = False,
) -> nn.Module:
    """The policy for an action space: a softmax for Discrete, a Gaussian for Box.

    Raises:
      SpaceError: for any other space, or where there is nothing to choose.
    """
    if isinstance(space, spaces.Discrete):
        return SoftmaxPolicy(int(space.n), hidden_sizes, activation)
    if isinstance(space, spaces.Box):
        size = _size("action", space, math.prod(space.shape))
        return GaussianPolicy(size, hidden_sizes, activation, squash)
    raise SpaceError(_unsupported("action", space))


def describe(space: gym.Space) -> str:
    """One line for a person: discrete or continuous, how many, which bounds."""
    if isinstance(space, spaces.Discrete):
        return f"discrete, {space.n} values from {space.start}"
    if isinstance(space, spaces.Box):
        sides = np.concatenate([space.bounded_below.ravel(), space.bounded_above.ravel()])
        bounds = "bounded" if sides.all() else "partly bounded" if sides.any() else "unbounded"
        return f"continuous, shape {space.shape}, {space.dtype}, {bounds}"
    return str(space)


def _size(role: str, space: gym.Space, size: int) -> int:
    """How many numbers: none is nothing to see or to choose."""
    if not 1 <= size <= _MOST:
        raise SpaceError(
            f"{role} space {shown(space)} has {size:,} numbers, not 1 to {_MOST:,}: wrap the "
            "environment (gymnasium.wrappers) so that it has"
        )
    return size


def _unsupported(role: str, space: gym.Space) -> str:
    if not isinstance(space, gym.Space):
        return f"{role} space {shown(space)} is none of gymnasium.spaces: correct the environment"
    return (
        f"{role} space {type(space).__name__} is not supported: Box and Discrete are; wrap the "
        "environment (gymnasium.wrappers) so that it has one of them"
    )
