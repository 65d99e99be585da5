"""Flax modules: policy.apply(params, obs) -> a distribution; critic.apply(params, obs) -> values.

Observations are [..., d] of any dtype; `collect_episodes` flattens them so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgjax import moments
from pgjax.distributions import Categorical, DiagonalGaussian, SquashedGaussian

Activation = Callable[[jax.Array], jax.Array]
# Near-uniform to begin with: no action is favoured before there is a reason to.
_SMALL = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


def _hidden_layers(x: jax.Array, sizes: Sequence[int], activation: Activation) -> jax.Array:
    for size in sizes:
        x = activation(nn.Dense(size)(x))
    return x


class SoftmaxPolicy(nn.Module):
    """A softmax over the outputs of an MLP, for Discrete actions: the lesson's CartPole policy."""

    num_actions: int
    hidden_sizes: Sequence[int] = (16, 16)
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, obs: jax.Array) -> Categorical:
        """Obs [..., d] -> Categorical with logits [..., num_actions]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation)
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

    @nn.compact
    def __call__(self, obs: jax.Array) -> DiagonalGaussian | SquashedGaussian:
        """Obs [..., d] -> a distribution over raw actions [..., action_dim]; std 1 at first."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation)
        mean = nn.Dense(self.action_dim, kernel_init=_SMALL)(x)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_dim,))
        std = jnp.broadcast_to(jnp.exp(log_std), mean.shape)
        return SquashedGaussian(mean, std) if self.squash else DiagonalGaussian(mean, std)


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

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Obs [..., d] -> [...]."""
        x = _hidden_layers(obs, self.hidden_sizes, self.activation)
        return nn.Dense(1)(x).squeeze(-1)


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
        return self.module(moments.standardize(moments.variables(self, obs.shape[-1]), obs))
