"""Several arrays side by side in one, since every argument of a compiled call costs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Field(NamedTuple):
    """Where one of the arrays lies."""

    row: int  # which of the joined arrays
    columns: slice  # of its last axis
    shape: tuple[int, ...]


class Layout(NamedTuple):
    """One joined array [..., width] for each dtype."""

    widths: tuple[int, ...]
    dtypes: tuple[np.dtype, ...]
    fields: tuple[Field, ...]


def lay_out(shapes: Iterable[tuple[tuple[int, ...], Any]]) -> Layout:
    """A layout for arrays of given shapes and dtypes."""
    widths: dict[np.dtype, int] = {}
    fields = []
    for shape, dtype in shapes:
        dtype = np.dtype(dtype)
        start = widths.setdefault(dtype, 0)
        widths[dtype] += math.prod(shape)
        row = list(widths).index(dtype)
        fields.append(Field(row, slice(start, widths[dtype]), shape))
    return Layout(tuple(widths.values()), tuple(widths), tuple(fields))


def split(layout: Layout, rows: Sequence[Any]) -> list[Any]:
    """The arrays [..., *shape] of joined ones [..., width]."""
    return [
        rows[f.row][..., f.columns].reshape(rows[f.row].shape[:-1] + f.shape) for f in layout.fields
    ]
