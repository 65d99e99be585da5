"""The tables in README.md are put there by the scripts that measure them."""

import os
import platform
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
    """Put a block between the marks of its name in the folder's README.md, if there is one."""
    path = folder / "README.md"
    if path.exists():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = path.read_text().split(start)
        path.write_text(before + start + block + "\n" + end + rest.split(end)[1])


def put_measured(name: str, lines: list[str]) -> None:
    """As `put`, here, with the day, the machine and the versions below."""
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    block = "\n".join([*lines, "", line(here() | {"versions": versions})])
    print(block)
    put(HERE, name, block)
