"""Check that params_sha256 is the same for every --num-envs and number of threads.

    python benchmarks/same_bits.py
    python benchmarks/same_bits.py --updates 40 CartPole-v1

Each combination trains in a separate process. NPROC sets how many threads XLA uses on CPU. Exits
with 1 if any two digests differ. tests/algorithms/test_batches.py checks that padding to 512 and
2,048 steps changes no bit; in complete runs the padding varies from update to update anyway.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import readme

NUM_ENVS, THREADS = (1, 2, 8), (1, 2, 8)


def digests(env_id: str, updates: int, num_envs: int, threads: int) -> tuple[str, str]:
    """The params_sha256 of a run and the SHA-256 of its metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "pgjax", "train", env_id, "--updates", str(updates)]
        command += ["--num-envs", str(num_envs), "--run-dir", str(run), "--eval-episodes", "1"]
        environment = os.environ | {"NPROC": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        manifest = json.loads((run / "manifest.json").read_text())
        if manifest["machine"]["threads"] != threads:
            raise RuntimeError(f"not {threads} threads, as NPROC says: {manifest['machine']}")
        metrics = hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest()
    return manifest["params_sha256"], metrics


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("env_ids", nargs="*", default=["CartPole-v1", "Pendulum-v1"])
    parser.add_argument("--updates", type=int, default=20)
    args = parser.parse_args()
    same = True
    for env_id in args.env_ids:
        found = set()
        for num_envs, threads in itertools.product(NUM_ENVS, THREADS):
            params, metrics = digests(env_id, args.updates, num_envs, threads)
            found.add((params, metrics))
            print(
                f"{env_id:14} --num-envs {num_envs}  NPROC={threads}  "
                f"params {params[:16]}  metrics {metrics[:16]}",
                flush=True,
            )
        print(f"{env_id:14} {len(found)} distinct result{'s' if len(found) > 1 else ''}")
        same &= len(found) == 1
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
