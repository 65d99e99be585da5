"""Shuffled minibatches, whose members do not depend on padding, threads or devices.

A step is known by its column and its time: it draws a number with a key of its own, and the real
steps of a shard are taken in the order of these numbers. Each shard gives its part of a minibatch,
so that rows stay on their device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.numerics.sums import CHUNK_SIZE, Sharding

_SHUFFLE = 2**32 - 1  # stands for the number of an episode in the keys of a run; none has it


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
      key: of the epoch.
      real: whether rows are real steps, [shards, rows]; time-major within a shard.
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
    numbers = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), real.shape)
    padding = (~real).astype(jnp.uint32)
    _, _, order = lax.sort((padding, bits[:, :rows], numbers), dimension=1, num_keys=2)
    return Shuffled(order, real.sum(1, dtype=jnp.int32))


def quota(size: int, sharding: Sharding) -> int:
    """Return the number of steps that each shard gives to a minibatch of `size` steps."""
    return -(-size // sharding.num_shards)


def count(shuffled: Shuffled, size: int, sharding: Sharding) -> jax.Array:
    """Return the number of minibatches of an epoch, []; the last ones may have fewer steps."""
    return jnp.max(sharding.gather(-(-shuffled.num_real // quota(size, sharding))))


def take(
    tree: Any,
    shuffled: Shuffled,
    number: jax.Array,
    size: int,
    chunk_size: int | None,
    sharding: Sharding,
) -> tuple[Any, jax.Array]:
    """Return the rows of a minibatch in chunks, and which of them are real.

    Args:
      tree: leaves [shards, n, chunk_size, ...], as shuffled.
      shuffled: the order of their rows.
      number: of the minibatch, [] int.
      size: steps in a minibatch.
      chunk_size: rows in a chunk, at most.
      sharding: its number of shards divides a minibatch.

    Returns:
      (leaves [shards, m, rows in a chunk, ...], bool [shards, m, rows in a chunk])
    """
    each = quota(size, sharding)
    chunk = min(chunk_size or CHUNK_SIZE, each)
    padded = max(2, -(-each // chunk)) * chunk  # XLA would fuse a single chunk with what is around
    places = jnp.arange(padded)[None]
    among = number * each + places
    real = (places < each) & (among < shuffled.num_real[:, None])
    rows = jnp.take_along_axis(shuffled.order, jnp.where(real, among, 0), axis=1)

    def of_shard(leaf: jax.Array, rows: jax.Array) -> jax.Array:
        return leaf.reshape(-1, *leaf.shape[2:])[rows].reshape(-1, chunk, *leaf.shape[2:])

    taken = jax.tree.map(lambda leaf: jax.vmap(of_shard)(leaf, rows), tree)
    return taken, real.reshape(len(rows), -1, chunk)
