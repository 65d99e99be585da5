"""The tables in README.md are put there by the scripts that measure them."""

from pathlib import Path


def put(folder: Path, name: str, block: str) -> None:
    """Put a block between the marks of its name in the folder's README.md, if there is one."""
    path = folder / "README.md"
    if path.exists():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = path.read_text().split(start)
        path.write_text(before + start + block + "\n" + end + rest.split(end)[1])
