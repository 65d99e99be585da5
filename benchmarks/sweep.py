"""Settings tried for an environment, each over several seeds: how its preset was found.

    python benchmarks/sweep.py InvertedPendulum-v5 --seeds 2 --over learning_rate 0.01 0.003 \
        --set updates 150 --set hidden_sizes '[32, 32]' --set activation '"tanh"'

Every combination of what is given with --over, beside what is given with --set (both as JSON); the
rest is that of the environment's preset, or the defaults. A line for each, with the means of 50
evaluation episodes of each seed and the environment steps; seeds begin at --first, so that others
than those of the benchmarks can be used.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax

import pgjax


def tried(env_id: str, settings: dict[str, Any], seed: int) -> tuple[float, int]:
    """(mean return, environment steps)."""
    if "hidden_sizes" in settings:
        settings = settings | {"hidden_sizes": tuple(settings["hidden_sizes"])}
    with tempfile.TemporaryDirectory() as folder:
        config = pgjax.TrainConfig.preset(env_id, seed=seed, run_dir=Path(folder) / "r", **settings)
        try:
            run = pgjax.train(config)
        except pgjax.DivergedError:
            return float("nan"), 0
        return pgjax.evaluate.evaluate(run, 50)["mean"], run.metrics[-1]["total_env_steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env_id")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--over", nargs="+", action="append", default=[])
    parser.add_argument("--set", nargs=2, action="append", default=[])
    args = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    fixed = {name: json.loads(value) for name, value in args.set}
    grid = {name: [json.loads(value) for value in values] for name, *values in args.over}
    for values in itertools.product(*grid.values()):
        changed = dict(zip(grid, values, strict=True))
        seeds = range(args.first, args.first + args.seeds)
        results = [tried(args.env_id, fixed | changed, seed) for seed in seeds]
        told = ", ".join(f"{mean:.1f} ({steps:,})" for mean, steps in results)
        print(f"{json.dumps(changed)}: {told}", flush=True)


if __name__ == "__main__":
    main()
