"""The code blocks of the README and of the pages in docs/, which tests run and type-check."""

import re
from typing import NamedTuple

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SLOW = "<!-- slow -->\n"  # above a block that takes many seconds


class Block(NamedTuple):
    """A code block of a page."""

    name: str  # PAGE-NUMBER, from 1
    code: str
    slow: bool


def blocks(language: str) -> list[Block]:
    """The blocks of all pages in a language, as ```language begins them."""
    found = []
    for page in PAGES:
        pattern = rf"({SLOW})?^```{language}\n(.*?)^```"
        for number, match in enumerate(re.findall(pattern, page.read_text(), re.S | re.M), 1):
            found.append(Block(f"{page.stem}-{number}", match[1], bool(match[0])))
    return found


def cells(page: str) -> str:
    """The code of a page of docs/ that is a notebook, which Sphinx runs."""
    text = (ROOT / "docs" / page).read_text()
    return "\n".join(re.findall(r"^```\{code-cell\}.*?\n(.*?)^```", text, re.S | re.M))
