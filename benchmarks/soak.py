"""Run long trainings and check for late compilations, growing memory and files left open.

python benchmarks/soak.py
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import readme
from gymnasium import spaces

import pgjax
from pgjax.training import train as training

SETTLED = 0.2  # fraction of a run after which every padded length has occurred
LONGEST = 500


class AnyLength(gym.Env):
    """Episodes of 1 to `longest` steps, uniformly distributed on a log scale."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, longest: int = LONGEST):
        self._longest = longest

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._left = int(np.exp(self.np_random.uniform(0, np.log(self._longest + 1))))
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        self._left -= 1
        obs = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return obs, float(action), self._left <= 0, False, {}


class Watch:
    """An observer that records compilations, resident memory and open files at each update."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, int]] = []
        self._compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, name: str, seconds: float, **details: Any) -> None:
        self._compiled += name.endswith("backend_compile_duration")

    def start(self, *_: Any, **__: Any) -> None:
        self.rows.clear()

    def update(self, *_: Any, **__: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        mib = pages * os.sysconf("SC_PAGESIZE") / 2**20
        self.rows.append((self._compiled, mib, len(os.listdir("/proc/self/fd"))))

    def stop(self, *_: Any, **__: Any) -> None:
        pass

    def row(self) -> tuple[str, bool]:
        """The growth after the run has settled, and whether it is small enough."""
        begin = int(SETTLED * len(self.rows))
        few = max(1, len(self.rows) // 20)
        late = self.rows[-1][0] - self.rows[begin][0]
        early, last = self.rows[begin : begin + few], self.rows[-few:]
        mib = statistics.median(m for _, m, _ in last) - statistics.median(m for _, m, _ in early)
        files = max(f for *_, f in last) - max(f for *_, f in early)
        good = late == 0 and mib <= 5 and files <= 0
        return f"{len(self.rows):,} | {late} | {mib:+.1f} | {files:+d}", good


def main() -> None:
    readme.parser(__doc__).parse_args()
    gym.register("AnyLength-v0", AnyLength)
    one = dict(episodes_per_update=1, num_envs=1, learning_rate=1e-4)
    runs = {
        "2,000 episodes of 1 to 500 steps": dict(env_id="AnyLength-v0", updates=2000, **one),
        "CartPole-v1, at most 32 steps": dict(
            env_id="CartPole-v1", updates=20_000, max_episode_steps=32, **one
        ),
        "CartPole-v1, at most 32 steps, on the device": dict(
            env_id="CartPole-v1", updates=20_000, max_episode_steps=32, on_device=True, **one
        ),
    }
    watch, all_good = Watch(), True
    lines = [
        "| run | updates | compilations | memory, MiB | open files |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, settings) in enumerate(runs.items()):
            config = pgjax.TrainConfig(**settings, run_dir=Path(folder) / str(i))  # type: ignore[arg-type]
            training.train(config, observers=[watch])
            row, good = watch.row()
            all_good &= good
            lines.append(f"| {name} | {row} |")
            print(lines[-1], flush=True)
    note = f"The last three columns: the increase after the first {SETTLED:.0%} of the updates."
    readme.put_measured("soak", [*lines, "", note])
    raise SystemExit(not all_good)


if __name__ == "__main__":
    main()
