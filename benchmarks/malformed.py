"""Check that malformed environments, spaces, configs and run folders give one clear error line.

    python benchmarks/malformed.py

Each case is a command that runs in a separate process and folder, with an optional shell command
that prepares the folder. The command must end within ten seconds with exit code 2, print one line
on stderr that begins with "pgjax:", and leave all files unchanged: it creates no run folder when
nothing was learned, and modifies no existing one. Prints one line per case, writes the table into
README.md, and exits with 1 if any case fails.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import readme

from pgjax.runs import store

HERE = Path(__file__).parent
MAX_SECONDS, GIVE_UP = 10.0, 60.0
FEW = "--updates 1 --episodes-per-update 2 --eval-episodes 1"
WHOLE = "train CartPole-v1 --updates 4 --no-anneal-lr --run-dir run"
LONG = 300 * "a"


def train_on(names: str, options: str = "") -> list[str]:
    return [f"train malformed_envs:{name}-v0 {options}".rstrip() for name in names.split()]


# [preparation; ]command
CASES = {
    "environments": [
        "train NoSuchThing-v0",
        "train no_such_module:CartPole-v1",
        "echo 'class Env(:' > mine.py; train mine:Mine-v0",
        "echo 'import sys; sys.exit(0)' > mine.py; train mine:Mine-v0",
        *train_on(
            "MakingRaises NotAnEnv WithoutSeed ResetRaises ResetGivesNoInfo StepRaises StepExits"
        ),
        *train_on(
            "StepGivesFour ObsNaN ObsShape ObsText ObsFloatForBytes RewardNone EndsAreArrays"
        ),
        *train_on("StepHangs", "--step-timeout 1"),
        *train_on("StepExits", "--vectorization async --num-envs 2"),
    ],
    "spaces": [
        *train_on(
            "WithoutSpaces ObsSequence ObsGraph ObsTextSpace ObsDictOfText ObsTuple ObsEmpty"
        ),
        *train_on("ObsHuge ActionOneOf ActionEmpty ActionHuge ActionOfNone"),
        *train_on("ActionUnbounded", "--squash"),
        *train_on("Good", "--on-device"),
    ],
    "configs": [
        "fly",
        "train --anneal-lr CartPole-v1",
        "train CartPole-v1 --gama 0.9",
        "train CartPole-v1 --gamma nan",
        "train CartPole-v1 --learning-rate 1e39",
        "train CartPole-v1 --updates 1e3",
        "train CartPole-v1 --hidden-sizes 0",
        "train CartPole-v1 --estimator gae",
        "train CartPole-v1 --seeds 2",
        "train CartPole-v1 --on-device --seeds 1000000000",
        "train CartPole-v1 --num-devices 0",
        "train CartPole-v1 --on-device --num-devices 999",
        "train CartPole-v1 --process-id 0",
        "train CartPole-v1 --coordinator auto",
        "JAX_PLATFORMS=abacus train CartPole-v1",
        "mkdir there && touch there/mine; train CartPole-v1 --run-dir there",
        "touch runs; train CartPole-v1",
        f"train CartPole-v1 --run-dir {LONG}",
    ],
    "run folders": [
        "rm -r run; evaluate run",
        "rm run/config.json; resume run",
        "echo { > run/config.json; evaluate run",
        "sed -i.old s/0.99/0.98/ run/config.json; resume run",
        "mv run/config.json . && ln -s ../config.json run; verify run",
        "printf %100000s | tr ' ' [ > run/config.json; resume run",
        "seal env_id=Gone-v0; resume run",
        "seal env_id=json:CartPole-v1; render run",
        "seal of_a_newer_version=1; export run",
        "seal seed=7; evaluate run",
        "for f in run/checkpoints/*; do truncate -s -9 $f; done; evaluate run",
        "rm run/metrics.jsonl; evaluate run",
        "echo [1] > run/metrics.jsonl; plot run",
        "echo garbage > run/digests.jsonl; verify run",
        "echo garbage > run/seeds.json; resume run",
        "verify run --updates 1:999",
        "resume run --updates 0",
        "render run --out video.avi",
        "mkdir curve.png; plot run --out curve.png",
        "touch there; export run --out there/orbax",
    ],
}


class Outcome(NamedTuple):
    """The result of a case."""

    seconds: float
    message: str
    faults: list[str]


def start(words: str, folder: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE), env.get("PYTHONPATH", "")])
    argv = shlex.split(words)
    if "=" in argv[0]:
        name, _, env[name] = argv.pop(0).partition("=")
    if argv[0] == "train":
        argv[2:2] = FEW.split()  # before the options of the case, which override it
    return subprocess.Popen(
        [sys.executable, "-m", "pgjax", *argv],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def prepare(words: str, folder: Path) -> None:
    """Run the preparation in a shell; `seal NAME=VALUE` changes a setting and its digest."""
    if words.startswith("seal "):
        path = folder / "run" / "config.json"
        name, _, value = words.removeprefix("seal ").partition("=")
        changed = json.loads(value) if value.isdecimal() else value
        store.write_sealed(path, {**store.read_sealed(path), name: changed})
    elif words:
        subprocess.run(words, shell=True, cwd=folder, check=True)


def contents(folder: Path) -> dict[str, object]:
    """Every file, link and folder inside `folder`, with its bytes."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def run_case(case: str, folder: Path) -> Outcome:
    before, _, command = case.rpartition("; ")
    prepare(before, folder)
    original, begun = contents(folder), time.monotonic()
    process = start(command, folder)
    try:
        message = process.communicate(timeout=GIVE_UP)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        message = process.communicate()[1]
    seconds, lines = time.monotonic() - begun, message.strip().splitlines()
    found = {
        f"exit code {process.returncode}": process.returncode != 2,
        f"{len(lines)} lines": len(lines) != 1 or not lines[0].startswith("pgjax: "),
        "too slow": seconds > MAX_SECONDS,
        "the folder changed": contents(folder) != original,
    }
    last = lines[-1] if lines else "no message"
    return Outcome(seconds, last, [fault for fault, present in found.items() if present])


def table(outcomes: dict[str, list[Outcome]]) -> list[str]:
    lines = ["| malformed input | cases | handled correctly | slowest, s |", "|---|---|---|---|"]
    everything = [each for group in outcomes.values() for each in group]
    for name, group in {**outcomes, "all": everything}.items():
        good, slowest = sum(not each.faults for each in group), max(each.seconds for each in group)
        lines.append(f"| {name} | {len(group)} | {good} | {slowest:.1f} |")
    return lines


def main() -> None:
    readme.parser(__doc__).parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        whole.mkdir()
        process = start(WHOLE, whole)
        assert process.wait() == 0, process.communicate()[1]
        for group, cases in CASES.items():
            outcomes[group] = []
            for i, case in enumerate(cases):
                folder = Path(root) / f"{group} {i}"
                shutil.copytree(whole, folder) if group == "run folders" else folder.mkdir()
                outcome = run_case(case, folder)
                outcomes[group].append(outcome)
                verdict = f"BAD ({', '.join(outcome.faults)})" if outcome.faults else "good"
                short = case.replace(LONG, "aaa...")
                print(
                    f"{verdict}  {outcome.seconds:.1f} s  {short}\n    {outcome.message}",
                    flush=True,
                )
                shutil.rmtree(folder)
    readme.put_measured("malformed", table(outcomes))
    raise SystemExit(any(each.faults for group in outcomes.values() for each in group))


if __name__ == "__main__":
    main()
