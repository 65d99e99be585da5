"""Train on a disk that fills up, for every size in pages, then enlarge the disk and resume.

python benchmarks/full_disk.py   (Linux, with unprivileged user namespaces; the disk is a tmpfs)
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import readme

import pgjax
from pgjax.runs import digests
from pgjax.training import train as training

PAGE = os.sysconf("SC_PAGESIZE")
SETTINGS = dict(updates=30, episodes_per_update=2, checkpoint_seconds=0.0)
INSIDE = "--inside"  # run in a new user namespace, where mounting needs no privileges


def train(path: Path) -> str:
    """Train a run; return the error message if the disk is full, else an empty string."""
    try:
        training.train(pgjax.TrainConfig("CartPole-v1", run_dir=path, **SETTINGS))  # type: ignore[arg-type]
    except pgjax.RunError as e:
        return str(e)
    return ""


def mount(disk: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", disk], check=True)


def contents(run: Path) -> list[bytes]:
    state = pgjax.load(run).state
    params = digests.params_sha256((state.params, state.opt_state)).encode()
    logs = [(run / name).read_bytes() for name in ("metrics.jsonl", "digests.jsonl")]
    return [params, np.asarray(state.step).tobytes(), *logs]


def check(disk: Path, pages: int, whole: list[bytes]) -> tuple[bool, int] | None:
    """Run on a disk of `pages` pages: (handled well, updates saved), or None if the run fits."""
    mount(disk, f"size={pages * PAGE}")
    try:
        message = train(disk / "run")
        if not message:
            return None
        good, saved = "No space left" in message, 0
        if (disk / "run" / "checkpoints").exists() and any(disk.glob("run/checkpoints/*.ckpt")):
            saved = int(pgjax.load(disk / "run").state.step)
        mount(disk, "remount", f"size={1000 * PAGE}")
        if (disk / "run" / "config.json").exists():
            training.resume(disk / "run")
        else:
            good &= train(disk / "run") == ""
        return good and contents(disk / "run") == whole, saved
    finally:
        subprocess.run(["umount", disk], check=True)


def main() -> None:
    options = readme.parser(__doc__)
    options.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    if not options.parse_args().inside:
        unshare = ["unshare", "--user", "--map-root-user", "--mount"]
        again = [*unshare, sys.executable, __file__, INSIDE]
        raise SystemExit(subprocess.run(again, check=False).returncode)
    warnings.simplefilter("ignore", pgjax.RunWarning)  # about the checkpoint that was cut off
    found = []
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        train(Path(folder) / "whole")
        whole = contents(Path(folder) / "whole")
        for pages in range(3, 1000):
            result = check(disk, pages, whole)
            if result is None:
                break
            print(f"{pages} pages: {result[1]} updates saved, good: {result[0]}", flush=True)
            found.append(result)
    good, saved = zip(*found, strict=True)
    lines = [
        "| sizes that were too small | reported, then resumed to the same bytes | updates saved |",
        "|---|---|---|",
        f"| {len(found)} | {sum(good)} | {min(saved)} to {max(saved)} of {SETTINGS['updates']} |",
    ]
    readme.put_measured("full_disk", lines)
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
