"""A disk that fills at each page: a tmpfs that is too small, then made larger to go on.

python benchmarks/full_disk.py   (Linux, where users may have namespaces of their own)
"""

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

PAGE = os.sysconf("SC_PAGESIZE")
SETTINGS = dict(updates=30, episodes_per_update=2, checkpoint_seconds=0.0)
INSIDE = "--inside"  # a namespace of our own, where anybody may mount


def trained(path: Path) -> str:
    """What is said of a disk that is full, or nothing."""
    try:
        pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=path, **SETTINGS))  # type: ignore[arg-type]
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
    """Whether all was well on a disk of so many pages, and the updates saved; None if it fits."""
    mount(disk, f"size={pages * PAGE}")
    try:
        said = trained(disk / "run")
        if not said:
            return None
        good, saved = "No space left" in said, 0
        if (disk / "run" / "checkpoints").exists() and any(disk.glob("run/checkpoints/*.ckpt")):
            saved = int(pgjax.load(disk / "run").state.step)
        mount(disk, "remount", f"size={1000 * PAGE}")
        if (disk / "run" / "config.json").exists():
            pgjax.resume(disk / "run")
        else:
            good &= trained(disk / "run") == ""
        return good and contents(disk / "run") == whole, saved
    finally:
        subprocess.run(["umount", disk], check=True)


def main() -> None:
    if INSIDE not in sys.argv:
        unshare = ["unshare", "--user", "--map-root-user", "--mount"]
        again = [*unshare, sys.executable, __file__, INSIDE]
        raise SystemExit(subprocess.run(again, check=False).returncode)
    warnings.simplefilter("ignore", pgjax.RunWarning)  # of the checkpoint that was cut off
    found = []
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        trained(Path(folder) / "whole")
        whole = contents(Path(folder) / "whole")
        for pages in range(3, 1000):
            result = check(disk, pages, whole)
            if result is None:
                break
            print(f"{pages} pages: saved {result[1]} updates, good: {result[0]}", flush=True)
            found.append(result)
    good, saved = zip(*found, strict=True)
    lines = [
        "| sizes too small | told, and resumed to the same bytes | updates saved |",
        "|---|---|---|",
        f"| {len(found)} | {sum(good)} | {min(saved)} to {max(saved)} of {SETTINGS['updates']} |",
    ]
    readme.put_measured("full_disk", lines)
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
