"""What stands between Gymnasium's observations and the rows of numbers that a policy reads."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from pgjax.errors import SpaceError, short_repr

_MOST = 2**20  # numbers in an observation or an action, which a log and a layer hold many times


class Observations(NamedTuple):
    """How observations of a space become the rows that a policy sees."""

    size: int  # length d of a row
    dtype: Any  # of a row
    encode: Callable[[Any], np.ndarray]  # one observation -> [d]; ValueError for a wrong one


def observations(space: gym.Space) -> Observations:
    """Flattened as by gymnasium.spaces.flatten, but in the order and dtype of the space's parts.

    Box of any shape and dtype; Discrete and each of MultiDiscrete one-hot; MultiBinary; Dict and
    Tuple of these, side by side. 64 bits become float32 where JAX computes in 32 (its default).

    Raises:
      SpaceError: for any other space.
    """
    parts = [_leaf(leaf) for leaf in leaves("observation", space)]
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return parts[0]
    dtype = np.result_type(*(part.dtype for part in parts))
    if dtype.itemsize == 8:
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    size = size_of("observation", space, sum(part.size for part in parts))

    def encode(obs: Any) -> np.ndarray:
        rows = [part.encode(x) for part, x in zip(parts, _taken_apart(space, obs), strict=True)]
        return np.concatenate(rows, dtype=dtype, casting="unsafe")

    return Observations(size, dtype, encode)


def leaves(role: str, space: gym.Space) -> list[gym.Space]:
    """The space itself, or what a Dict or Tuple is made of, in order."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [space]
    subs = list(space.spaces.values()) if isinstance(space, spaces.Dict) else list(space.spaces)
    found = [leaf for sub in subs for leaf in leaves(role, sub)]
    size_of(role, space, len(found))
    return found


def _taken_apart(space: gym.Space, obs: Any) -> list[Any]:
    """What stands in the place of each leaf."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            raise ValueError(
                f"is {short_repr(obs)}, but the space says a dict of {list(space.spaces)}"
            )
        pairs = [(sub, obs[name]) for name, sub in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            raise ValueError(
                f"is {short_repr(obs)}, but the space says {len(space.spaces)} in a tuple"
            )
        pairs = list(zip(space.spaces, obs, strict=True))
    else:
        return [obs]
    return [x for sub, of_sub in pairs for x in _taken_apart(sub, of_sub)]


def _leaf(space: gym.Space) -> Observations:
    if isinstance(space, spaces.Box):
        return _numbers(space, math.prod(space.shape))
    if isinstance(space, spaces.MultiBinary):
        return _numbers(space, math.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return _one_hot(space, np.array([int(space.n)]), np.array([int(space.start)]), ())
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space, space.nvec.ravel(), space.start.ravel(), space.shape)
    raise SpaceError(unsupported("observation", space))


def _numbers(space: Any, size: int) -> Observations:
    """As they are, flattened."""
    shape, dtype = space.shape, space.dtype
    size_of("observation", space, size)
    kinds = "biuf" if dtype.kind == "f" else "biu"  # no fractions where they would be cut off
    if dtype.itemsize == 8:  # not always: the call is slow, and made for every update
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if dtype.itemsize == 4:  # of 32 bits where large integers do not come round again
            dtype = np.dtype(np.float32)

    is_row = len(shape) == 1

    def flatten(obs: Any) -> np.ndarray:
        given = obs
        if type(obs) is not np.ndarray:
            try:
                obs = np.asarray(given)
            except ValueError:  # a list of lists of unequal lengths
                obs = np.asarray(None)
        if obs.dtype.kind not in kinds:
            raise ValueError(f"is {short_repr(given)}, but the space says {space.dtype}")
        if obs.shape != shape:
            raise ValueError(f"has shape {obs.shape}, but the space says {shape}")
        return obs if is_row else obs.ravel()

    return Observations(size, dtype, flatten)


def _one_hot(
    space: Any, nvec: np.ndarray, start: np.ndarray, shape: tuple[int, ...]
) -> Observations:
    """A one among zeros for each number."""
    nvec, start = nvec.astype(np.int64), start.astype(np.int64)
    size = size_of("observation", space, int(nvec.sum()))
    offset, last = np.cumsum(nvec) - nvec - start, start + nvec - 1

    def encode(obs: Any) -> np.ndarray:
        numbers = np.asarray(obs)
        integers = numbers.shape == shape and numbers.dtype.kind in "biu"
        flat = numbers.ravel().astype(np.int64) if integers else start - 1
        if (flat < start).any() or (flat > last).any():
            a, b = (x.reshape(shape).tolist() for x in (start, last))
            raise ValueError(f"is {short_repr(obs)}, but the space says {a} to {b}")
        row = np.zeros(size, np.float32)
        row[flat + offset] = 1.0
        return row

    return Observations(size, np.float32, encode)


def image_shape(space: gym.Space) -> tuple[int, ...] | None:
    """The shape of what is a picture, or a stack of frames; None of anything else.

    Bytes from 0 to 255 of [H, W], [H, W, C] or [frames, H, W(, C)], at least eight each way. Of
    three axes the last is of colours unless it is longer than the first.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return None
    shape = space.shape
    full = (space.low == 0).all() and (space.high == 255).all()
    sides = sorted(shape)[-2:]
    return shape if full and len(shape) in (2, 3, 4) and min(sides) >= 8 else None


def describe(space: gym.Space) -> str:
    """One line for a person: discrete or continuous, how many, which bounds."""
    if isinstance(space, spaces.Discrete):
        return f"discrete, {space.n} values from {space.start}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"discrete, {short_repr(space.nvec.tolist())} values"
    if isinstance(space, spaces.MultiBinary):
        return f"binary, {math.prod(space.shape)} of them"
    if isinstance(space, spaces.Box):
        sides = np.concatenate([space.bounded_below.ravel(), space.bounded_above.ravel()])
        bounds = "bounded" if sides.all() else "partly bounded" if sides.any() else "unbounded"
        picture = ", a picture" if image_shape(space) else ""
        return f"continuous, shape {space.shape}, {space.dtype}, {bounds}{picture}"
    if isinstance(space, spaces.Dict):
        return "; ".join(f"{name}: {describe(sub)}" for name, sub in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return "; ".join(describe(sub) for sub in space.spaces)
    return str(space)


def size_of(role: str, space: gym.Space, size: int) -> int:
    """How many numbers: none is nothing to see or to choose."""
    if not 1 <= size <= _MOST:
        raise SpaceError(
            f"{role} space {short_repr(space)} has {size:,} numbers, not 1 to {_MOST:,}: wrap the "
            "environment (gymnasium.wrappers) so that it has"
        )
    return size


def unsupported(role: str, space: gym.Space) -> str:
    """Why a space is refused, and what to do."""
    if not isinstance(space, gym.Space):
        return (
            f"{role} space {short_repr(space)} is none of gymnasium.spaces: correct the environment"
        )
    return (
        f"{role} space {type(space).__name__} is not supported: Box, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict and Tuple of them are; wrap the environment (gymnasium.wrappers) so "
        "that it has one of them"
    )
