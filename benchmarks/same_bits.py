"""Check that params_sha256 is the same for every --num-envs and number of threads.

    python benchmarks/same_bits.py
    python benchmarks/same_bits.py --updates 40 CartPole-v1
    python benchmarks/same_bits.py CartPole-v1 --algorithm ppo --collect episodes
    python benchmarks/same_bits.py CartPole-v1 --algorithm ppo --on-device --num-shards 8

Each combination trains in a separate process, which receives all further options. With --on-device
the numbers of devices vary in place of those of environments. NPROC sets how many threads XLA uses
on CPU. Exits with 1 if any two digests differ. tests/algorithms/test_batches.py checks that padding
to 512 and 2,048 steps changes no bit; in complete runs the padding varies from update to update
anyway.
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

NUM_ENVS, DEVICES, THREADS = (1, 2, 8), (1, 2, 4, 8), (1, 2, 8)


def digests(
    env_id: str, updates: int, varied: str, number: int, threads: int, options: list[str]
) -> tuple[str, str]:
    """The params_sha256 of a run and the SHA-256 of its metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "pgjax", "train", env_id, "--updates", str(updates)]
        command += [varied, str(number), "--run-dir", str(run), "--eval-episodes", "1", *options]
        devices = number if varied == "--num-devices" else 1
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"NPROC": str(threads), "XLA_FLAGS": flags}
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
    args, options = parser.parse_known_args()
    varied, numbers = "--num-envs", NUM_ENVS
    if "--on-device" in options:
        varied, numbers = "--num-devices", DEVICES
    same = True
    for env_id in args.env_ids:
        found = set()
        for number, threads in itertools.product(numbers, THREADS):
            params, metrics = digests(env_id, args.updates, varied, number, threads, options)
            found.add((params, metrics))
            print(
                f"{env_id:14} {varied} {number}  NPROC={threads}  "
                f"params {params[:16]}  metrics {metrics[:16]}",
                flush=True,
            )
        print(f"{env_id:14} {len(found)} distinct result{'s' if len(found) > 1 else ''}")
        same &= len(found) == 1
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
