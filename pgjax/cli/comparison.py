"""The result of `pgjax compare` as a table."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def comparison_table(found: dict[str, Any]) -> Group:
    """Format the result of `pgjax.compare`: numbered names, and a row for each group of runs."""
    groups = found["groups"]
    names = [Text(f"{i}  {group['name']}") for i, group in enumerate(groups, 1)]
    table = Table(caption=_caption(groups), box=None, pad_edge=False, caption_justify="left")
    columns = ["", "seeds", "return", "95 % interval", "env steps", "time"]
    for name in [*columns, "P(1 > this)"] if len(groups) > 1 else columns:
        table.add_column(name, justify="right", no_wrap=True)
    chances = ["", *map(_chance, found["improvement"])]
    for i, (group, chance) in enumerate(zip(groups, chances, strict=True), 1):
        row = str(i), *_figures(group), chance
        table.add_row(*row[: len(table.columns)])
    return Group(Text(f"{found['env_id']}, evaluation", "bold"), *names, "", table)


def _figures(group: dict[str, Any]) -> list[str]:
    seeds = f"{len(group['mean_by_seed'])}"
    if group["diverged"]:
        seeds += f" ({len(group['diverged'])} diverged)"
    if "low" in group:
        mean = _number(group["interquartile_mean"])
        interval = f"{_number(group['low'])} to {_number(group['high'])}"
    else:
        mean, interval = f"{_number(group['mean'])}*", ""
    return [seeds, mean, interval, f"{group['env_steps']:,.0f}", _duration(group["seconds"])]


def _number(x: float) -> str:
    """Format a return.

    >>> _number(1234.56), _number(-0.12345)
    ('1,234.6', '-0.123')
    """
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3f}"


def _chance(of: dict[str, Any]) -> str:
    text = f"{of['probability']:.2f}"
    return f"{text} ({of['low']:.2f} to {of['high']:.2f})" if "low" in of else text


def _duration(seconds: float) -> str:
    """Format a duration.

    >>> _duration(12.34), _duration(754.0), _duration(8000.0)
    ('12.3 s', '12.6 min', '2.2 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _caption(groups: list[dict[str, Any]]) -> str:
    sentences = []
    if any("low" in group for group in groups):
        sentences.append("Return: interquartile mean over seeds, with its bootstrap interval.")
    if any("low" not in group for group in groups):
        sentences.append("*: the mean of fewer than five seeds, too few for an interval.")
    sentences.append("Steps and time: mean over seeds.")
    if len(groups) > 1:
        sentences.append(
            "P: probability that a seed of row 1 has a higher return than one of this row."
        )
    return " ".join(sentences)
