"""Several arrays side by side in one, since every argument of a compiled call costs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.types import Info


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


def pack(info: Info) -> dict[tuple[str, ...], jax.Array]:
    """One array [k] for each dtype, by the names of what it holds: each array costs time."""
    groups: dict[Any, Info] = {}
    for name, value in info.items():
        groups.setdefault(value.dtype, {})[name] = value
    return {tuple(group): jnp.stack([*group.values()]) for group in groups.values()}


def unpack(groups: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse, of arrays [..., k], with plain numbers (or nested lists of them) by name."""
    values = {
        name: value
        for names, array in groups.items()
        for name, value in zip(names, np.moveaxis(np.asarray(array), -1, 0).tolist(), strict=True)
    }
    return dict(sorted(values.items()))
