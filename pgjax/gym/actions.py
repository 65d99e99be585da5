"""Convert the raw actions of a policy to what an environment receives, for every action space.

A raw action of a Dict or Tuple is one vector that concatenates the actions of all parts, as in
`distributions.Joint`; those of discrete parts are whole numbers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from pgjax.errors import SpaceError
from pgjax.gym.spaces import leaves, size_of, unsupported
from pgjax.numerics.bounds import into_bounds
from pgjax.policies import (
    Activation,
    BernoulliPolicy,
    GaussianPolicy,
    Initializer,
    JointPolicy,
    MultiSoftmaxPolicy,
    SoftmaxPolicy,
)

__all__ = ["Actions", "actions", "policy_for"]

_Layers = dict[str, Any]  # hidden_sizes, activation and torso of a policy


class Actions(NamedTuple):
    """The raw actions that a space requires, and the mapping to its own actions.

    Use it to choose a policy by hand and to send its actions; `actions` returns it.

    Example:
      >>> import gymnasium as gym
      >>> import pgjax
      >>> needed = pgjax.actions.actions(gym.spaces.MultiDiscrete([3, 4]))
      >>> needed.discrete, needed.shape, needed.choices
      (True, (2,), (3, 4))
    """

    discrete: bool
    """Whether all numbers of a raw action are integers."""

    shape: tuple[int, ...]
    """The shape of one raw action."""

    choices: tuple[int | None, ...]
    """How many values each number of a raw action may take; None if any."""

    send: Callable[[np.ndarray], Any]
    """(raw actions [n, *shape]) -> n actions, each contained in the space."""

    policy: Callable[[_Layers, float], nn.Module]
    """(hidden_sizes, activation and torso, by name; init_std) -> a policy for the space."""

    send_batch: Callable[[np.ndarray], Any]
    """(raw actions [n, *shape]) -> the batch of n actions that a VectorEnv of n receives."""


def actions(space: gym.Space, squash: bool = False) -> Actions:
    """Return the mapping from raw actions to actions of a space.

    Use it to step an environment by hand with a policy's actions. Every action sent is contained in
    the space and has its shape and dtype. Discrete and MultiDiscrete add their start. MultiBinary
    takes 0 and 1. Box clips to the bounds of each dimension, and rounds if its dtype is an integer.
    Dict and Tuple may contain all of these.

    Args:
      space: the action space of one environment.
      squash: scale tanh of the raw action to the bounds of a Box instead of clipping it.

    Returns:
      Actions. Its `send` raises SpaceError for a choice that the space does not have.

    Raises:
      SpaceError: the space is of another kind, or has no or too many numbers; or `squash` is set
        and a Box has infinite bounds.

    Example:
      >>> import numpy as np
      >>> from gymnasium import spaces
      >>> box = actions(spaces.Box(-1.0, 2.0, (2,)))
      >>> box.discrete, box.shape
      (False, (2,))
      >>> box.send(np.array([[0.5, 9.0]])).tolist()
      [[0.5, 2.0]]
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
            sent.append(part.send(_to_integers(of_part) if part.discrete else of_part))
        return [_rebuild(space, iter(each)) for each in zip(*sent, strict=True)]

    def policy(layers: _Layers, init_std: float) -> nn.Module:
        heads = tuple(part.policy({"hidden_sizes": ()}, init_std) for part in parts)
        return JointPolicy(heads, **layers)

    def send_batch(raw: np.ndarray) -> Any:
        batch: Any = create_empty_array(space, len(raw))
        return concatenate(space, send(raw), batch)

    choices = tuple(n for part in parts for n in part.choices)
    return Actions(discrete, (int(ends[-1]),), choices, send, policy, send_batch)


def policy_for(
    space: gym.Space,
    hidden_sizes: Sequence[int] = (16, 16),
    activation: Activation = nn.relu,
    squash: bool = False,
    torso: nn.Module | None = None,
    kernel_init: Initializer | None = None,
    init_std: float = 1.0,
) -> nn.Module:
    """Return the policy for an action space.

    Use it to choose a policy by space: SoftmaxPolicy for Discrete, MultiSoftmaxPolicy for
    MultiDiscrete, BernoulliPolicy for MultiBinary, GaussianPolicy for Box, and JointPolicy for Dict
    and Tuple, whose parts share the hidden layers.

    Args:
      space: the action space of one environment.
      hidden_sizes: width of each hidden layer.
      activation: applied after each hidden layer.
      squash: pass a Gaussian through tanh (for a Box). Collect with the same value.
      torso: a module applied to observations before the hidden layers, e.g. ConvTorso for images.
      kernel_init: initialiser of the hidden layers; by default the policy's own.
      init_std: the standard deviation of a Gaussian before training.

    Returns:
      A Flax module: policy.apply(params, obs [..., d]) -> a distribution.

    Raises:
      SpaceError: the space is of another kind, or has no or too many numbers.

    Example:
      >>> from gymnasium import spaces
      >>> policy = policy_for(spaces.Discrete(3), hidden_sizes=(8,))
      >>> type(policy).__name__, policy.num_actions
      ('SoftmaxPolicy', 3)
    """
    layers: _Layers = {"hidden_sizes": hidden_sizes, "activation": activation, "torso": torso}
    if kernel_init is not None:
        layers["kernel_init"] = kernel_init
    return actions(space, squash).policy(layers, init_std)


def _leaf(space: gym.Space, squash: bool) -> Actions:
    if isinstance(space, spaces.Discrete):
        start, n = int(space.start), size_of("action", space, int(space.n))

        def send_one(raw: np.ndarray) -> list[int]:
            chosen = raw.tolist()
            if min(chosen) < 0 or max(chosen) >= n:
                raise _bad_choice(raw, n)
            return [action + start for action in chosen]

        def send_all(raw: np.ndarray) -> np.ndarray:
            # As unsigned integers, negative ones are the largest.
            if raw.view(f"u{raw.itemsize}").max() >= n:
                raise _bad_choice(raw, n)
            sent = raw.astype(space.dtype)
            return sent + start if start else sent

        def softmax(layers: _Layers, init_std: float) -> nn.Module:
            return SoftmaxPolicy(n, **layers)

        return Actions(True, (), (n,), send_one, softmax, send_all)
    if isinstance(space, spaces.MultiDiscrete):
        nvec = tuple(space.nvec.ravel().tolist())
        size = size_of("action", space, len(nvec))
        size_of("action", space, sum(nvec))
        send = _send_integers(space, space.start, np.array(nvec))

        def multi_softmax(layers: _Layers, init_std: float) -> nn.Module:
            return MultiSoftmaxPolicy(nvec, **layers)

        return Actions(True, (size,), nvec, send, multi_softmax, _as_array(send))
    if isinstance(space, spaces.MultiBinary):
        size = size_of("action", space, math.prod(space.shape))
        send, twos = _send_integers(space, 0, np.array(2)), (2,) * size

        def bernoulli(layers: _Layers, init_std: float) -> nn.Module:
            return BernoulliPolicy(size, **layers)

        return Actions(True, (size,), twos, send, bernoulli, _as_array(send))
    if isinstance(space, spaces.Box):
        size = size_of("action", space, math.prod(space.shape))
        send = _send_box(space, squash)

        def gaussian(layers: _Layers, init_std: float) -> nn.Module:
            return GaussianPolicy(size, squash=squash, init_std=init_std, **layers)

        return Actions(False, (size,), (None,) * size, send, gaussian, _as_array(send))
    raise SpaceError(unsupported("action", space))


def _as_array(send: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda raw: np.asarray(send(raw))


def _to_integers(raw: np.ndarray) -> np.ndarray:
    integers = raw.astype(np.int32)
    if (integers != raw).any():
        raise SpaceError(
            f"the policy chose {raw[integers != raw][0]}, but this part of the action space takes "
            "whole numbers: make the policy with pgjax.actions.policy_for"
        )
    return integers


def _bad_choice(raw: np.ndarray, sizes: Any) -> SpaceError:
    wrong = raw[(raw < 0) | (raw >= sizes)][0]
    return SpaceError(
        f"the policy chose {wrong}, but the action space has choices 0 to {np.max(sizes) - 1}: "
        "make the policy with pgjax.actions.policy_for"
    )


def _send_integers(space: Any, start: Any, sizes: np.ndarray) -> Callable[[np.ndarray], Any]:
    def send(raw: np.ndarray) -> Any:
        if (raw < 0).any() or (raw >= sizes).any():
            raise _bad_choice(raw, sizes)
        sent = (raw.reshape(-1, *space.shape) + start).astype(space.dtype)
        return sent if space.shape else [np.asarray(x) for x in sent]

    return send


def _send_box(space: spaces.Box, squash: bool) -> Callable[[np.ndarray], Any]:
    shape = space.shape
    low, high = space.low.ravel(), space.high.ravel()
    if squash and not space.is_bounded():
        raise SpaceError(
            f"tanh needs finite bounds, but the action space is {space}: do not squash"
        )

    def send(raw: np.ndarray) -> Any:
        sent = into_bounds(np, raw, low, high, squash=squash).reshape(-1, *shape)
        # An element of a 1-D array is a scalar, which is not contained in a Box of shape ().
        return sent if shape else [np.asarray(x) for x in sent]

    return send


def _rebuild(space: gym.Space, parts: Iterator[Any]) -> Any:
    """Assemble an action of a Dict or Tuple from its parts."""
    if isinstance(space, spaces.Dict):
        return {name: _rebuild(sub, parts) for name, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_rebuild(sub, parts) for sub in space.spaces)
    return next(parts)
