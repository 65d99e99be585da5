"""Train an environment's preset for several seeds, as a user would, and tabulate the evaluations.

    python benchmarks/seeds.py CartPole-v1 --seeds 10 --threshold 475

Each seed is one `python -m pgjax train` in a process of its own; further options are passed on to
it. Prints a line per seed and exits with 1 if any falls below the threshold.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env_id")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from --first")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=float("-inf"))
    args, options = parser.parse_known_args()
    worst = float("inf")
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "pgjax", "train", args.env_id, "--seed", str(seed)]
            begun = time.perf_counter()
            subprocess.run(
                [*command, "--run-dir", str(run), *options],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds = time.perf_counter() - begun
            result = json.loads((run / "evaluation.json").read_text())
            manifest = json.loads((run / "manifest.json").read_text())
        worst = min(worst, result["mean"])
        print(
            f"seed {seed}  mean {result['mean']:8.1f}  std {result['std']:6.1f}  "
            f"min {result['min']:8.1f}  env_steps {manifest['total_env_steps']:>9,}  "
            f"{seconds:5.0f} s  {manifest['params_sha256'][:12]}",
            flush=True,
        )
    print(f"worst of {args.seeds}: {worst:.1f}")
    raise SystemExit(worst < args.threshold)


if __name__ == "__main__":
    main()
