"""A functional environment of one's own, trained in one compiled program.

A point on a line is pushed left or right and is to be brought to rest at 0.

    python examples/own_environment.py
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pgjax
from pgjax import envs
from pgjax.advantages import gae, normalized


def point() -> envs.Env:
    """State and observation are (position, speed); the reward is less the distance and effort."""

    def reset(key):
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return state, state

    def step(key, state, action):  # a key of its own for each step, for those who draw
        position, speed = state
        speed = speed + 0.1 * action[0]
        position = position + 0.1 * speed
        state = jnp.stack([position, speed])
        reward = -(position**2) - 0.01 * action[0] ** 2
        return state, state, reward, jnp.abs(position) > 3.0, jnp.zeros((), bool)

    observations = envs.Box(-np.inf, np.inf, (2,))
    return envs.Env(reset, step, observations, envs.Box(-1.0, 1.0, (1,)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    updates = parser.parse_args().updates

    env = envs.time_limit(point(), 100)
    algorithm = pgjax.reinforce(
        pgjax.GaussianPolicy(action_dim=1),
        optax.adam(0.01),
        critic=pgjax.ValueNetwork(),
        estimator=normalized(gae(gamma=0.95)),
    )
    step = pgjax.training_step(algorithm, env, num_episodes=32)

    @jax.jit
    def train(seed):
        state = pgjax.init_on_device(algorithm, env, jax.random.key(seed))
        return jax.lax.scan(lambda state, _: step(state), state, None, length=updates)

    _, info = train(0)
    for update in range(0, updates, max(1, updates // 10)):
        print(f"update {update + 1}: return {info['mean_return'][update]:.2f}")
    print(f"update {updates}: return {info['mean_return'][-1]:.2f}")


if __name__ == "__main__":
    main()
