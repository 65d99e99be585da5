"""Kill runs (SIGKILL) at many points, resume them, and compare with an uninterrupted run.

    python benchmarks/kills.py [--points 30]

Prints one line per point and a table; exits with 1 if any resumed run ends differently.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import readme

KINDS = {
    "CartPole-v1": "CartPole-v1 --updates 60 --episodes-per-update 8",
    "Pendulum-v1": "Pendulum-v1 --updates 20",
    "CartPole-v1, async": "CartPole-v1 --updates 30 --episodes-per-update 4 --num-envs 2 "
    "--vectorization async",
    "Pendulum-v1, on the device": "Pendulum-v1 --updates 600 --episodes-per-update 16 --on-device",
    "CartPole-v1, PPO": "CartPole-v1 --algorithm ppo --collect episodes --episodes-per-update 4 "
    "--updates 40",
    "CartPole-v1, PPO on streams on the device": "CartPole-v1 --algorithm ppo --on-device "
    "--updates 300",
}
COMMON = "--checkpoint-seconds 0.2 --eval-episodes 2"
SAME = ("config.json", "metrics.jsonl", "digests.jsonl", "evaluation.json")


def start(*argv: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pgjax", *argv]
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **silent)


def updates_made(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def last_state(run: Path) -> bytes:
    """The bytes of parameters, optimiser state, key and step in the last checkpoint."""
    newest = max((run / "checkpoints").glob("*.ckpt"))
    return newest.name.encode() + newest.read_bytes().partition(b"}}\n")[2]


def kill_at(run: Path, train: list[str], point: float, whole: int) -> int:
    """Start a run, kill it near `point` (0 to 1), and return how many updates it had made."""
    process = start(*train, "--run-dir", str(run))
    while process.poll() is None and updates_made(run) < point * whole:
        time.sleep(0.002)
    time.sleep(random.random() * 0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return updates_made(run)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--points", type=int, default=30, help="how many kills, over all runs")
    parser.add_argument("--only", default="", help="only the runs whose name contains this")
    args = parser.parse_args()
    points = args.points
    kinds = {kind: words for kind, words in KINDS.items() if args.only in kind}
    random.seed(0)
    table: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, words) in enumerate(kinds.items()):
            whole, train = Path(folder) / f"whole-{number}", ["train", *f"{words} {COMMON}".split()]
            assert start(*train, "--run-dir", str(whole)).wait() == 0, kind
            updates = updates_made(whole)
            mine = range(number, points, len(kinds))
            table[kind] = []
            for i, _ in enumerate(mine):
                run = Path(folder) / "run"
                killed_after = kill_at(run, train, (i + 0.3) / len(mine), updates)
                code = start("resume", str(run)).wait()
                same = code == 0 and last_state(run) == last_state(whole)
                same &= all((run / n).read_bytes() == (whole / n).read_bytes() for n in SAME)
                table[kind].append(same)
                print(f"{kind}: killed after update {killed_after} of {updates}, identical: {same}")
                shutil.rmtree(run)
    rows = [f"| {kind} | {len(x)} | {sum(x)} |" for kind, x in table.items()]
    if args.only:
        print("\n".join(rows))
    else:
        readme.put_measured("kills", ["| run | killed | identical |", "|---|---|---|", *rows])
    raise SystemExit(0 if all(map(all, table.values())) else 1)


if __name__ == "__main__":
    main()
