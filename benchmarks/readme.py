"""The tables in README.md are put there by the scripts that measure them.

    python benchmarks/readme.py NAME COMMAND [ARGUMENT ...]

runs a command from the folder above and puts what it prints into the block of that name.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax

HERE = Path(__file__).parent


def here() -> dict[str, str]:
    """When and where something is measured."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine}


def line(facts: Mapping[str, object]) -> str:
    """The last line of a block."""
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def put(folder: Path, name: str, block: str) -> None:
    """Put a block between the marks of its name in the folder's README.md, if they are there."""
    path, start, end = folder / "README.md", f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if path.exists() and start in (text := path.read_text()):
        before, rest = text.split(start)
        path.write_text(before + start + block + "\n" + end + rest.split(end)[1])


def put_measured(name: str, lines: list[str]) -> None:
    """As `put`, here, with the day, the machine and the versions below."""
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    block = "\n".join([*lines, "", line(here() | {"versions": versions})])
    print(block)
    put(HERE, name, block)


def main() -> None:
    name, *command = sys.argv[1:]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for text in process.stdout:
        print(text, end="", flush=True)
        lines.append(text.rstrip())
    if process.wait():
        raise SystemExit(f"{name}: exit code {process.returncode}")
    seconds = f"{time.perf_counter() - begun:.0f} s in all"
    put_measured(name, ["```", *lines, "```", "", seconds])


if __name__ == "__main__":
    main()
