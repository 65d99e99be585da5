"""The result of `pgjax compare` as the text of a table, for the terminal and for a report."""

from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of text."""

    columns: list[str]
    rows: list[list[str]]
    caption: str


def comparison_text(found: dict[str, Any], first: int = 1) -> Table:
    """Format the result of `pgjax.compare`: a row for each group, without its name.

    `first` is the number by which the text names the first group.
    """
    groups = found["groups"]
    columns = ["seeds", "return", "95 % interval", "env steps", "time"]
    rows = [_figures(group) for group in groups]
    if len(groups) > 1:
        columns.append(f"P({first} > this)")
        for row, chance in zip(rows, ["", *map(_chance, found["improvement"])], strict=True):
            row.append(chance)
    return Table(columns, rows, _caption(groups, first))


def _figures(group: dict[str, Any]) -> list[str]:
    seeds = f"{len(group['mean_by_seed'])}"
    if group["diverged"]:
        seeds += f" ({len(group['diverged'])} diverged)"
    if "low" in group:
        mean = number(group["interquartile_mean"])
        interval = f"{number(group['low'])} to {number(group['high'])}"
    else:
        mean, interval = f"{number(group['mean'])}*", ""
    return [seeds, mean, interval, f"{group['env_steps']:,.0f}", duration(group["seconds"])]


def number(x: float) -> str:
    """Format a return.

    >>> number(1234.56), number(-0.12345)
    ('1,234.6', '-0.123')
    """
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3f}"


def _chance(of: dict[str, Any]) -> str:
    text = f"{of['probability']:.2f}"
    return f"{text} ({of['low']:.2f} to {of['high']:.2f})" if "low" in of else text


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(12.34), duration(754.0), duration(8000.0)
    ('12.3 s', '12.6 min', '2.2 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _caption(groups: list[dict[str, Any]], first: int) -> str:
    sentences = []
    if any("low" in group for group in groups):
        sentences.append("Return: interquartile mean over seeds, with its bootstrap interval.")
    if any("low" not in group for group in groups):
        sentences.append("*: the mean of fewer than five seeds, too few for an interval.")
    sentences.append("Steps and time: mean over seeds.")
    if len(groups) > 1:
        sentences.append(
            f"P: probability that a seed of row {first} has a higher return than one of this row."
        )
    return " ".join(sentences)
