"""Action spaces: the policy for one, and how its raw actions become what an environment receives.

A Dict or Tuple is its parts side by side: a raw action is then one row of numbers, whole ones for
what is discrete, as `distributions.Joint` has them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pgjax.errors import SpaceError
from pgjax.gym.spaces import leaves, size_of, unsupported
from pgjax.policies import (
    Activation,
    BernoulliPolicy,
    GaussianPolicy,
    JointPolicy,
    MultiSoftmaxPolicy,
    SoftmaxPolicy,
)

_Layers = dict[str, Any]  # hidden_sizes, activation and torso of a policy


class Actions(NamedTuple):
    """How the raw actions of a policy become what an environment of a space receives."""

    discrete: bool  # whole numbers, all of them
    shape: tuple[int, ...]  # of one raw action
    choices: tuple[
        int | None, ...
    ]  # how many values each of its numbers takes; None for any number
    send: Callable[[np.ndarray], Any]  # raw [n, *shape] -> n actions, each contained in the space
    policy: Callable[[_Layers], nn.Module]


def actions(space: gym.Space, squash: bool = False) -> Actions:
    """What is sent is always contained in the space, in its shape and dtype.

    Discrete and MultiDiscrete add their start; Box clips to its bounds per dimension, or with
    `squash` scales tanh to them, and rounds where it is of integers; MultiBinary is 0 and 1. Dict
    and Tuple are made of these.

    Raises:
      SpaceError: for any other space, or a bound that tanh cannot be scaled to.
    """
    parts = [_leaf(leaf, squash) for leaf in leaves("action", space)]
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return parts[0]
    widths = [math.prod(part.shape) for part in parts]
    ends = np.cumsum(widths)
    discrete = all(part.discrete for part in parts)

    def send(raw: np.ndarray) -> list[Any]:
        sent = []
        for part, width, end in zip(parts, widths, ends, strict=True):
            of_part = raw[:, end - width : end].reshape(-1, *part.shape)
            sent.append(part.send(_whole(of_part) if part.discrete else of_part))
        return [_rebuild(space, iter(each)) for each in zip(*sent, strict=True)]

    def policy(layers: _Layers) -> nn.Module:
        heads = tuple(part.policy({"hidden_sizes": ()}) for part in parts)
        return JointPolicy(heads, **layers)

    choices = tuple(n for part in parts for n in part.choices)
    return Actions(discrete, (int(ends[-1]),), choices, send, policy)


def policy_for(
    space: gym.Space,
    hidden_sizes: Sequence[int] = (16, 16),
    activation: Activation = nn.relu,
    squash: bool = False,
    torso: nn.Module | None = None,
) -> nn.Module:
    """The policy for an action space.

    A softmax for Discrete, several for MultiDiscrete, coins for MultiBinary, a Gaussian for Box,
    and for Dict and Tuple all of theirs behind the same hidden layers.

    Raises:
      SpaceError: for any other space, or where there is nothing to choose.
    """
    layers = {"hidden_sizes": hidden_sizes, "activation": activation, "torso": torso}
    return actions(space, squash).policy(layers)


def _leaf(space: gym.Space, squash: bool) -> Actions:
    if isinstance(space, spaces.Discrete):
        start, n = int(space.start), size_of("action", space, int(space.n))

        def send_one(raw: np.ndarray) -> list[int]:
            chosen = raw.tolist()
            if min(chosen) < 0 or max(chosen) >= n:
                raise _no_choice(raw, n)
            return [action + start for action in chosen]

        return Actions(True, (), (n,), send_one, lambda layers: SoftmaxPolicy(n, **layers))
    if isinstance(space, spaces.MultiDiscrete):
        nvec = tuple(space.nvec.ravel().tolist())
        size = size_of("action", space, len(nvec))
        size_of("action", space, sum(nvec))
        send = _send_integers(space, space.start, np.array(nvec))
        return Actions(True, (size,), nvec, send, lambda layers: MultiSoftmaxPolicy(nvec, **layers))
    if isinstance(space, spaces.MultiBinary):
        size = size_of("action", space, math.prod(space.shape))
        send, twos = _send_integers(space, 0, np.array(2)), (2,) * size
        return Actions(True, (size,), twos, send, lambda layers: BernoulliPolicy(size, **layers))
    if isinstance(space, spaces.Box):
        size = size_of("action", space, math.prod(space.shape))
        send = _send_box(space, squash)

        def gaussian(layers: _Layers) -> nn.Module:
            return GaussianPolicy(size, squash=squash, **layers)

        return Actions(False, (size,), (None,) * size, send, gaussian)
    raise SpaceError(unsupported("action", space))


def _whole(raw: np.ndarray) -> np.ndarray:
    whole = raw.astype(np.int32)
    if (whole != raw).any():
        raise SpaceError(
            f"the policy chose {raw[whole != raw][0]}, where the action space has whole numbers "
            "(see pgjax.gym.actions.policy_for)"
        )
    return whole


def _no_choice(raw: np.ndarray, most: Any) -> SpaceError:
    wrong = raw[(raw < 0) | (raw >= most)][0]
    return SpaceError(
        f"the policy chose {wrong}, of 0 to {np.max(most) - 1}: it has other choices than the "
        "action space (see pgjax.gym.actions.policy_for)"
    )


def _send_integers(space: Any, start: Any, most: np.ndarray) -> Callable[[np.ndarray], Any]:
    def send(raw: np.ndarray) -> Any:
        if (raw < 0).any() or (raw >= most).any():
            raise _no_choice(raw, most)
        sent = (raw.reshape(-1, *space.shape) + start).astype(space.dtype)
        return sent if space.shape else [np.asarray(x) for x in sent]

    return send


def _send_box(space: spaces.Box, squash: bool) -> Callable[[np.ndarray], Any]:
    dtype, shape = space.dtype, space.shape
    low, high = space.low.ravel(), space.high.ravel()
    whole = dtype.kind in "biu"
    working = np.float64 if whole else dtype
    if squash and not space.is_bounded():
        raise SpaceError(
            f"tanh needs finite bounds, and the action space is {space}: do not squash"
        )

    def send(raw: np.ndarray) -> Any:
        raw = raw.astype(working, copy=False)
        if squash:
            share = (np.tanh(raw) + 1) / 2
            raw = (1 - share) * low + share * high
        if whole:
            # The bounds themselves, and not what they round to as floats.
            raw = np.rint(raw)
            inside = np.where((raw > low) & (raw < high), raw, 0.0).astype(dtype)
            sent = np.where(raw <= low, low, np.where(raw >= high, high, inside))
        else:  # last, and after the cast: float32(0.1) lies above a float64 bound of 0.1
            sent = np.minimum(np.maximum(raw, low), high)
        sent = sent.astype(dtype, copy=False).reshape(-1, *shape)
        # An element of a 1-D array is a scalar, which is not contained in a Box of shape ().
        return sent if shape else [np.asarray(x) for x in sent]

    return send


def _rebuild(space: gym.Space, parts: Iterator[Any]) -> Any:
    """The parts of a Dict or Tuple in their places."""
    if isinstance(space, spaces.Dict):
        return {name: _rebuild(sub, parts) for name, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_rebuild(sub, parts) for sub in space.spaces)
    return next(parts)
