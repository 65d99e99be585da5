"""Check the versions of the packages that pgjax needs, before one of them fails to import."""

import functools
import importlib.metadata
import re


@functools.cache
def check() -> None:
    """Raise ImportError, in one line, if an installed package is older than pgjax needs.

    What pgjax needs is read from its own metadata. A package that is missing is reported where it
    is imported.
    """
    try:
        needed = importlib.metadata.requires("pgjax") or []
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return
    old = []
    for requirement in needed:
        found = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)$", requirement)  # without an extra
        if found is None:
            continue
        name, least = found.groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if _numbers(version) < _numbers(least):
            old.append(f"{name} {version} is too old, {least} or newer is needed")
    if old:
        names = " ".join(text.split()[0] for text in old)
        raise ImportError(f"{'; '.join(old)}: pip install --upgrade {names}")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release: (1, 2) for 1.2.0rc1."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(x) for x in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
