"""The two experiments of the PyTorch lesson, in pgjax.

    python examples/lesson.py

A softmax policy learns CartPole-v1 for 80 episodes, and the lesson's Gaussian policy Pendulum-v1
for 10. Each update uses one episode, with discount 0.99, normalised reward-to-go, and Adam with
learning rate 0.01. A truncated episode ends here; the lesson ignores truncation, so its Pendulum
never stops. At the end, the lesson's Gaussian is compared with a well-posed one, trained equally
long.
"""

import argparse

import gymnasium as gym
import jax
import numpy as np
import optax
from flax import linen as nn

import pgjax

pgjax.enable_compile_cache()  # later runs start faster
# On CPU, collecting is several times faster if JAX computes in the calling thread.
jax.config.update("jax_cpu_enable_async_dispatch", False)


def run(env_id: str, policy: nn.Module, num_episodes: int, seed: int) -> pgjax.TrainState:
    """Train on a number of episodes, one per update, and print the reward of each."""
    print(f"\n{env_id}, {type(policy).__name__}")
    env = gym.make(env_id)
    algorithm = pgjax.reinforce(policy, optax.adam(0.01))
    state = algorithm.init(jax.random.key(seed), np.zeros(env.observation_space.shape, np.float32))
    for k in range(1, num_episodes + 1):
        rollout = pgjax.collect_episodes(env, algorithm, state, num_episodes=1)
        state, info = algorithm.update(state, rollout)
        print(f"Episode {k}: {info['mean_return']:.0f}")
    env.close()
    return state


def describe(name: str, policy: nn.Module, state: pgjax.TrainState) -> None:
    """Print the range of a Gaussian policy's mean and std over a grid of Pendulum's states."""
    angle, speed = np.meshgrid(np.linspace(-np.pi, np.pi, 41), np.linspace(-8, 8, 17))
    obs = np.stack([np.cos(angle), np.sin(angle), speed], -1).reshape(-1, 3).astype(np.float32)
    dist = jax.jit(policy.apply)(state.params, obs)
    mean, std = np.asarray(dist.mean), np.asarray(dist.std)
    print(
        f"  {name:20} mean torque from {mean.min():6.2f} to {mean.max():6.2f}, "
        f"std from {std.min():5.2f} to {std.max():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cartpole-episodes", type=int, default=80)
    parser.add_argument("--pendulum-episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    run("CartPole-v1", pgjax.SoftmaxPolicy(2), args.cartpole_episodes, args.seed)
    lesson, well_posed = pgjax.LessonGaussianPolicy(1), pgjax.GaussianPolicy(1)
    lesson_state = run("Pendulum-v1", lesson, args.pendulum_episodes, args.seed)
    well_posed_state = run("Pendulum-v1", well_posed, args.pendulum_episodes, args.seed)

    print(f"\nAfter {args.pendulum_episodes} episodes of Pendulum (torque is clipped to -2..2):")
    describe("lesson's Gaussian", lesson, lesson_state)
    describe("well-posed Gaussian", well_posed, well_posed_state)
    print(
        "The lesson's network ends in a ReLU, whose output x gives mean = x >= 0 and\n"
        "std = exp(x) >= 1. However long it trains, its mean never pushes the other way, and its\n"
        "std never falls below 1. The well-posed policy has a mean of either sign and a std that\n"
        "is free to shrink. Ten episodes are too few for either: `pgjax train Pendulum-v1`\n"
        "learns to swing up, with a critic and 16,000 episodes."
    )


if __name__ == "__main__":
    main()
