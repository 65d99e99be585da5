"""Write a functional environment and train on it in one compiled program.

    python examples/own_environment.py

The task: push a point on a line left or right until it rests at 0.
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
    """Make the environment; its state and its observation are both (position, speed)."""

    def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return state, state

    # Each step gets its own key, for environments that draw random numbers; this one does not.
    def step(key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
        position, speed = state
        speed = speed + 0.1 * action[0]
        position = position + 0.1 * speed
        state = jnp.stack([position, speed])
        reward = -(position**2) - 0.01 * action[0] ** 2
        terminated = jnp.abs(position) > 3.0
        truncated = jnp.zeros((), bool)  # the time limit below truncates
        return state, state, reward, terminated, truncated

    observations = envs.Box(-np.inf, np.inf, (2,))
    return envs.Env(reset, step, observations, envs.Box(-1.0, 1.0, (1,)))


def main() -> None:
    pgjax.enable_compile_cache()  # later runs start faster
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    updates = parser.parse_args().updates

    env = envs.time_limit(point(), 100)
    envs.check(env)  # reports shapes and dtypes that do not fit
    algorithm = pgjax.reinforce(
        pgjax.GaussianPolicy(action_dim=1),
        optax.adam(0.01),
        critic=pgjax.ValueNetwork(),
        estimator=normalized(gae(gamma=0.95)),
    )
    step = pgjax.training_step(algorithm, env, num_episodes=32)

    @jax.jit
    def train(seed: jax.Array) -> tuple[pgjax.TrainState, dict[str, jax.Array]]:
        state = pgjax.init_on_device(algorithm, env, jax.random.key(seed))
        return jax.lax.scan(lambda state, _: step(state), state, None, length=updates)

    _, info = train(0)  # every entry of info is an array [updates]
    for update in range(0, updates, max(1, updates // 10)):
        print(f"update {update + 1}: return {info['mean_return'][update]:.2f}")
    print(f"update {updates}: return {info['mean_return'][-1]:.2f}")


if __name__ == "__main__":
    main()
