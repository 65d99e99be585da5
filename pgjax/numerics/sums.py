"""Work on rows in chunks of a fixed size and in a fixed order.

A sum over many rows rounds differently with the number of threads, with padding and with the
number of devices, since each changes how the rows are grouped. Chunks of a fixed size, summed one
after the other from zero, are grouped the same way always; appended zeros change nothing. On CPU
it is also quicker than one large batch, whose activations leave the cache.

Several devices each take some of the columns. So that their number changes nothing either, columns
are grouped into shards, fixed beforehand: the chunks of a shard are summed on one device, and the
sums of the shards are gathered and added in order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.errors import ConfigError

CHUNK_SIZE = 128  # rows; up to 128, results were seen equal at every thread count tried


class Sharding(NamedTuple):
    """How the columns of a batch are grouped, and over which devices."""

    num_shards: int = 1  # in all, over all devices; columns are padded to a multiple of it
    axis_name: str | None = None  # of the mapped axis whose devices hold the columns, in order

    def num_devices(self) -> int:
        """How many devices share the columns; they must divide the number of shards."""
        devices = lax.axis_size(self.axis_name) if self.axis_name else 1
        if self.num_shards % devices:
            raise ConfigError(
                f"{self.num_shards} shards cannot be divided among {devices} devices: choose a "
                "number of devices that divides them (--num-devices, --num-shards)"
            )
        return devices

    def pad(self, columns: int) -> int:
        """The number of columns with those that fill the last shards."""
        return -(-columns // self.num_shards) * self.num_shards

    def gather(self, tree: Any, axis: int = 0) -> Any:
        """Of each device's leaves the whole, on every device."""
        if self.axis_name is None:
            return tree
        return lax.all_gather(tree, self.axis_name, axis=axis, tiled=True)

    def mine(self, whole: jax.Array) -> jax.Array:
        """[T, B, ...] -> this device's columns."""
        if self.axis_name is None:
            return whole
        size = whole.shape[1] // lax.axis_size(self.axis_name)
        return lax.dynamic_slice_in_dim(whole, lax.axis_index(self.axis_name) * size, size, 1)


def split_rows(tree: Any, chunk_size: int | None, shards: int = 1) -> Any:
    """Leaves [T, B, ...] -> [shards, n, chunk_size, ...], rows of a shard in time-major order.

    Zeros fill the last chunk. With `chunk_size=None` a shard is one chunk; otherwise there are two
    at least, since XLA takes a loop over one chunk apart, and then rounds it with what is around.
    """

    def split(leaf: jax.Array) -> jax.Array:
        time, columns, *rest = leaf.shape
        rows = jnp.moveaxis(leaf.reshape(time, shards, columns // shards, *rest), 1, 0)
        rows = rows.reshape(shards, -1, *rest)
        size, count = chunk_size or rows.shape[1], 1
        if chunk_size is not None:
            count = max(2, -(-rows.shape[1] // size))
        padding = [(0, 0), (0, count * size - rows.shape[1])] + [(0, 0)] * len(rest)
        return jnp.pad(rows, padding).reshape(shards, count, size, *rest)

    return jax.tree.map(split, tree)


def join_rows(leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `split_rows` for one leaf: [shards, n, chunk_size, ...] -> [T, B, ...]."""
    shards, (time, columns), rest = leaf.shape[0], shape, leaf.shape[3:]
    rows = leaf.reshape(shards, -1, *rest)[:, : time * columns // shards]
    rows = rows.reshape(shards, time, columns // shards, *rest)
    return jnp.moveaxis(rows, 0, 1).reshape(time, columns, *rest)


@jax.custom_batching.custom_vmap
def max_over_vmap(x: jax.Array) -> jax.Array:
    """`x`; under vmap the greatest of the batch, one for all: a loop's bound, or any of flags.

    A loop that ends at a time of its own for each of a batch copies all it carries at every turn.
    """
    return x


@max_over_vmap.def_vmap
def _max_of_batch(size: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    return max_over_vmap(x.max(0)), False


def sum_chunks(
    fn: Callable[[Any], Any],
    chunks: Any,
    counts: jax.Array | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Any:
    """Sum of `fn(chunk)` over chunks [shards, n, chunk_size, ...], in order, from zero.

    `counts` [shards] says from where on the chunks of each shard give nothing but zeros; those are
    left out (under vmap as far as they are for all), and the sum cannot be differentiated
    backwards. The shards are this device's; the sum is over those of all.
    """

    def zeros(like: Any) -> Any:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)

    def add(total: Any, value: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, value), None

    first = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0, 0], chunks))
    zero = zeros(jax.eval_shape(fn, first))

    def sum_shard(shard: tuple[Any, jax.Array | None]) -> Any:
        rows, count = shard
        if count is None:
            return lax.scan(lambda total, chunk: add(total, fn(chunk)), zero, rows)[0]

        def add_at(i: jax.Array, total: Any) -> Any:
            chunk = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, False), rows)
            return add(total, fn(chunk))[0]

        return lax.fori_loop(0, max_over_vmap(count), add_at, zero)

    sums = sharding.gather(lax.map(sum_shard, (chunks, counts)))
    return lax.scan(add, zero, sums)[0]


def sum_rows(tree: Any) -> Any:
    """Sum over all of each leaf, [T, B] -> [], chunk by chunk; in their common floating dtype.

    Side by side in one array, since XLA's time for such small sums is mostly a cost per operation.
    """
    leaves, treedef = jax.tree.flatten(tree)
    together = jnp.stack([leaf.astype(jnp.result_type(float, *leaves)) for leaf in leaves], -1)
    total = sum_chunks(lambda chunk: chunk.sum(0), split_rows(together, CHUNK_SIZE))
    return jax.tree.unflatten(treedef, [total[i] for i in range(len(leaves))])


def fusion_barrier(fn: Callable[..., Any], true: jax.Array) -> Callable[..., Any]:
    """`fn`, across whose border XLA fuses nothing.

    Elsewhere its rounding would depend on what stands around it, such as a gather over devices. A
    branch costs as much as the whole update of a small policy in `dispatch.updater`.
    """

    def alone(*args: Any) -> Any:
        otherwise = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, *args))
        return lax.cond(true, fn, lambda *_: otherwise, *args)

    return alone
