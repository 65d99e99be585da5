"""Compare training on streams of steps with stepping alone: HalfCheetah-v5, eight environments.

    python benchmarks/throughput.py       (needs envpool and gymnasium[mujoco])

Alternates, in one process, between stepping the environments with random actions and collecting
with Stream.collect followed by the update, both after compilation. Reports the median of the
ratios and writes its table into README.md.
"""

import statistics
import time

import gymnasium as gym
import jax
import numpy as np
import readme
from gymnasium.vector import AutoresetMode

from pgjax.collect.steps import Stream
from pgjax.config.agent import make_agent
from pgjax.config.env import with_spaces
from pgjax.config.settings import TrainConfig

ENV_ID, NUM_ENVS, NUM_STEPS = "HalfCheetah-v5", 8, 256


def make(kind: str):
    if kind == "envpool":
        import envpool

        return envpool.make(ENV_ID, env_type="gymnasium", num_envs=NUM_ENVS, seed=0, num_threads=2)
    options = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    return gym.make_vec(ENV_ID, NUM_ENVS, vectorization_mode=kind, vector_kwargs=options)


def stepping(env, steps: int) -> float:
    """Steps per second of the environments alone, with actions drawn in advance."""
    shape = (steps, NUM_ENVS, *env.single_action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(env.single_action_space.dtype)
    begun = time.perf_counter()
    for action in actions:
        env.step(action)
    return steps * NUM_ENVS / (time.perf_counter() - begun)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    lines = ["| environments | stepping only, steps/s | training, steps/s | median ratio | range |"]
    lines += ["|---|---|---|---|---|"]
    for kind in ("envpool", "sync", "async"):
        alone, learning = make(kind), make(kind)
        config = TrainConfig.preset(
            ENV_ID, collect="steps", num_envs=NUM_ENVS, num_steps=NUM_STEPS, updates=10**6
        )
        agent = make_agent(config, with_spaces(learning))
        stream, update = Stream(learning), agent.algorithm.update
        state = agent.init(0)
        alone.reset()
        speeds = []
        for round_ in range(args.rounds + 2):
            first = stepping(alone, NUM_STEPS)
            begun = time.perf_counter()
            state, _ = update(state, stream.collect(agent.algorithm, state, NUM_STEPS))
            training = NUM_STEPS * NUM_ENVS / (time.perf_counter() - begun)
            second = stepping(alone, NUM_STEPS)
            if round_ >= 2:  # everything is compiled by now
                speeds.append((2 / (1 / first + 1 / second), training))
        alone.close(), learning.close()
        ratios = [training / stepped for stepped, training in speeds]
        by_itself, with_learning = (statistics.median(x) for x in zip(*speeds, strict=True))
        lines.append(
            f"| {kind} | {by_itself:,.0f} | {with_learning:,.0f} | {statistics.median(ratios):.0%} "
            f"| {min(ratios):.0%} to {max(ratios):.0%} |"
        )
        print(lines[-1], flush=True)
    readme.put_measured("throughput", lines)


if __name__ == "__main__":
    main()
