"""Write measured tables into README.md, each between the two markers of its name.

    python benchmarks/readme.py NAME COMMAND [ARGUMENT ...]

Runs a command from the repository's root folder and writes its output into the block NAME.
"""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import jax

HERE = Path(__file__).parent


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser whose --help prints the docstring of a script unformatted."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=form)


def date_and_machine() -> dict[str, str]:
    """Return the date and the machine of a benchmark."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine}


def line(details: Mapping[str, object]) -> str:
    """Return the last line of a block: date, machine, versions and the like."""
    return "; ".join(f"{name}: {value}" for name, value in details.items())


def put(folder: Path, name: str, block: str) -> None:
    """Replace the block `name` of the folder's README.md, if the file has its markers."""
    path, start, end = folder / "README.md", f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if path.exists() and start in (text := path.read_text()):
        before, rest = text.split(start)
        path.write_text(before + start + block + "\n" + end + rest.split(end)[1])


def put_measured(name: str, lines: list[str]) -> None:
    """Print a block, with the date, machine and versions below it, and write it to README.md."""
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    block = "\n".join([*lines, "", line(date_and_machine() | {"versions": versions})])
    print(block)
    put(HERE, name, block)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("name")
    options.add_argument("command", nargs=argparse.REMAINDER)
    args = options.parse_args()
    if not args.command:
        options.error("give the command whose output goes into the block")
    begun = time.perf_counter()
    process = subprocess.Popen(args.command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for text in process.stdout:
        print(text, end="", flush=True)
        lines.append(text.rstrip())
    if process.wait():
        raise SystemExit(f"{args.name}: exit code {process.returncode}")
    seconds = f"{time.perf_counter() - begun:.0f} s in total"
    put_measured(args.name, ["```", *lines, "```", "", seconds])


if __name__ == "__main__":
    main()
