r"""Try settings for an environment, each over several seeds; this is how its preset was found.

    python benchmarks/sweep.py InvertedPendulum-v5 --seeds 2 --over learning_rate 0.01 0.003 \
        --set updates 150 --set hidden_sizes '[32, 32]' --set activation '"tanh"'

Tries every combination of the --over values, together with the --set values (all as JSON); other
settings come from the environment's preset, or are the defaults. Prints one line per combination:
the mean over the seeds and the worst seed, then for each seed its mean over 100 evaluation episodes
and, in parentheses, its environment steps. Seeds start at --first, so that they differ from those
of the benchmarks. With --set on_device true, all seeds train in one program.
"""

import dataclasses
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import readme

import pgjax


def train_each(env_id: str, settings: dict[str, Any], seeds: range) -> list[tuple[float, int]]:
    """(mean return, environment steps) of each seed, with NaN for a seed that diverges."""
    if "hidden_sizes" in settings:
        settings = settings | {"hidden_sizes": tuple(settings["hidden_sizes"])}
    config = pgjax.TrainConfig.preset(env_id, seed=seeds[0], **settings)
    with tempfile.TemporaryDirectory() as folder:
        if config.on_device:
            return _results(dataclasses.replace(config, run_dir=Path(folder) / "r"), len(seeds))
        return [
            result
            for seed in seeds
            for result in _results(
                dataclasses.replace(config, seed=seed, run_dir=Path(folder) / str(seed))
            )
        ]


def _results(config: pgjax.TrainConfig, num_seeds: int = 1) -> list[tuple[float, int]]:
    try:
        if config.on_device:
            runs = pgjax.train_seeds(config, num_seeds)
        else:
            runs = [pgjax.train(config)]
    except pgjax.DivergedError:
        return [(float("nan"), 0)] * num_seeds
    means = [run.evaluation["mean"] if run.evaluation else float("nan") for run in runs]
    steps = [int(run.metrics["total_env_steps"][-1]) for run in runs]
    return list(zip(means, steps, strict=True))


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("env_id")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds")
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument(
        "--over", nargs="+", action="append", default=[], help="a setting and the values to try"
    )
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], help="a setting and its value"
    )
    args = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    fixed = {name: json.loads(value) for name, value in args.set}
    grid = {name: [json.loads(value) for value in values] for name, *values in args.over}
    for values in itertools.product(*grid.values()):
        changed = dict(zip(grid, values, strict=True))
        seeds = range(args.first, args.first + args.seeds)
        results = train_each(args.env_id, fixed | changed, seeds)
        means = [mean for mean, _ in results]
        each = ", ".join(f"{mean:.1f} ({steps:,})" for mean, steps in results)
        summary = f"mean {statistics.mean(means):.1f}, worst {min(means):.1f}"
        print(f"{json.dumps(changed)}: {summary}; {each}", flush=True)


if __name__ == "__main__":
    main()
