"""Settings of Sphinx: `sphinx-build -W docs docs/_build` builds the documentation."""

import importlib.metadata
import os
import re
from typing import Any

from docutils import nodes
from jax.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

project = "pgjax"
author = "The pgjax authors"
copyright = "The pgjax authors"
version = release = importlib.metadata.version("pgjax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = f"pgjax {version}"
html_static_path = ["static"]
html_css_files = ["pgjax.css"]

myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True  # runs are written there
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300  # seconds, of a cell
nb_merge_streams = True
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # notebooks run anywhere

default_role = "py:obj"  # `name` in a docstring links to the name, if it is documented
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
smartquotes = False  # they change params["critic"] and --seed
maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

SECTION = re.compile(r"[A-Z]\w+:")  # of a docstring

# Pages that show a file of the repository, to which other pages link as a file, so that their links
# also work where the repository is browsed.
PAGE_OF = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../benchmarks/README.md": "measurements.md",
}


def link_to_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn links to files that the site has as pages into links to these pages."""
    up = "../" * docname.count("/")
    for file, page in PAGE_OF.items():
        for end in ")#":
            source[0] = source[0].replace(f"]({up}{file}{end}", f"]({up}{page}{end}")


def to_markup(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what Sphinx would read as markup in a docstring, which is plain text.

    Only `code`, >>> examples and the sections of Google's style mean something. Formulas, which are
    indented, are shown as they are.
    """
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ", 1)  # else what precedes it is a type
    marked, heading, kind = [], "", "text"
    for above, line in zip(["", *lines], lines, strict=False):
        indented = line.startswith(" ")
        if line.strip() and not indented:
            heading, kind = line, "text"
        if line.lstrip().startswith(">>>"):
            kind = "example"
        elif not line.strip():
            kind = "text" if kind == "example" else kind
        elif indented and not above and kind == "text" and not SECTION.fullmatch(heading):
            marked, kind = [*marked, ".. code-block:: text", ""], "formula"
        marked.append(escape(line) if kind == "text" else line)
    lines[:] = marked


def escape(line: str) -> str:
    """Escape emphasis, substitutions and references outside of `code`."""
    parts = re.split("(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str
) -> tuple[str | None, str] | None:
    """Write ArrayLike for the dozen types that it stands for."""
    if signature is None:
        return None
    for mode in ("smart", "fully-qualified-except-typing"):
        types = stringify_annotation(ArrayLike, mode)
        signature = signature.replace(types, "ArrayLike")
        returns = returns and returns.replace(types, "ArrayLike")
    return signature, returns


def draw_dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Put a dash between a parameter and what it means; options such as --seed keep theirs."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            after = text.parent[text.parent.index(text) + 1 :]
            meaning = "".join(node.astext() for node in after)
            text.parent.replace(text, nodes.Text(" \N{EN DASH} " if meaning else ""))


def setup(app: Sphinx) -> None:
    """Connect the functions above; Sphinx calls it."""
    app.connect("source-read", link_to_pages)
    app.connect("autodoc-process-docstring", to_markup, priority=0)  # before napoleon
    app.connect("doctree-read", draw_dashes)
    app.connect("autodoc-process-signature", shorten_signature)
