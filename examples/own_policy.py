"""Use your own torso, distribution, estimator and optimiser.

    python examples/own_policy.py

Three policies learn Pendulum-v1 for 200 updates: a Gaussian policy with a custom torso, a policy
with a Laplace distribution, and the same in Flax NNX.
"""

from typing import NamedTuple

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import pgjax


class Laplace(NamedTuple):
    """A distribution over actions [..., k]. It needs these four methods and nothing else."""

    loc: jax.Array  # [..., k]
    scale: jax.Array  # [..., k], positive

    def sample(self, key: jax.Array) -> jax.Array:
        return self.loc + self.scale * jax.random.laplace(key, self.loc.shape)

    def log_prob(self, action: jax.Array) -> jax.Array:
        return (-jnp.abs(action - self.loc) / self.scale - jnp.log(2 * self.scale)).sum(-1)

    def entropy(self) -> jax.Array:
        return (1 + jnp.log(2 * self.scale)).sum(-1)

    def mode(self) -> jax.Array:
        return self.loc


class Torso(nn.Module):
    """A torso is any module that maps observations [..., d] to features [..., n]."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return nn.LayerNorm()(nn.gelu(nn.Dense(32)(obs)))


class LaplacePolicy(nn.Module):
    """A policy is any module that maps observations [..., d] to a distribution."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> Laplace:
        x = Torso()(obs)
        scale = self.param("log_scale", nn.initializers.zeros, (1,))
        return Laplace(nn.Dense(1)(x), jnp.broadcast_to(jnp.exp(scale), (*x.shape[:-1], 1)))


class NNXPolicy(nnx.Module):
    """A policy in Flax NNX: pgjax.from_nnx makes it one of pure functions."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(3, 32, rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.loc = nnx.Linear(32, 1, rngs=rngs)
        self.log_scale = nnx.Param(jnp.zeros(1))

    def __call__(self, obs: jax.Array) -> Laplace:
        loc = self.loc(self.norm(nnx.gelu(self.hidden(obs))))
        return Laplace(loc, jnp.broadcast_to(jnp.exp(self.log_scale[...]), loc.shape))


def centred_rewards(
    rollout: pgjax.Rollout, value: jax.Array | None = None, next_value: jax.Array | None = None
) -> jax.Array:
    """An estimator maps a rollout to advantages [T, B]. This one subtracts the mean reward."""
    real = rollout.weight > 0  # the other steps are padding
    mean = jnp.where(real, rollout.reward, 0.0).sum() / jnp.maximum(rollout.weight.sum(), 1)
    return pgjax.advantages.reward_to_go(0.95)(rollout._replace(reward=rollout.reward - mean))


def main() -> None:
    pgjax.enable_compile_cache()  # later runs start faster
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # faster for small policies
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.lion(optax.cosine_decay_schedule(3e-3, 200))
    )
    env = gym.make_vec("Pendulum-v1", num_envs=8, vectorization_mode="sync")
    policies = {
        "Gaussian": pgjax.GaussianPolicy(1, hidden_sizes=(), torso=Torso()),
        "Laplace": LaplacePolicy(),
        "Laplace in NNX": pgjax.from_nnx(NNXPolicy),
    }
    for name, policy in policies.items():
        estimator = pgjax.advantages.normalized(centred_rewards)
        algorithm = pgjax.reinforce(policy, optimizer, estimator=estimator)
        state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
        for update in range(1, 201):
            state, info = algorithm.update(state, pgjax.collect_episodes(env, algorithm, state, 8))
            if update % 50 == 0:
                print(f"{name}  update {update}  return {info['mean_return']:.1f}")
    env.close()


if __name__ == "__main__":
    main()
