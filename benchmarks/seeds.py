"""Train an environment's preset with several seeds, as a user would, and tabulate evaluations.

    python benchmarks/seeds.py CartPole-v1 --seeds 10 --threshold 475

Each seed is one `python -m pgjax train` in a separate process, which receives all further options.
The result of each seed is stored in seeds.json beside this file, so that you can run a few seeds at
a time (`--first`); the table of all stored results is written into README.md. With further options
nothing is stored. Exits with 1 if any of the seeds that ran falls below the threshold.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import readme

RESULTS = readme.HERE / "seeds.json"


def train(env_id: str, seed: int, options: list[str]) -> dict[str, Any]:
    """Train one seed and return the row of its table."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "pgjax", "train", env_id, "--seed", str(seed)]
        begun = time.perf_counter()
        subprocess.run(
            [*command, "--run-dir", str(run), *options], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - begun
        result = json.loads((run / "evaluation.json").read_text())
        manifest = json.loads((run / "manifest.json").read_text())
    return {
        **{name: round(result[name], 1) for name in ("mean", "std", "min")},
        "env_steps": manifest["total_env_steps"],
        "seconds": round(seconds),
        "params_sha256": manifest["params_sha256"][:12],
        "date": readme.date_and_machine()["date"],
        "jax": jax.__version__,
    }


def store(env_id: str, seed: int, result: dict[str, Any]) -> None:
    """Store a result in seeds.json, and write the environment's table into README.md."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = stored.setdefault(env_id, {})
    results[str(seed)] = result
    RESULTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    lines = ["| seed | " + " | ".join(result) + " |", "|---" * (len(result) + 1) + "|"]
    for name in sorted(results, key=int):
        values = [results[name][field] for field in result]
        cells = (f"{x:,}" if isinstance(x, int) else str(x) for x in values)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = [row["mean"] for row in results.values()]
    lines += ["", f"mean of {len(means)} seeds: {statistics.mean(means):.1f}, worst {min(means)}"]
    readme.put(readme.HERE, f"seeds {env_id}", "\n".join(lines))


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("env_id")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, starting at --first")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=float("-inf"))
    args, options = parser.parse_known_args()
    means = []
    for seed in range(args.first, args.first + args.seeds):
        result = train(args.env_id, seed, options)
        print(f"seed {seed}", *(f"{name} {x}" for name, x in result.items()), flush=True)
        means.append(result["mean"])
        if not options:
            store(args.env_id, seed, result)
    print(f"mean of {len(means)}: {statistics.mean(means):.1f}, worst {min(means):.1f}")
    raise SystemExit(min(means) < args.threshold)


if __name__ == "__main__":
    main()
