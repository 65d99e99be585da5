"""Compare training on streams of steps with stepping the environments alone.

    python benchmarks/throughput.py                # Gymnasium's vectorised CartPole, 1 to 1,024
    python benchmarks/throughput.py HalfCheetah-v5 # needs envpool and gymnasium[mujoco]

Alternates, in one process, between stepping the environments with actions drawn in advance and
training: `collect_steps` and `algorithm.update`, with a critic and GAE. Everything is compiled
before. Reports the median of the ratios within a round, and the share of a training's time that
goes into collecting. Writes its table into README.md.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import optax
import readme
from gymnasium.vector import AutoresetMode

import pgjax
from pgjax.config.agent import make_agent
from pgjax.config.env import with_spaces

Setting = tuple[str, Callable[[], Any], pgjax.Algorithm, pgjax.TrainState, int]


def cartpole() -> Iterator[Setting]:
    """Gymnasium's CartPole in one array, networks of 16-16, about 8,000 steps an update."""
    algorithm = pgjax.reinforce(
        pgjax.SoftmaxPolicy(2),
        optax.adam(0.01),
        critic=pgjax.ValueNetwork((16, 16)),
        estimator=pgjax.advantages.normalized(pgjax.advantages.gae(0.99, 0.95)),
        mean_over="steps",
    )
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    for num_envs in (1, 8, 64, 512, 1024):

        def make(num_envs: int = num_envs) -> Any:
            mode = "vector_entry_point"
            return gym.make_vec("CartPole-v1", num_envs, vectorization_mode=mode)

        yield f"CartPole-v1, {num_envs}", make, algorithm, state, 64 if num_envs >= 512 else 128


def half_cheetah() -> Iterator[Setting]:
    """HalfCheetah in eight environments, with the preset's networks."""
    num_envs, num_steps = 8, 256

    def envpool() -> Any:
        import envpool

        return envpool.make(
            "HalfCheetah-v5", env_type="gymnasium", num_envs=num_envs, seed=0, num_threads=2
        )

    def gymnasium(kind: str) -> Any:
        options = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        return gym.make_vec(
            "HalfCheetah-v5", num_envs, vectorization_mode=kind, vector_kwargs=options
        )

    config = pgjax.TrainConfig.preset(
        "HalfCheetah-v5", collect="steps", num_envs=num_envs, num_steps=num_steps, updates=10**6
    )
    for kind in ("envpool", "sync", "async"):
        make = envpool if kind == "envpool" else lambda kind=kind: gymnasium(kind)
        env = make()
        agent = make_agent(config, with_spaces(env))
        env.close()
        yield f"HalfCheetah-v5, {kind}, 8", make, agent.algorithm, agent.init(0), num_steps


def stepping(env: Any, steps: int) -> float:
    """Steps per second of the environments alone, with actions drawn in advance."""
    space = env.single_action_space
    shape, rng = (steps, env.num_envs, *space.shape), np.random.default_rng(0)
    if isinstance(space, gym.spaces.Discrete):
        actions = rng.integers(space.n, size=shape)
    else:
        actions = rng.uniform(-1, 1, shape).astype(space.dtype)
    begun = time.perf_counter()
    for action in actions:
        env.step(action)
    return steps * env.num_envs / (time.perf_counter() - begun)


def measure(setting: Setting, rounds: int, least: float) -> str:
    """Return a row of the table; a turn lasts at least some seconds."""
    name, make, algorithm, state, num_steps = setting
    alone, learning = make(), make()
    stream = pgjax.Stream(learning)
    alone.reset()
    speeds, collecting = [], []
    for round_ in range(rounds + 1):
        first = stepping(alone, num_steps * 4)
        updates, spent = 0, 0.0
        begun = time.perf_counter()
        while time.perf_counter() - begun < least:
            before = time.perf_counter()
            rollout = pgjax.collect_steps(stream, algorithm, state, num_steps)
            spent += time.perf_counter() - before
            state, info = algorithm.update(state, rollout)
            float(info["entropy"])
            updates += 1
        seconds = time.perf_counter() - begun
        second = stepping(alone, num_steps * 4)
        if round_:  # everything is compiled by now
            training = updates * num_steps * stream.num_envs / seconds
            speeds.append((2 / (1 / first + 1 / second), training))
            collecting.append(spent / seconds)
    alone.close(), learning.close()
    ratios = [training / stepped for stepped, training in speeds]
    by_itself, with_learning = (statistics.median(x) for x in zip(*speeds, strict=True))
    return (
        f"| {name} | {by_itself:,.0f} | {with_learning:,.0f} | {statistics.median(ratios):.0%} "
        f"| {min(ratios):.0%} to {max(ratios):.0%} | {statistics.median(collecting):.0%} |"
    )


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("task", nargs="?", default="CartPole-v1")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="least duration of a turn")
    args = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    lines = [
        "| environments | alone, steps/s | training, steps/s | ratio | range | collecting |",
        "|---|---|---|---|---|---|",
    ]
    settings = {"CartPole-v1": cartpole, "HalfCheetah-v5": half_cheetah}[args.task]
    for setting in settings():
        lines.append(measure(setting, args.rounds, args.seconds))
        print(lines[-1], flush=True)
    readme.put_measured(f"throughput_{args.task}", lines)


if __name__ == "__main__":
    main()
