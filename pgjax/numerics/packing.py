"""Pack arrays together, since every argument and result of a compiled call costs time."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Field(NamedTuple):
    """The place of one array."""

    row: int  # index of the joined array
    columns: slice  # of its last axis
    shape: tuple[int, ...]  # of the array itself, without leading axes


class Layout(NamedTuple):
    """Several arrays side by side in joined arrays [..., width], one for each dtype."""

    widths: tuple[int, ...]
    dtypes: tuple[np.dtype, ...]
    fields: tuple[Field, ...]


def lay_out(shapes: Iterable[tuple[tuple[int, ...], Any]]) -> Layout:
    """Return a layout for arrays with the given shapes and dtypes.

    >>> lay_out([((2,), "float32"), ((), "uint32"), ((1, 3), "float32")]).widths
    (5, 1)
    """
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
    """Split joined arrays [..., width] into the arrays [..., *shape] of a layout."""
    return [
        rows[f.row][..., f.columns].reshape(rows[f.row].shape[:-1] + f.shape) for f in layout.fields
    ]


def pack(scalars: dict[str, Any]) -> dict[tuple[str, ...], jax.Array]:
    """Stack scalars of the same dtype into one array [k], keyed by their names.

    Arrays are stacked too, along a new last axis, if they have the same shape.
    """
    groups: dict[Any, dict[str, jax.Array]] = {}
    for name, value in scalars.items():
        value = jnp.asarray(value)
        groups.setdefault((value.dtype, value.shape), {})[name] = value
    return {tuple(group): jnp.stack([*group.values()], -1) for group in groups.values()}


def unpack(groups: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Undo `pack`: return NumPy scalars by name, or arrays [...] if those given are [..., k]."""
    values = {
        name: value
        for names, array in groups.items()
        for name, value in zip(names, np.moveaxis(np.asarray(array), -1, 0), strict=True)
    }
    return dict(sorted(values.items()))
