"""Policies, critics and torsos as Flax modules.

policy.apply(params, obs) returns a distribution and critic.apply(params, obs) returns values.
Observations are [..., d] of any numeric dtype; `collect_episodes` flattens them to that shape.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgjax.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Joint,
    MultiCategorical,
    SquashedGaussian,
)
from pgjax.errors import ConfigError, check_count
from pgjax.numerics import running_moments

Activation = Callable[[jax.Array], jax.Array]
Initializer = jax.nn.initializers.Initializer
_DEFAULT = nn.initializers.lecun_normal()  # Flax's own
# Near-uniform at first: no action is preferred before there is a reason to.
_SMALL = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


def _hidden_layers(
    x: jax.Array,
    sizes: Sequence[int],
    activation: Activation,
    torso: nn.Module | None = None,
    kernel_init: Initializer = _DEFAULT,
) -> jax.Array:
    """Apply the torso, if there is one, and then the hidden layers."""
    if torso is not None:
        x = torso(x)
    if not isinstance(sizes, Sequence):
        raise ConfigError(f"hidden_sizes must be a tuple such as (16, 16), got {sizes!r}")
    for size in sizes:
        x = activation(nn.Dense(check_count("a hidden size", size), kernel_init=kernel_init)(x))
    return x


class SoftmaxPolicy(nn.Module):
    """An MLP whose outputs are the logits of a softmax.

    Use it for Discrete action spaces. By default it has the layers of the lesson's CartPole policy.

    Args:
      num_actions: number of actions, at least 1.
      hidden_sizes, activation: widths of the hidden layers (() for none); function after each.
      torso: module applied to the observations first, such as ConvTorso; or None.
      kernel_init: initialiser of the hidden layers, such as nn.initializers.orthogonal(2**0.5).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.SoftmaxPolicy(num_actions=2)
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> policy.apply(params, jnp.zeros((3, 4))).logits.shape
      (3, 2)
    """

    num_actions: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None
    kernel_init: Initializer = _DEFAULT

    @nn.compact
    def __call__(self, obs: jax.Array) -> Categorical:
        """Map obs [..., d] to a Categorical with logits [..., num_actions]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso, self.kernel_init)
        return Categorical(
            nn.Dense(check_count("num_actions", self.num_actions), kernel_init=_SMALL)(x)
        )


class GaussianPolicy(nn.Module):
    """A normal distribution with an MLP for its mean and a learned std that ignores the state.

    Use it for Box action spaces. The mean can take either sign and the std any positive value, so
    the policy can push both ways and settle.

    Args:
      action_dim: number of dimensions of an action.
      hidden_sizes, activation: widths of the hidden layers (() for none); function after each.
      squash: whether actions pass through a tanh (see `pgjax.distributions.SquashedGaussian`).
      torso: module applied to the observations first, such as ConvTorso; or None.
      kernel_init: initialiser of the hidden layers, such as nn.initializers.orthogonal(2**0.5).
      init_std: the standard deviation before training, finite and above 0.

    Raises:
      ConfigError: when applied, if init_std is not such a number.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.GaussianPolicy(action_dim=2)
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> policy.apply(params, jnp.zeros(4)).std.tolist()
      [1.0, 1.0]
    """

    action_dim: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    squash: bool = False
    torso: nn.Module | None = None
    kernel_init: Initializer = _DEFAULT
    init_std: float = 1.0

    @nn.compact
    def __call__(self, obs: jax.Array) -> DiagonalGaussian | SquashedGaussian:
        """Map obs [..., d] to a distribution over actions [..., action_dim]."""
        if not 0 < self.init_std < math.inf:
            raise ConfigError(f"init_std must be finite and above 0, got {self.init_std}")
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso, self.kernel_init)
        size = check_count("action_dim", self.action_dim)
        mean = nn.Dense(size, kernel_init=_SMALL)(x)
        log_std = self.param("log_std", nn.initializers.constant(math.log(self.init_std)), (size,))
        std = jnp.broadcast_to(jnp.exp(log_std), mean.shape)
        return SquashedGaussian(mean, std) if self.squash else DiagonalGaussian(mean, std)


class MultiSoftmaxPolicy(nn.Module):
    """An MLP with a softmax for each of several choices.

    Use it for MultiDiscrete action spaces.

    Args:
      nvec: number of options of each choice.
      hidden_sizes, activation: widths of the hidden layers (() for none); function after each.
      torso: module applied to the observations first, such as ConvTorso; or None.
      kernel_init: initialiser of the hidden layers, such as nn.initializers.orthogonal(2**0.5).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.MultiSoftmaxPolicy(nvec=(2, 3))
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> [logits.shape for logits in policy.apply(params, jnp.zeros(4)).logits]
      [(2,), (3,)]
    """

    nvec: Sequence[int]
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None
    kernel_init: Initializer = _DEFAULT

    @nn.compact
    def __call__(self, obs: jax.Array) -> MultiCategorical:
        """Map obs [..., d] to a MultiCategorical with logits [..., n] for each choice."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso, self.kernel_init)
        sizes = [check_count("a number of nvec", n) for n in self.nvec]
        return MultiCategorical(tuple(nn.Dense(n, kernel_init=_SMALL)(x) for n in sizes))


class BernoulliPolicy(nn.Module):
    """An MLP whose outputs are the logits of independent coins.

    Use it for MultiBinary action spaces.

    Args:
      num_coins: number of coins.
      hidden_sizes, activation: widths of the hidden layers (() for none); function after each.
      torso: module applied to the observations first, such as ConvTorso; or None.
      kernel_init: initialiser of the hidden layers, such as nn.initializers.orthogonal(2**0.5).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.BernoulliPolicy(num_coins=3)
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> policy.apply(params, jnp.zeros(4)).logits.shape
      (3,)
    """

    num_coins: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None
    kernel_init: Initializer = _DEFAULT

    @nn.compact
    def __call__(self, obs: jax.Array) -> Bernoulli:
        """Map obs [..., d] to a Bernoulli with logits [..., num_coins]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso, self.kernel_init)
        return Bernoulli(nn.Dense(check_count("num_coins", self.num_coins), kernel_init=_SMALL)(x))


class JointPolicy(nn.Module):
    """Several policies that share hidden layers.

    Use it for Dict and Tuple action spaces.

    Args:
      heads: policies that receive the output of the shared layers. Give them hidden_sizes=() unless
        they need hidden layers of their own.
      hidden_sizes, activation: widths of the shared layers (() for none); function after each.
      torso: module applied to the observations first, such as ConvTorso; or None.
      kernel_init: initialiser of the hidden layers, such as nn.initializers.orthogonal(2**0.5).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.JointPolicy((pgjax.SoftmaxPolicy(2, ()), pgjax.GaussianPolicy(1, ())))
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> policy.apply(params, jnp.zeros(4)).mode().shape
      (2,)
    """

    heads: Sequence[nn.Module]
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None
    kernel_init: Initializer = _DEFAULT

    @nn.compact
    def __call__(self, obs: jax.Array) -> Joint:
        """Map obs [..., d] to the Joint of what the heads return."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso, self.kernel_init)
        return Joint(tuple(head(x) for head in self.heads))


class LessonGaussianPolicy(nn.Module):
    """The Gaussian policy of the lesson, kept unchanged to show its flaws.

    Use it only for comparison; GaussianPolicy has none of these flaws. A final ReLU gives x >= 0,
    the mean is the mean of x over the dimensions of the action, and the std is exp(x). So the mean
    is never negative, the std is never below 1, and both rise together: the policy cannot push both
    ways and cannot settle. Where the ReLU is dead, nothing is learned.

    Args:
      action_dim: number of dimensions of an action.
      hidden_sizes: widths of the hidden layers; () for none.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.LessonGaussianPolicy(action_dim=1)
      >>> params = policy.init(jax.random.key(0), jnp.ones(3))
      >>> bool(policy.apply(params, jnp.ones(3)).std[0] >= 1)
      True
    """

    action_dim: int
    hidden_sizes: Sequence[int] = (16, 16)

    @nn.compact
    def __call__(self, obs: jax.Array) -> DiagonalGaussian:
        """Map obs [..., d] to a DiagonalGaussian over actions [..., action_dim]."""
        x = _hidden_layers(obs, self.hidden_sizes, nn.relu)
        x = nn.relu(nn.Dense(check_count("action_dim", self.action_dim))(x))
        mean = jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)
        return DiagonalGaussian(mean, jnp.exp(x))


class ValueNetwork(nn.Module):
    """An MLP that estimates the value of a state.

    Use it as the critic of an algorithm.

    Args:
      hidden_sizes, activation: widths of the hidden layers (() for none); function after each.
      torso: module applied to the observations first, such as ConvTorso; or None.
      kernel_init: initialiser of the hidden layers, such as nn.initializers.orthogonal(2**0.5).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> critic = pgjax.ValueNetwork()
      >>> params = critic.init(jax.random.key(0), jnp.zeros(4))
      >>> critic.apply(params, jnp.zeros((3, 4))).shape
      (3,)
    """

    hidden_sizes: Sequence[int] = (64, 64)
    activation: Activation = nn.tanh
    torso: nn.Module | None = None
    kernel_init: Initializer = _DEFAULT

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map obs [..., d] to values [...]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso, self.kernel_init)
        return nn.Dense(1)(x).squeeze(-1)


class NormalizedObs(nn.Module):
    """A policy or critic whose observations are normalised by a running mean and std.

    Use it when the numbers of an observation differ much in size. Normalised observations are
    clipped to [-10, 10]. The mean and variance are stored in the collection "obs_moments" of the
    variables: a wrapped policy and a wrapped critic share them. `Algorithm.update` adds its batch
    after the update; nothing else changes them, and in particular evaluation does not.

    Args:
      module: the policy or critic to wrap.
      parts: if observations hold images, their parts as for `MixedTorso`; parts with a shape, such
        as images, pass unchanged.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.NormalizedObs(pgjax.SoftmaxPolicy(num_actions=2))
      >>> params = policy.init(jax.random.key(0), jnp.zeros(4))
      >>> params["obs_moments"]["var"].tolist()
      [1.0, 1.0, 1.0, 1.0]
    """

    module: nn.Module
    parts: Sequence[tuple[int, Sequence[int] | None]] = ()

    @nn.compact
    def __call__(self, obs: jax.Array) -> Any:
        """Apply the module to normalised obs [..., d]."""
        moments = running_moments.variables(self, obs.shape[-1])
        normalized = running_moments.standardize(moments, obs)
        if self.parts:
            row = np.concatenate([np.full(size, shape is None) for size, shape in self.parts])
            is_number = row.reshape((1,) * (obs.ndim - 1) + (-1,))
            normalized = jnp.where(is_number, normalized, obs.astype(normalized.dtype))
        return self.module(normalized)


class MaskedPolicy(nn.Module):
    """A policy whose choices are ruled out by the first numbers of an observation.

    Use it for environments in which some actions are not allowed in some states;
    `pgjax.ActionMask` puts the mask of a Gymnasium environment where it is read. Logits of choices
    whose number is 0 become -inf: they are never sampled, have log-probability -inf, and count
    neither for the entropy nor for the mode. If no choice is allowed, results are NaN.

    Args:
      policy: the policy to wrap, such as SoftmaxPolicy; it reads the whole observation.
      num_choices: length of the mask: the number of actions, or that of all choices of a
        MultiSoftmaxPolicy together.

    Raises:
      ConfigError: when applied, if the policy returns another distribution than a Categorical or a
        MultiCategorical with so many choices.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> policy = pgjax.MaskedPolicy(pgjax.SoftmaxPolicy(num_actions=3), num_choices=3)
      >>> obs = jnp.array([0.0, 1.0, 1.0, 5.0])  # the first action is not allowed
      >>> params = policy.init(jax.random.key(0), obs)
      >>> jax.nn.softmax(policy.apply(params, obs).logits).round(1).tolist()
      [0.0, 0.5, 0.5]
    """

    policy: nn.Module
    num_choices: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> Categorical | MultiCategorical:
        """Map obs [..., d], of which the first num_choices numbers are the mask."""
        size = check_count("num_choices", self.num_choices)
        found: Any = self.policy(obs)
        several = isinstance(found, MultiCategorical)
        logits = found.logits if several else (getattr(found, "logits", jnp.zeros(0)),)
        sizes = [x.shape[-1] for x in logits]
        if not isinstance(found, Categorical | MultiCategorical) or sum(sizes) != size:
            raise ConfigError(
                f"a mask of {size} choices needs a policy with as many, in a Categorical or a "
                f"MultiCategorical, not {type(found).__name__} with {sum(sizes)}"
            )
        allowed = jnp.split(obs[..., :size] != 0, np.cumsum(sizes)[:-1], -1)
        masked = tuple(
            jnp.where(mask, x, -jnp.inf) for mask, x in zip(allowed, logits, strict=True)
        )
        return MultiCategorical(masked) if several else Categorical(masked[0])
