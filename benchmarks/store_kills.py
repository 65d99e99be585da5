"""Kill the store at each system call that it makes, and again while it recovers.

python benchmarks/store_kills.py   (Linux, with strace)

The process is killed on entering each call, that is, also after the previous one.
"""

import collections
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import readme

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from store_script import contents  # noqa: E402

# The system calls after the change of folder are those of the store.
SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store_script import script
os.chdir(sys.argv[1])
script(Path("."))
"""


def strace(folder: Path, *options: str) -> int:
    folder.mkdir(exist_ok=True)
    command = ["strace", "-f", *options, sys.executable, "-c", SCRIPT, str(folder), str(TESTS)]
    env = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.run(command, capture_output=True, check=False, env=env).returncode


def calls(folder: Path, log: Path) -> list[tuple[str, int]]:
    """The store's system calls in order: (name, count of calls of that name so far)."""
    assert strace(folder, "-o", str(log)) == 0
    seen: collections.Counter[str] = collections.Counter()
    found, ours = [], False
    for line in log.read_text().splitlines():
        if call := re.match(r"\d+ +(\w+)\(", line):
            seen[call[1]] += 1
            if ours and call[1] not in ("exit_group", "rt_sigaction"):
                found.append((call[1], seen[call[1]]))
            ours = ours or call[1] == "chdir"
    return found


def kill_at(folder: Path, name: str, number: int) -> bool:
    return strace(folder, "-e", f"inject={name}:signal=SIGKILL:when={number}") != 0


def main() -> None:
    readme.parser(__doc__).parse_args()
    random.seed(0)
    killed = again = good = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        points = calls(root / "whole", root / "log")
        whole = contents(root / "whole")
        for i, (call, number) in enumerate(points):
            folder = root / str(i)
            killed += kill_at(folder, call, number)
            again += kill_at(folder, *random.choice(points))
            good += strace(folder) == 0 and contents(folder) == whole
    by_name = collections.Counter(call for call, _ in points)
    lines = [
        "| system calls | killed at each | killed again in recovery | byte-identical at the end |",
        "|---|---|---|---|",
        f"| {len(points)} | {killed} | {again} | {good} |",
        "",
        ", ".join(f"{call} {n}" for call, n in by_name.most_common()),
    ]
    readme.put_measured("store_kills", lines)
    raise SystemExit(not killed == good == len(points))


if __name__ == "__main__":
    main()
