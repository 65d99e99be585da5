"""Compare the Python loop over Gymnasium with the lesson's loop in torch, training CartPole-v1.

    python benchmarks/gym_loop.py
    python benchmarks/gym_loop.py --sb3 PYTHON  # an interpreter that has Stable-Baselines3

All contenders run in one process and take turns, for several rounds. In a turn, a contender trains
from scratch for a fixed number of environment steps; if it finishes early, it trains again with the
next seed, until the turn has lasted some seconds. Each rate is the median over the rounds, and each
ratio is the median of the ratios within a round, so that drift in the machine's speed cancels.
Everything is compiled before the first round. The lesson (benchmarks/lesson.py) acts and learns as
it was taught, and pgjax is used as a researcher would: `gymnasium.make` or `make_vec`,
`collect_episodes` and `algorithm.update`, and reading a metric of every update. Both have the
lesson's settings (16-16 networks, normalised reward-to-go, Adam with learning rate 0.01) and
Gymnasium's default wrappers. Prints a table, writes gym_loop.json beside this file, and writes the
table into README.md.
"""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import lesson
import numpy as np
import optax
import readme
import torch

import pgjax
from pgjax.collect.dispatch import BLOCK, compile_for

HERE = Path(__file__).parent
ENV_ID, LONGEST = "CartPole-v1", 500
jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the command line does


def environment_alone(steps: int, seed: int) -> float:
    """Steps per second of one environment with alternating actions and no learning."""
    env = gym.make(ENV_ID)
    env.reset(seed=seed)
    begun = time.perf_counter()
    for t in range(steps):
        _, _, terminated, truncated, _ = env.step(t % 2)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - begun)


def train_lesson(steps: int, seed: int) -> float:
    """Steps per second of the lesson in torch."""
    policy, optimizer = lesson.make(seed)
    env = gym.make(ENV_ID)
    done, begun = 0, time.perf_counter()
    while done < steps:
        log_probs, rewards = lesson.episode(env, policy)
        lesson.update(optimizer, log_probs, rewards)
        done += len(rewards)
    return done / (time.perf_counter() - begun)


class Contender:
    """pgjax with `num_envs` parallel environments and as many episodes per update."""

    def __init__(self, num_envs: int):
        self._n = num_envs
        sync = {"num_envs": num_envs, "vectorization_mode": "sync"}
        self._env = gym.make(ENV_ID) if num_envs == 1 else gym.make_vec(ENV_ID, **sync)
        self._algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.01))
        for length in (16, 32, 64, 128, 256, 512):  # all padded lengths: no round compiles
            self._algorithm.update(self._init(0), rollout_of(length, num_envs))
        self(100, 0)

    def _init(self, seed: int) -> pgjax.TrainState:
        return self._algorithm.init(jax.random.key(seed), np.zeros(4, np.float32))

    def __call__(self, steps: int, seed: int) -> float:
        state, done, begun = self._init(seed), 0, time.perf_counter()
        while done < steps:
            rollout = pgjax.collect_episodes(self._env, self._algorithm, state, self._n)
            state, info = self._algorithm.update(state, rollout)
            done += int(info["env_steps"])
        return done / (time.perf_counter() - begun)


def rollout_of(length: int, num_episodes: int, real: int | None = None) -> pgjax.Rollout:
    """Random experience with padding after `real` steps."""
    rng, shape = np.random.default_rng(0), (length, num_episodes)
    steps = np.broadcast_to(np.arange(length)[:, None], shape)
    real = real or length
    return pgjax.Rollout(
        obs=rng.normal(size=(*shape, 4)).astype(np.float32),
        action=rng.integers(2, size=shape, dtype=np.int32),
        reward=np.ones(shape, np.float32),
        terminated=steps == real - 1,
        truncated=np.zeros(shape, bool),
        next_obs=rng.normal(size=(*shape, 4)).astype(np.float32),
        weight=(steps < real).astype(np.float32),
    )


def lesson_update(repeats: int, seed: int) -> float:
    """Updates per second of the lesson on an episode of 500 steps; acting is not timed."""
    policy, optimizer = lesson.make(seed)
    rollout, seconds = rollout_of(LONGEST, 1), 0.0
    for _ in range(repeats):
        log_probs = [lesson.act(policy, obs)[1] for obs in rollout.obs[:, 0]]
        begun = time.perf_counter()
        lesson.update(optimizer, log_probs, [1.0] * LONGEST)
        seconds += time.perf_counter() - begun
    return repeats / seconds


class OneUpdate:
    """The same update in pgjax, from NumPy arrays to a number read from the metrics."""

    def __init__(self) -> None:
        self._algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.01))
        self._rollout = rollout_of(512, 1, real=LONGEST)
        self(1, 0)

    def __call__(self, repeats: int, seed: int) -> float:
        state = self._algorithm.init(jax.random.key(seed), np.zeros(4, np.float32))
        begun = time.perf_counter()
        for _ in range(repeats):
            state, info = self._algorithm.update(state, self._rollout)
            float(info["mean_return"])
        return repeats / (time.perf_counter() - begun)


class Peer:
    """Stable-Baselines3 with eight environments, in a process of its own."""

    def __init__(self, python: str, algorithm: str):
        script = str(HERE / "peers" / "sb3.py")
        self._command = [python, script, "throughput", "--algorithm", algorithm]

    def __call__(self, steps: int, seed: int) -> float:
        command = [*self._command, "--seed", str(seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])["steps_per_second"]


def breakdown(seconds: float = 2.0) -> list[str]:
    """Where a step of one environment goes: each part alone, and in turns with the environment.

    Alone, a part finds its own code and data in the processor's caches; in turns, it does not.
    """
    env = gym.make(ENV_ID)
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    compiled = compile_for(algorithm, state, np.zeros(4, np.float32))
    params, _, _ = compiled.begin(state, 1)
    row = np.zeros((8, compiled.layout.widths[0]), np.float32)
    trivial = jax.jit(lambda params, row: row[:, 0])

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()

    def act() -> None:
        np.asarray(compiled.act.call(params, row))

    def call() -> None:
        np.asarray(trivial(params, row))

    def nothing() -> None:
        pass

    def both(one: Callable[[], None], other: Callable[[], None]) -> float:
        """Microseconds that `one` takes where `other` runs between its calls."""
        spent = count = 0.0
        end = time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            other()
            begun = time.perf_counter()
            one()
            spent += time.perf_counter() - begun
            count += 1
        return 1e6 * spent / count

    env.reset()
    act(), call()
    parts = {"env.step": step, "a call of the policy": act, "a trivial compiled call": call}
    lines = ["| part of a step | alone, us | in turns, us |", "|---|---|---|"]
    for name, part in parts.items():
        other = act if part is step else step
        lines.append(f"| {name} | {both(part, nothing):.1f} | {both(part, other):.1f} |")
    lines.append(
        f"| the policy in the compiled loop | {looped(compiled, params, nothing, seconds):.1f} | "
        f"{looped(compiled, params, step, seconds):.1f} |"
    )
    pgjax.collect_episodes(env, algorithm, state, 64)
    begun, steps, updates = time.perf_counter(), 0, 0
    while time.perf_counter() - begun < seconds:
        state = state._replace(step=np.int32(updates))
        steps += int(pgjax.collect_episodes(env, algorithm, state, 64).weight.sum())
        updates += 1
    spent = 1e6 * (time.perf_counter() - begun) / steps
    lines.append(f"| `collect_episodes`, 64 episodes, a step | | {spent:.1f} |")
    return lines


def looped(compiled: Any, params: Any, step: Callable[[], None], seconds: float) -> float:
    """Microseconds a step that `collect_episodes` takes to act, where `step` is called in turns."""
    rows = np.zeros((BLOCK + 1, 8, compiled.layout.widths[0]), np.float32)
    actions = np.zeros((BLOCK, 8), np.int32)
    inside = 0.0

    def timed(t: int) -> bool:
        nonlocal inside
        begun = time.perf_counter()
        step()
        inside += time.perf_counter() - begun
        return False

    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        compiled.act(params, [rows], actions, 0, BLOCK, timed)
        count += BLOCK
    return 1e6 * (time.perf_counter() - begun - inside) / count


def turn(contender: Callable[[int, int], float], amount: int, seed: int, seconds: float) -> float:
    """Return the mean rate of a contender, repeated for at least `seconds`."""
    rates: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        rates.append(contender(amount, seed + len(rates)))
    return statistics.harmonic_mean(rates)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8000, help="environment steps per training")
    parser.add_argument("--seconds", type=float, default=3.0, help="minimum duration of a turn")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--sb3", metavar="PYTHON", help="compare with Stable-Baselines3, too")
    args = parser.parse_args()
    steps = args.steps
    table: dict[str, tuple[Callable[[int, int], float], int, str]] = {
        "lesson, torch": (train_lesson, steps, "lesson, torch"),
        "pgjax, 1 environment": (Contender(1), steps, "lesson, torch"),
        "pgjax, 8 environments": (Contender(8), steps, "lesson, torch"),
        "pgjax, 32 environments": (Contender(32), steps, "lesson, torch"),
        "1 environment, stepping only": (environment_alone, steps, "lesson, torch"),
        "lesson's update, T = 500": (lesson_update, 3, "lesson's update, T = 500"),
        "pgjax's update, T = 500": (OneUpdate(), 100, "lesson's update, T = 500"),
    }
    if args.sb3:
        for name in ("A2C", "PPO"):
            peer = Peer(args.sb3, name.lower())
            table[f"Stable-Baselines3 {name}, 8 environments"] = peer, 0, "lesson, torch"
    rates: dict[str, list[float]] = {name: [] for name in table}
    for round_ in range(args.rounds):
        for name, (contender, amount, _) in table.items():
            rates[name].append(turn(contender, amount, 1000 * round_, args.seconds))
            print(
                f"round {round_ + 1}/{args.rounds}  {name:42} {rates[name][-1]:12,.1f}", flush=True
            )

    lines = [
        "| contender | rate per second | ratio to the lesson | range of the ratio |",
        "|---|---|---|---|",
    ]
    for name, (_, _, base) in table.items():
        ratios = [a / b for a, b in zip(rates[name], rates[base], strict=True)]
        unit = "updates" if "update" in name else "steps"
        lines.append(
            f"| {name} | {statistics.median(rates[name]):,.0f} {unit} | "
            f"{statistics.median(ratios):.1f} | {min(ratios):.1f} to {max(ratios):.1f} |"
        )
    for name in [name for name in table if "Stable" in name]:
        ours = rates["pgjax, 8 environments"]
        ratios = [a / b for a, b in zip(ours, rates[name], strict=True)]
        lines.append(
            f"| pgjax, 8 environments, over {name} | | {statistics.median(ratios):.1f} | "
            f"{min(ratios):.1f} to {max(ratios):.1f} |"
        )
    where = readme.date_and_machine()
    details = {
        **where,
        "machine": f"{where['machine']}, jax on {jax.devices()[0].platform}, torch with "
        f"{torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"torch {torch.__version__}, gymnasium {gym.__version__}",
        "rounds": f"{args.rounds}, {steps} steps per training, "
        f"at least {args.seconds:g} s per turn",
    }
    block = "\n".join([*lines, "", *breakdown(), "", readme.line(details)])
    print(block)
    result = details | {"rates": rates}
    (args.out / "gym_loop.json").write_text(json.dumps(result, indent=2) + "\n")
    readme.put(args.out, "gym_loop", block)


if __name__ == "__main__":
    main()
