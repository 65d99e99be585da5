"""Sums and scans whose rounding does not depend on threads, padding or devices.

The rounding of a sum over many rows changes with the number of threads, with padding and with the
number of devices, because each changes how XLA groups the rows. Here rows are split into chunks of
a fixed size, and the chunks are added one after another, starting from zero. The grouping is then
always the same, and appended zeros change nothing. On CPU this is also faster than one large batch,
whose activations do not fit in the cache.

With several devices, each one holds some of the columns. Columns are grouped into a fixed number of
shards, so that the number of devices changes nothing either: one device adds up the chunks of a
shard, and the sums of all shards are gathered and added in order.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.errors import ConfigError, check_count, counted

CHUNK_SIZE = 128  # rows; up to 128, results were equal at every thread count tested
_UNROLL = 4  # steps per loop iteration, because the loop costs more than a step


class Sharding(NamedTuple):
    """How the columns of a batch are grouped into shards and divided among devices.

    Use it to train on several devices with the same results for any number of them. The number of
    shards affects rounding; the number of devices does not.

    Example:
      >>> import pgjax
      >>> sharding = pgjax.Sharding(num_shards=4)
      >>> sharding.pad(10)  # 10 columns become 4 shards of 3
      12
    """

    num_shards: int = 1  # total over all devices; columns are padded to a multiple of it
    axis_name: str | None = None  # mapped axis over the devices that hold the columns, in order

    def num_devices(self) -> int:
        """Return the number of devices that share the columns.

        Raises:
          ConfigError: if it does not divide the number of shards.
        """
        devices = lax.axis_size(self.axis_name) if self.axis_name else 1
        if self.num_shards % devices:
            raise ConfigError(
                f"{counted(self.num_shards, 'shard')} cannot be divided evenly among {devices} "
                "devices: choose --num-shards as a multiple of --num-devices"
            )
        return devices

    def pad(self, columns: int) -> int:
        """Return the number of columns after padding to a multiple of the number of shards."""
        return -(-columns // self.num_shards) * self.num_shards

    def gather(self, tree: Any, axis: int = 0) -> Any:
        """Concatenate the leaves of all devices along `axis`; every device gets the result.

        Leaves of one dtype travel as one array, since devices wait for each other in every gather.
        """
        if self.axis_name is None:
            return tree
        leaves, treedef = jax.tree.flatten(tree)
        gathered: dict[int, jax.Array] = {}
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
            which = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
            rows = [jnp.moveaxis(leaves[i], axis, 0) for i in which]
            together = jnp.concatenate([x.reshape(len(x), -1) for x in rows], 1)
            together = lax.all_gather(together, self.axis_name, tiled=True)
            ends = list(itertools.accumulate(math.prod(x.shape[1:]) for x in rows))
            for i, x, part in zip(which, rows, jnp.split(together, ends[:-1], 1), strict=True):
                whole = part.reshape(len(together), *x.shape[1:])
                gathered[i] = jnp.moveaxis(whole, 0, axis)
        return jax.tree.unflatten(treedef, [gathered[i] for i in range(len(leaves))])

    def mine(self, whole: jax.Array) -> jax.Array:
        """Select this device's columns of an array [T, B, ...]."""
        if self.axis_name is None:
            return whole
        size = whole.shape[1] // lax.axis_size(self.axis_name)
        return lax.dynamic_slice_in_dim(whole, lax.axis_index(self.axis_name) * size, size, 1)


def check_sharding(sharding: Sharding) -> None:
    """Raise ConfigError unless the argument is a Sharding into at least one shard."""
    if not isinstance(sharding, Sharding):
        raise ConfigError(f"sharding must be a pgjax.Sharding(num_shards), got {sharding!r}")
    check_count("num_shards", sharding.num_shards)


def scan_in_fixed_order(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    neutral: Any,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan` whose rounding does not depend on the length of `xs`.

    The sequence is padded at its end with neutral steps, to whole iterations of an unrolled loop
    and at least two of them: XLA would inline a loop of one iteration and fuse it with the code
    around it, which rounds differently.

    Args:
      step: (carry, x) -> (carry, y), as for lax.scan.
      init: the initial carry, a pytree.
      xs: pytree of arrays [T, ...].
      neutral: pytree of numbers with the structure of xs, such that `step` returns the carry
        unchanged for an x filled with them.
      reverse: whether to start from the last step.

    Returns:
      (the final carry, ys [T, ...]), as lax.scan.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.numerics.sums import scan_in_fixed_order
      >>> def add(total, x):
      ...     return total + x, total + x
      >>> total, ys = scan_in_fixed_order(add, jnp.float32(0), jnp.array([1.0, 2.0]), neutral=0)
      >>> float(total), ys.tolist()
      (3.0, [1.0, 3.0])
    """
    length = len(jax.tree.leaves(xs)[0])
    missing = max(-length % _UNROLL, 2 * _UNROLL - length)

    def pad(leaf: jax.Array, fill: float) -> jax.Array:
        widths = [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=fill)

    padded = jax.tree.map(pad, xs, neutral)
    carry, ys = lax.scan(step, init, padded, reverse=reverse, unroll=_UNROLL)
    return carry, jax.tree.map(lambda y: y[:length], ys)


def split_rows(tree: Any, chunk_size: int | None, shards: int = 1) -> Any:
    """Split leaves [T, B, ...] into chunks [shards, n, chunk_size, ...], time-major within a shard.

    Zeros fill the last chunk. With `chunk_size=None` a shard is one chunk. Otherwise it has two or
    more: XLA would inline a loop over one chunk and fuse it with the code around it, which rounds
    differently.
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
    """Invert `split_rows` for one leaf [shards, n, chunk_size, ...]; `shape` is (T, B)."""
    shards, (time, columns), rest = leaf.shape[0], shape, leaf.shape[3:]
    rows = leaf.reshape(shards, -1, *rest)[:, : time * columns // shards]
    rows = rows.reshape(shards, time, columns // shards, *rest)
    return jnp.moveaxis(rows, 0, 1).reshape(time, columns, *rest)


@jax.custom_batching.custom_vmap
def max_over_vmap(x: jax.Array) -> jax.Array:
    """Identity; under vmap the batch maximum, so that all lanes share a loop bound or flag.

    If lanes left the loop at different times, vmap would copy the whole carry in each iteration.
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
    """Sum `fn(chunk)` over chunks [shards, n, chunk_size, ...], in order, starting from zero.

    The chunks are those of this device's shards; the result is the sum over all devices.

    Args:
      fn: chunk with leaves [chunk_size, ...] -> pytree of arrays.
      chunks: pytree of arrays [shards, n, chunk_size, ...].
      counts: [shards] int, or None. Only the first `counts[i]` chunks of shard i are computed; the
        rest must give zeros. Under vmap, all lanes use the largest count. With counts, the sum has
        no reverse-mode derivative.
      sharding: how shards are divided among devices.
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


def map_chunks(fn: Callable[[Any], Any], chunks: Any, counts: jax.Array) -> Any:
    """Return `fn(chunk)` for each of the chunks [shards, n, chunk_size, ...], stacked likewise.

    Only the first `counts[i]` chunks of shard i are computed; the results of the rest are zeros.
    The loop has no reverse-mode derivative.

    Args:
      fn: chunk with leaves [chunk_size, ...] -> pytree of arrays.
      chunks: pytree of arrays [shards, n, chunk_size, ...].
      counts: [shards] int.
    """
    like = jax.eval_shape(lambda x: fn(jax.tree.map(lambda leaf: leaf[0, 0], x)), chunks)
    length = jax.tree.leaves(chunks)[0].shape[1]

    def map_shard(shard: tuple[Any, jax.Array]) -> Any:
        rows, count = shard

        def put(i: jax.Array, results: Any) -> Any:
            value = fn(jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, False), rows))
            return jax.tree.map(
                lambda all_, one: lax.dynamic_update_index_in_dim(all_, one, i, 0), results, value
            )

        results = jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), like)
        return lax.fori_loop(0, max_over_vmap(count), put, results)

    return lax.map(map_shard, (chunks, counts))


def sum_rows(tree: Any) -> Any:
    """Sum each leaf [T, B] to a scalar, chunk by chunk, in the common floating dtype of the leaves.

    The leaves are stacked into one array, because XLA's time for sums this small is mostly
    overhead per operation.
    """
    leaves, treedef = jax.tree.flatten(tree)
    together = jnp.stack([leaf.astype(jnp.result_type(float, *leaves)) for leaf in leaves], -1)
    total = sum_chunks(lambda chunk: chunk.sum(0), split_rows(together, CHUNK_SIZE))
    return jax.tree.unflatten(treedef, [total[i] for i in range(len(leaves))])


def fusion_barrier(fn: Callable[..., Any], true: jax.Array) -> Callable[..., Any]:
    """Wrap `fn` so that XLA does not fuse it with the code around it.

    Otherwise its rounding depends on that code, for example on a gather over devices. `true` must
    be true, but unknown at compile time: `fn` becomes a branch of a conditional, which can cost as
    much as the whole update of a small policy.
    """

    def alone(*args: Any) -> Any:
        otherwise = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, *args))
        return lax.cond(true, fn, lambda *_: otherwise, *args)

    return alone
