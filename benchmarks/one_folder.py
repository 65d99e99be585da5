"""Start ten processes on one run folder: one runs, and the others must be refused quickly.

python benchmarks/one_folder.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import readme

PROCESSES = 10
STARTED = """
import sys, time
from pgjax.cli import main
begun = time.monotonic()
try:
    main(sys.argv[1:])
finally:
    print("seconds", time.monotonic() - begun)
"""


def main() -> None:
    readme.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = f"train CartPole-v1 --updates 100 --eval-episodes 2 --run-dir {folder}/run".split()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", STARTED, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        ends = [(*process.communicate(), process.returncode) for process in started]
        updates = (Path(folder) / "run" / "metrics.jsonl").read_bytes().count(b"\n")
    refused = [
        (float(out.rsplit("seconds ", 1)[1]), error.strip().splitlines())
        for out, error, code in ends
        if code == 2
    ]
    one_line = all(len(lines) == 1 and lines[0].startswith("pgjax:") for _, lines in refused)
    ran = [code for *_, code in ends].count(0)
    slowest = max(seconds for seconds, _ in refused)
    lines = [
        "| processes | ran | refused (exit code 2, one line) | slowest refusal, after imports |",
        "|---|---|---|---|",
        f"| {PROCESSES} | {ran} | {len(refused)} | {slowest:.2f} s |",
        "",
        f"The process that ran made {updates} of 100 updates.",
    ]
    readme.put_measured("one_folder", lines)
    good = ran == 1 and len(refused) == PROCESSES - 1 and one_line
    good = good and updates == 100 and slowest <= 1
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
