"""Shuffled minibatches, whose members do not depend on padding, threads or devices.

A step is known by its column and its time: it draws a number with a key of its own, and the real
steps of a shard are taken in the order of these numbers. Each shard gives its part of a minibatch
while it has steps left, so that rows stay on their device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.numerics.sums import Sharding

_SHUFFLE = 2**32 - 1  # the keys of a run's episodes fold in smaller numbers


class Shuffled(NamedTuple):
    """The rows of a batch in random order."""

    order: jax.Array  # [shards, rows] int32: row numbers, those of real steps first
    num_real: jax.Array  # [shards] int32


def shuffling_key(key: jax.Array, step: jax.Array, epoch: jax.Array) -> jax.Array:
    """Return the key of an epoch of an update, given the run's key."""
    for number in (_SHUFFLE, step, epoch):
        key = jax.random.fold_in(key, number)
    return key


def shuffle(key: jax.Array, real: jax.Array, num_columns: int, sharding: Sharding) -> Shuffled:
    """Shuffle the rows of each of this device's shards.

    Args:
      key: typed key [] of the epoch.
      real: whether rows are real steps, [shards, rows] bool; time-major within a shard.
      num_columns: of each shard.
      sharding: how shards are divided among devices.
    """
    shards, rows = real.shape
    first = 0 if sharding.axis_name is None else lax.axis_index(sharding.axis_name) * shards
    columns = first * num_columns + jnp.arange(shards * num_columns, dtype=jnp.uint32)
    keys = jax.vmap(lambda column: jax.random.fold_in(key, column))(columns)
    times = jnp.arange(-(-rows // num_columns), dtype=jnp.uint32)

    def draw(time: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, time), dtype=jnp.uint32)

    bits = jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(times, keys)
    bits = jnp.moveaxis(bits.reshape(-1, shards, num_columns), 1, 0).reshape(shards, -1)
    return Shuffled(order_of(bits[:, :rows], real), real.sum(1, dtype=jnp.int32))


def order_of(bits: jax.Array, real: jax.Array) -> jax.Array:
    """Return the numbers of the real rows of each shard in the order of their bits.

    Rows with the same bits keep their order. XLA sorts one array several times faster than two, so
    rows are ranked among the sorted bits, unless two of them have the same.

    Args:
      bits: [shards, rows] uint32.
      real: [shards, rows] bool.

    Returns:
      [shards, rows] int32; after the numbers of the real rows they are arbitrary.
    """
    numbers = jnp.broadcast_to(jnp.arange(bits.shape[1], dtype=jnp.int32), bits.shape)
    last = jnp.uint32(2**32 - 1)  # stands for padding
    ordered = lax.sort(jnp.where(real, bits, last), dimension=1)
    ties = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] < last)
    ambiguous = ties.any() | (real & (bits == last)).any()

    def by_rank() -> jax.Array:
        rank = jax.vmap(jnp.searchsorted)(ordered, bits)
        rank = jnp.where(real, rank, bits.shape[1])  # out of range, so dropped

        def place(rank: jax.Array, numbers: jax.Array) -> jax.Array:
            return jnp.zeros_like(numbers).at[rank].set(numbers, mode="drop")

        return jax.vmap(place)(rank, numbers)

    def by_sorting() -> jax.Array:
        return lax.sort((~real, bits, numbers), dimension=1, num_keys=2)[2]

    return lax.cond(ambiguous, by_sorting, by_rank)


def quota(size: int, sharding: Sharding) -> int:
    """Return the number of steps that each shard gives to a minibatch of `size` steps."""
    return -(-size // sharding.num_shards)


def count(shuffled: Shuffled, each: int, sharding: Sharding) -> jax.Array:
    """Return the number of minibatches of an epoch, [], if a shard gives each of them `each` steps.

    The last ones may have fewer.
    """
    return jnp.max(sharding.gather(-(-shuffled.num_real // each)))


def take(
    tree: Any, shuffled: Shuffled, number: jax.Array, each: int, chunk_size: int | None
) -> tuple[Any, jax.Array]:
    """Return the rows of a minibatch in chunks, and which of them are real.

    Args:
      tree: leaves [shards, n, chunk_size, ...], as shuffled.
      shuffled: the order of their rows.
      number: of the minibatch, [] int.
      each: steps that a shard gives to a minibatch.
      chunk_size: rows in a chunk, at most; None for one chunk. Otherwise there are two or more, as
        from `split_rows`.

    Returns:
      (leaves [shards, m, rows in a chunk, ...], bool [shards, m, rows in a chunk])
    """
    needed = min(each, shuffled.order.shape[1])
    chunk = needed if chunk_size is None else min(chunk_size, each)
    padded = needed if chunk_size is None else max(2, -(-needed // chunk)) * chunk
    places = jnp.arange(padded)[None]
    among = number * each + places
    real = (places < each) & (among < shuffled.num_real[:, None])
    rows = jnp.take_along_axis(shuffled.order, jnp.where(real, among, 0), axis=1)

    def of_shard(leaf: jax.Array, rows: jax.Array) -> jax.Array:
        return leaf.reshape(-1, *leaf.shape[2:])[rows].reshape(-1, chunk, *leaf.shape[2:])

    taken = jax.tree.map(lambda leaf: jax.vmap(of_shard)(leaf, rows), tree)
    return taken, real.reshape(len(rows), -1, chunk)
