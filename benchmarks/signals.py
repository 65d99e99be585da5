"""Ctrl-C and SIGTERM at ten moments of a run: exit code, seconds, and does it resume?

python benchmarks/signals.py
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import readme
from kills import made

COMMANDS = {
    "CartPole-v1": "--episodes-per-update 8 --updates 100000",
    "Pendulum-v1, async": "--vectorization async --num-envs 2 --updates 100000",
    "Pendulum-v1, on the device": "--on-device --updates 1000000 --no-compile-cache",
}
# Seconds after the start, or updates that were made: importing, compiling, early, late.
MOMENTS = (0.2, 1.0, 2.0, 3.5, 5.0, 7.0, "1", "2", "10", "40")


def gone(group: int) -> bool:
    for _ in range(20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    bad, rows = (
        0,
        ["| run | signal | exit code | seconds | as it should be |", "|---|---|---|---|---|"],
    )
    with tempfile.TemporaryDirectory() as folder:
        for i, moment in enumerate(MOMENTS):
            kind = list(COMMANDS)[i % len(COMMANDS)]
            number = (signal.SIGINT, signal.SIGTERM)[i % 2]
            run = Path(folder) / str(i)
            command = [sys.executable, "-m", "pgjax", "train", kind.partition(",")[0]]
            process = subprocess.Popen(
                [*command, *COMMANDS[kind].split(), "--run-dir", str(run)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            begun = time.monotonic()
            while (
                made(run) < int(moment)
                if isinstance(moment, str)
                else time.monotonic() - begun < moment
            ):
                time.sleep(0.005)
            begun = time.monotonic()
            os.killpg(process.pid, number)
            error = process.communicate()[1].decode().strip()
            seconds = time.monotonic() - begun
            # Before Python has come to our code the signal itself ends it, as a shell tells it.
            code = process.returncode if process.returncode >= 0 else 128 - process.returncode
            resumes = True
            if made(run):
                again = [sys.executable, "-m", "pgjax", "verify", str(run), "--updates", "1:1"]
                resumes = subprocess.run(again, capture_output=True, check=False).returncode == 0
            good = code == 128 + number and seconds <= 5 and gone(process.pid) and resumes
            good &= len(error.splitlines()) <= 1
            bad += not good
            when = f"update {moment}" if isinstance(moment, str) else f"{moment} s"
            yes = "yes" if good else "no"
            rows.append(f"| {kind} | {number.name}, {when} | {code} | {seconds:.1f} | {yes} |")
            print(rows[-1], "" if good else error, flush=True)
    readme.put_measured("signals", rows)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
