"""Send Ctrl-C and SIGTERM at ten moments of a run: check exit code, time and the run folder.

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
from kills import updates_made

COMMANDS = {
    "CartPole-v1": "--episodes-per-update 8 --updates 100000",
    "Pendulum-v1, async": "--vectorization async --num-envs 2 --updates 100000",
    "Pendulum-v1, on the device": "--on-device --updates 1000000 --no-compile-cache",
}
# Seconds after the start, or updates made: while importing, while compiling, early and late.
MOMENTS = (0.2, 1.0, 2.0, 3.5, 5.0, 7.0, "1", "2", "10", "40")


def has_ended(group: int) -> bool:
    """Whether all processes of a group end within two seconds."""
    for _ in range(20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    readme.parser(__doc__).parse_args()
    # In the background of a shell, SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bad, rows = 0, ["| run | signal | exit code | seconds | as expected |", "|---|---|---|---|---|"]
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
                updates_made(run) < int(moment)
                if isinstance(moment, str)
                else time.monotonic() - begun < moment
            ):
                time.sleep(0.005)
            begun = time.monotonic()
            os.killpg(process.pid, number)
            error = process.communicate()[1].decode().strip()
            seconds = time.monotonic() - begun
            # Before pgjax handles signals, the signal itself ends Python; report it as shells do.
            code = process.returncode if process.returncode >= 0 else 128 - process.returncode
            intact = True
            if updates_made(run):
                again = [sys.executable, "-m", "pgjax", "verify", str(run), "--updates", "1:1"]
                intact = subprocess.run(again, capture_output=True, check=False).returncode == 0
            good = code == 128 + number and seconds <= 5 and has_ended(process.pid) and intact
            good &= len(error.splitlines()) <= 1
            bad += not good
            when = f"at update {moment}" if isinstance(moment, str) else f"at {moment} s"
            yes = "yes" if good else "no"
            rows.append(f"| {kind} | {number.name}, {when} | {code} | {seconds:.1f} | {yes} |")
            print(rows[-1], "" if good else error, flush=True)
    readme.put_measured("signals", rows)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
