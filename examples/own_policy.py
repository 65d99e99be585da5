"""A torso, a distribution, an estimator and an optimiser of your own.

python examples/own_policy.py
"""

from typing import NamedTuple

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pgjax


class Laplace(NamedTuple):  # four methods are all that a distribution needs
    loc: jax.Array  # [..., k]
    scale: jax.Array

    def sample(self, key):
        return self.loc + self.scale * jax.random.laplace(key, self.loc.shape)

    def log_prob(self, action):
        return (-jnp.abs(action - self.loc) / self.scale - jnp.log(2 * self.scale)).sum(-1)

    def entropy(self):
        return (1 + jnp.log(2 * self.scale)).sum(-1)

    def mode(self):
        return self.loc


class Torso(nn.Module):  # any module from observations [..., d] to features [..., n]
    @nn.compact
    def __call__(self, obs):
        return nn.LayerNorm()(nn.gelu(nn.Dense(32)(obs)))


class LaplacePolicy(nn.Module):  # any module whose output is a distribution
    @nn.compact
    def __call__(self, obs):
        x = Torso()(obs)
        scale = self.param("log_scale", nn.initializers.zeros, (1,))
        return Laplace(nn.Dense(1)(x), jnp.broadcast_to(jnp.exp(scale), (*x.shape[:-1], 1)))


def centred_rewards(rollout, value=None, next_value=None):  # [T, B] from a Rollout
    count = jnp.maximum(rollout.weight.sum(), 1)
    mean = jnp.where(rollout.weight > 0, rollout.reward, 0.0).sum() / count
    return pgjax.advantages.reward_to_go(0.95)(rollout._replace(reward=rollout.reward - mean))


jax.config.update("jax_cpu_enable_async_dispatch", False)  # quicker for so small a policy
optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.lion(optax.cosine_decay_schedule(3e-3, 200))
)
env = gym.make_vec("Pendulum-v1", num_envs=8, vectorization_mode="sync")
for policy in (pgjax.GaussianPolicy(1, hidden_sizes=(), torso=Torso()), LaplacePolicy()):
    estimator = pgjax.advantages.normalized(centred_rewards)
    algorithm = pgjax.reinforce(policy, optimizer, estimator=estimator)
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    for update in range(1, 201):
        state, info = algorithm.update(state, pgjax.collect_episodes(env, algorithm, state, 8))
        if update % 50 == 0:
            name = type(policy).__name__
            print(f"{name}  update {update}  return {info['mean_return']:.1f}")
