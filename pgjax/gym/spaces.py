"""Encode Gymnasium's observations as the rows of numbers that a policy reads."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import jax
import numpy as np
from gymnasium import spaces

from pgjax.errors import SpaceError, counted, short_repr

Role = Literal["observation", "action"]
_MAX_SIZE = 2**20  # largest observation or action; logs and layers need many times more memory


class Observations(NamedTuple):
    """The encoder from observations of a space to the rows that a policy reads."""

    size: int
    """The length d of a row."""

    dtype: Any
    """The dtype of a row."""

    encode: Callable[[Any], np.ndarray]
    """(observation) -> row [d]; ValueError, with a whole sentence, if it does not fit the space."""

    as_is: tuple[np.dtype, tuple[int, ...]] | None = None
    """The dtype and shape of arrays whose numbers are the row, if there are any."""


def observations(space: gym.Space) -> Observations:
    """Return the encoder from observations of a space to rows [d].

    Use it to find the shape and dtype of what a policy reads, or to encode observations by hand.
    A row equals that of gymnasium.spaces.flatten, except that the parts are in the order of the
    space and in their common dtype. Box and MultiBinary are flattened. Discrete is one-hot encoded,
    and so is each number of a MultiDiscrete. Dict and Tuple concatenate their parts. 64-bit numbers
    become float32 unless JAX uses 64 bits.

    Args:
      space: the observation space of one environment.

    Returns:
      Observations. Its `encode` raises ValueError for an observation that does not fit the space.

    Raises:
      SpaceError: the space is of another kind, or has no or too many numbers.

    Example:
      >>> from gymnasium import spaces
      >>> seen = observations(spaces.Discrete(4, start=1))
      >>> seen.size
      4
      >>> seen.encode(3).tolist()
      [0.0, 0.0, 1.0, 0.0]
    """
    parts = [_leaf(leaf) for leaf in leaves("observation", space)]
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return parts[0]
    dtype = _row_dtype(np.result_type(*(part.dtype for part in parts)))
    size = size_of("observation", space, sum(part.size for part in parts))

    def encode(obs: Any) -> np.ndarray:
        rows = [part.encode(x) for part, x in zip(parts, _take_apart(space, obs), strict=True)]
        return np.concatenate(rows, dtype=dtype, casting="unsafe")

    return Observations(size, dtype, encode)


def leaves(role: Role, space: gym.Space) -> list[gym.Space]:
    """Return the spaces inside a Dict or Tuple, in order; [space] for any other space."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [space]
    subs = list(space.spaces.values()) if isinstance(space, spaces.Dict) else list(space.spaces)
    found = [leaf for sub in subs for leaf in leaves(role, sub)]
    size_of(role, space, len(found))
    return found


def _take_apart(space: gym.Space, obs: Any) -> list[Any]:
    """Return the parts of an observation, in the order of `leaves`."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            keys = list(space.spaces)
            raise _misfit(obs, f"a dict with keys {keys}")
        pairs = [(sub, obs[name]) for name, sub in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            raise _misfit(obs, f"a tuple of {len(space.spaces)}")
        pairs = list(zip(space.spaces, obs, strict=True))
    else:
        return [obs]
    return [x for sub, of_sub in pairs for x in _take_apart(sub, of_sub)]


def _leaf(space: gym.Space) -> Observations:
    if isinstance(space, spaces.Box):
        return _flat(space, math.prod(space.shape))
    if isinstance(space, spaces.MultiBinary):
        return _flat(space, math.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return _one_hot(space, np.array([int(space.n)]), np.array([int(space.start)]), ())
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space, space.nvec.ravel(), space.start.ravel(), space.shape)
    raise SpaceError(unsupported("observation", space))


def _flat(space: Any, size: int) -> Observations:
    """Return the encoding that flattens observations."""
    shape, dtype = space.shape, space.dtype
    size_of("observation", space, size)
    kinds = "biuf" if dtype.kind == "f" else "biu"  # floats would be truncated to integers
    declared, dtype = dtype, _row_dtype(dtype)
    is_row, binary = len(shape) == 1, isinstance(space, spaces.MultiBinary)
    limited = declared.kind != "f"  # too large a float becomes infinite, which is found later
    low, high = _limits(declared, binary) if limited else (None, None)

    def flatten(obs: Any) -> np.ndarray:
        given = obs
        if type(obs) is not np.ndarray:
            obs = _to_array(given)
        if obs.dtype.kind not in kinds:
            raise _misfit(given, f"dtype {space.dtype}")
        if obs.shape != shape:
            raise _wrong_shape(obs, shape)
        if limited and (binary or obs.dtype != declared) and ((obs < low) | (obs > high)).any():
            raise _misfit(given, f"{low} to {high}")  # a cast would wrap around
        return obs if is_row else obs.ravel()

    return Observations(size, dtype, flatten, None if binary else (declared, shape))


def _row_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of rows of numbers: float32 in place of 64 bits, unless JAX uses these."""
    if dtype.itemsize < 8:  # the call below is slow, and this runs at every update
        return dtype
    wide = jax.dtypes.canonicalize_dtype(dtype).itemsize == 8
    return dtype if wide else np.dtype(np.float32)  # integers would wrap around in 32 bits


def _one_hot(
    space: Any, nvec: np.ndarray, start: np.ndarray, shape: tuple[int, ...]
) -> Observations:
    """Return the one-hot encoding of each integer."""
    nvec, start = nvec.astype(np.int64), start.astype(np.int64)
    size = size_of("observation", space, int(nvec.sum()))
    offset, last = np.cumsum(nvec) - nvec - start, start + nvec - 1

    def encode(obs: Any) -> np.ndarray:
        numbers = _to_array(obs)
        if numbers.dtype.kind not in "biu":
            raise _misfit(obs, "integers" if shape else "an integer")
        if numbers.shape != shape:
            raise _wrong_shape(numbers, shape)
        flat = numbers.ravel().astype(np.int64)
        if (flat < start).any() or (flat > last).any():
            a, b = (x.reshape(shape).tolist() for x in (start, last))
            raise _misfit(obs, f"{a} to {b}")
        row = np.zeros(size, np.float32)
        row[flat + offset] = 1.0
        return row

    return Observations(size, np.float32, encode)


def _to_array(obs: Any) -> np.ndarray:
    """Convert an observation to an array, which has dtype object if that is impossible."""
    try:
        return np.asarray(obs)
    except (TypeError, ValueError):  # e.g. a list of lists of unequal lengths
        return np.asarray(None)


def _limits(dtype: np.dtype, binary: bool) -> tuple[int, int]:
    """Return the lowest and the highest number that an integer dtype can hold."""
    if binary or dtype.kind == "b":
        return 0, 1
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _misfit(obs: Any, needed: str) -> ValueError:
    given = f"{short_repr(obs)} ({type(obs).__name__})"
    return ValueError(f"the observation is {given}, but the space needs {needed}")


def _wrong_shape(obs: np.ndarray, shape: tuple[int, ...]) -> ValueError:
    return ValueError(f"the observation has shape {obs.shape}, but the space needs shape {shape}")


def image_shape(space: gym.Space) -> tuple[int, ...] | None:
    """Return the shape of a space of images or stacks of frames; None for any other space.

    Use it to decide whether a policy needs a convolutional torso (`ConvTorso`). Images are a Box of
    uint8 from 0 to 255 with shape [H, W], [H, W, C] or [frames, H, W(, C)], whose two longest axes
    are at least 8. `ConvTorso` takes the last of three axes as colours unless it is longer than the
    first.

    Args:
      space: the observation space of one environment.

    Returns:
      The shape of one observation, or None.

    Example:
      >>> import numpy as np
      >>> from gymnasium import spaces
      >>> image_shape(spaces.Box(0, 255, (96, 96, 3), np.uint8))
      (96, 96, 3)
      >>> image_shape(spaces.Discrete(3)) is None
      True
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return None
    shape = space.shape
    full = (space.low == 0).all() and (space.high == 255).all()
    sides = sorted(shape)[-2:]
    return shape if full and len(shape) in (2, 3, 4) and min(sides) >= 8 else None


def image_parts(space: gym.Space) -> list[tuple[int, tuple[int, ...] | None]]:
    """Return the parts of a row, in order: (numbers, shape of an image or None).

    Use it to decide which numbers a convolutional torso reads (`MixedTorso`). Neighbouring parts
    that are not images are one part.

    Args:
      space: the observation space of one environment.

    Returns:
      One or more parts, whose numbers add up to those of `observations(space)`.

    Example:
      >>> import numpy as np
      >>> from gymnasium import spaces
      >>> camera = spaces.Box(0, 255, (8, 8, 3), np.uint8)
      >>> image_parts(spaces.Dict(a=spaces.Discrete(3), b=spaces.Discrete(2), camera=camera))
      [(5, None), (192, (8, 8, 3))]
    """
    parts: list[tuple[int, tuple[int, ...] | None]] = []
    for leaf in leaves("observation", space):
        size, shape = _leaf(leaf).size, image_shape(leaf)
        if shape is None and parts and parts[-1][1] is None:
            size += parts.pop()[0]
        parts.append((size, shape))
    return parts


def describe_inputs(space: gym.Space) -> str:
    """Say what a network does with the observations of a space.

    Use it to print what `pgjax.train` makes of an environment.

    Args:
      space: the observation space of one environment.

    Returns:
      One line of text.

    Example:
      >>> import numpy as np
      >>> from gymnasium import spaces
      >>> camera = spaces.Box(0, 255, (8, 8, 3), np.uint8)
      >>> describe_inputs(spaces.Dict(camera=camera, speed=spaces.Box(-1.0, 1.0, (2,))))
      'an image (8, 8, 3) through convolutions, 2 numbers'
    """
    return ", ".join(
        counted(size, "number") if shape is None else f"an image {shape} through convolutions"
        for size, shape in image_parts(space)
    )


def describe(space: gym.Space) -> str:
    """Describe a space in one line: discrete or continuous, how many values, which bounds.

    Use it to print the spaces of an environment.

    Args:
      space: an observation or action space of one environment.

    Returns:
      One line of text.

    Example:
      >>> from gymnasium import spaces
      >>> describe(spaces.Discrete(3))
      'discrete, 3 values from 0'
      >>> describe(spaces.Box(-1.0, 1.0, (2,)))
      'continuous, shape (2,), float32, bounded'
    """
    if isinstance(space, spaces.Discrete):
        return f"discrete, {counted(int(space.n), 'value')} from {space.start}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"discrete, {short_repr(space.nvec.tolist())} values"
    if isinstance(space, spaces.MultiBinary):
        return f"binary, {counted(math.prod(space.shape), 'value')}"
    if isinstance(space, spaces.Box):
        sides = np.concatenate([space.bounded_below.ravel(), space.bounded_above.ravel()])
        bounds = "bounded" if sides.all() else "partly bounded" if sides.any() else "unbounded"
        image = ", an image" if image_shape(space) else ""
        return f"continuous, shape {space.shape}, {space.dtype}, {bounds}{image}"
    if isinstance(space, spaces.Dict):
        return "; ".join(f"{name}: {describe(sub)}" for name, sub in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return "; ".join(describe(sub) for sub in space.spaces)
    return str(space)


def size_of(role: Role, space: gym.Space, size: int) -> int:
    """Return a size; raise SpaceError if it is 0 or too large to compute with."""
    if not 1 <= size <= _MAX_SIZE:
        raise SpaceError(
            f"{role} space {short_repr(space)} has {size:,} numbers, not 1 to {_MAX_SIZE:,}: wrap "
            "the environment (gymnasium.wrappers) to change that"
        )
    return size


def unsupported(role: Role, space: gym.Space) -> str:
    """Return why a space is not supported, and what to do."""
    if not isinstance(space, gym.Space):
        return (
            f"{role} space {short_repr(space)} is not one of gymnasium.spaces: correct the "
            "environment"
        )
    return (
        f"{role} space {type(space).__name__} is not supported (Box, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict and Tuple of them are): wrap the environment (gymnasium.wrappers) "
        "so that it has one of them"
    )
