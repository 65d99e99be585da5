"""The code blocks of the README and of the pages in docs/, which tests run and type-check."""

import re
from typing import NamedTuple

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Above a block that takes many seconds, or that also needs a package.
MARK = r"<!-- (?:(slow)|needs (\w+)) -->\n"


class Block(NamedTuple):
    """A code block of a page."""

    name: str  # PAGE-NUMBER, from 1
    code: str
    slow: bool = False
    needs: str = ""  # a package, without which it is skipped


def blocks(language: str) -> list[Block]:
    """The blocks of all pages in a language, as ```language begins them."""
    found = []
    for page in PAGES:
        pattern = rf"(?:{MARK})?^```{language}\n(.*?)^```"
        for number, match in enumerate(re.findall(pattern, page.read_text(), re.S | re.M), 1):
            slow, needs, code = match
            found.append(Block(f"{page.stem}-{number}", code, bool(slow), needs))
    return found


def cells(page: str) -> str:
    """The code of a page of docs/ that is a notebook, which Sphinx runs."""
    text = (ROOT / "docs" / page).read_text()
    return "\n".join(re.findall(r"^```\{code-cell\}.*?\n(.*?)^```", text, re.S | re.M))
