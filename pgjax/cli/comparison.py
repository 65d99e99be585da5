"""The result of `pgjax compare` as a table."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pgjax.evaluation.comparison_text import comparison_text


def comparison_table(found: dict[str, Any]) -> Group:
    """Format the result of `pgjax.compare`: numbered names, and a row for each group of runs."""
    names = [Text(f"{i}  {group['name']}") for i, group in enumerate(found["groups"], 1)]
    text = comparison_text(found)
    table = Table(caption=text.caption, box=None, pad_edge=False, caption_justify="left")
    for name in ["", *text.columns]:
        table.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(text.rows, 1):
        table.add_row(str(i), *row)
    return Group(Text(f"{found['env_id']}, evaluation", "bold"), *names, "", table)
