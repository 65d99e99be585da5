"""Flax modules: policy.apply(params, obs) -> a distribution; critic.apply(params, obs) -> values.

Observations are [..., d] of any dtype; `collect_episodes` flattens them so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgjax.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Joint,
    MultiCategorical,
    SquashedGaussian,
)
from pgjax.numerics import running_moments

Activation = Callable[[jax.Array], jax.Array]
# Near-uniform to begin with: no action is favoured before there is a reason to.
_SMALL = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


def _hidden_layers(
    x: jax.Array, sizes: Sequence[int], activation: Activation, torso: nn.Module | None = None
) -> jax.Array:
    """Behind the torso, if there is one."""
    if torso is not None:
        x = torso(x)
    for size in sizes:
        x = activation(nn.Dense(size)(x))
    return x


class SoftmaxPolicy(nn.Module):
    """A softmax over the outputs of an MLP, for Discrete actions: the lesson's CartPole policy."""

    num_actions: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> Categorical:
        """Obs [..., d] -> Categorical with logits [..., num_actions]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso)
        return Categorical(nn.Dense(self.num_actions, kernel_init=_SMALL)(x))


class GaussianPolicy(nn.Module):
    """A normal whose mean is an MLP's output and whose std is learned but independent of the state.

    The mean takes any sign and the std any positive value, so that it can push both ways and
    settle. With `squash` the action is the tanh of it (see SquashedGaussian).
    """

    action_dim: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    squash: bool = False
    torso: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> DiagonalGaussian | SquashedGaussian:
        """Obs [..., d] -> a distribution over raw actions [..., action_dim]; std 1 at first."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso)
        mean = nn.Dense(self.action_dim, kernel_init=_SMALL)(x)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_dim,))
        std = jnp.broadcast_to(jnp.exp(log_std), mean.shape)
        return SquashedGaussian(mean, std) if self.squash else DiagonalGaussian(mean, std)


class MultiSoftmaxPolicy(nn.Module):
    """A softmax for each of several choices, for MultiDiscrete actions."""

    nvec: Sequence[int]
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> MultiCategorical:
        """Obs [..., d] -> MultiCategorical with as many logits [..., n] as there are choices."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso)
        return MultiCategorical(tuple(nn.Dense(n, kernel_init=_SMALL)(x) for n in self.nvec))


class BernoulliPolicy(nn.Module):
    """Independent coins, for MultiBinary actions."""

    num_coins: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> Bernoulli:
        """Obs [..., d] -> Bernoulli with logits [..., num_coins]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso)
        return Bernoulli(nn.Dense(self.num_coins, kernel_init=_SMALL)(x))


class JointPolicy(nn.Module):
    """Several policies behind the same layers, for Dict and Tuple actions."""

    heads: Sequence[nn.Module]  # with hidden_sizes=(), unless they are to have layers of their own
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu
    torso: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> Joint:
        """Obs [..., d] -> Joint of what the heads give."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso)
        return Joint(tuple(head(x) for head in self.heads))


class LessonGaussianPolicy(nn.Module):
    """The lesson's own Gaussian, kept as it is so that its flaws can be seen.

    A final ReLU gives x >= 0; the mean is the mean of x over the action's dimensions and the std
    is exp(x). So the mean is never negative and the std never below 1, and they rise together:
    it cannot push both ways and cannot settle, and where the ReLU is dead nothing is learned.
    """

    action_dim: int
    hidden_sizes: Sequence[int] = (16, 16)

    @nn.compact
    def __call__(self, obs: jax.Array) -> DiagonalGaussian:
        """Obs [..., d] -> DiagonalGaussian over [..., action_dim]."""
        x = _hidden_layers(obs, self.hidden_sizes, nn.relu)
        x = nn.relu(nn.Dense(self.action_dim)(x))
        mean = jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)
        return DiagonalGaussian(mean, jnp.exp(x))


class ValueNetwork(nn.Module):
    """An MLP that estimates the value of a state: the learned critic."""

    hidden_sizes: Sequence[int] = (64, 64)
    activation: Activation = nn.tanh
    torso: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Obs [..., d] -> [...]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation, self.torso)
        return nn.Dense(1)(x).squeeze(-1)


class ConvTorso(nn.Module):
    """Two convolutions for pictures, from rows of bytes; one of 3 x 3 for less than 36 pixels.

    Source: Mnih et al. 2013, Playing Atari with deep reinforcement learning, section 4.1.
    """

    # [H, W], [frames, H, W, C], [H, W, C], or [frames, H, W] where W is greater than the frames
    shape: Sequence[int]

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Obs [..., prod(shape)], from 0 to 255 -> features [..., n]."""
        x = obs.reshape(*obs.shape[:-1], *self.shape).astype(jnp.float32) / 255.0
        if len(self.shape) == 2:
            x = x[..., None]
        elif len(self.shape) == 3 and self.shape[-1] > self.shape[0]:  # frames, not colours
            x = jnp.moveaxis(x, -3, -1)
        elif len(self.shape) == 4:
            x = jnp.moveaxis(x, -4, -2)
            x = x.reshape(*x.shape[:-2], -1)
        if min(x.shape[-3:-1]) < 36:
            x = nn.relu(nn.Conv(16, (3, 3))(x))
        else:
            x = nn.relu(nn.Conv(16, (8, 8), strides=4, padding="VALID")(x))
            x = nn.relu(nn.Conv(32, (4, 4), strides=2, padding="VALID")(x))
        return x.reshape(*x.shape[:-3], -1)


class NormalizedObs(nn.Module):
    """A policy or critic that sees observations by their running mean and standard deviation.

    Cut off at ten deviations. The moments are the collection "obs_moments" of its variables: a
    policy and a critic that are both wrapped share them, Algorithm.update adds each batch once it
    is done, and nothing else changes them, evaluation least of all.
    """

    module: nn.Module

    @nn.compact
    def __call__(self, obs: jax.Array) -> Any:
        """Obs [..., d] -> what the module gives."""
        return self.module(
            running_moments.standardize(running_moments.variables(self, obs.shape[-1]), obs)
        )
