"""The metrics of a run as a table by column."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pgjax.errors import ConfigError, counted

if TYPE_CHECKING:
    import pandas


class Metrics(Mapping[str, np.ndarray]):
    """Metrics of all updates, by column.

    Use it like a dict of arrays: `metrics["mean_return"]` has one number per update.

    Args:
      rows: the metrics of each update; a value that an update lacks is NaN.

    Example:
      >>> Metrics([{"update": 1, "mean_return": 9.5}, {"update": 2, "mean_return": 12.0}])
      Metrics of 2 updates: update, mean_return
    """

    def __init__(self, rows: Sequence[dict[str, Any]]):
        names = list(dict.fromkeys(name for row in rows for name in row))
        self._columns = {name: _column([row.get(name) for row in rows]) for name in names}
        self._num_updates = len(rows)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column [updates], int64 or float64."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Metrics of {counted(self._num_updates, 'update')}: {', '.join(self)}"

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a DataFrame with one row per update.

        Raises:
          ConfigError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(dict(self))


def _column(values: list[Any]) -> np.ndarray:
    if None in values:
        values = [np.nan if value is None else value for value in values]
    return np.array(values)
