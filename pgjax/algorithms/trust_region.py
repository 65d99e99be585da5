"""A step of a given KL divergence along the natural gradient, and TRPO's line search."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.algorithms import batches
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.fisher import Wrapper, distribution_of
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import sum_chunks
from pgjax.types import Params

_SHORTER, _MOST_TRIES = 0.8, 10  # of the line search, as in Spinning Up's TRPO


def scaled_step(max_kl: ArrayLike, x: jax.Array, curvature: jax.Array) -> jax.Array:
    """Return the step along -x whose quadratic KL divergence is max_kl, given x · F x."""
    positive = curvature > 0
    square = jnp.where(positive, 2 * max_kl / jnp.where(positive, curvature, 1.0), 0.0)
    return -jnp.sqrt(square) * x


def take_step(
    objective: Objective,
    params: Params,
    chunks: Batch,
    step: jax.Array,
    n: jax.Array,
    *,
    line_search: bool,
    max_kl: ArrayLike,
    alone: Wrapper,
) -> tuple[Params, jax.Array, jax.Array]:
    """Return the policy's parameters after a step, its mean KL(old, new), and its size, 0 to 1."""
    flat, unravel = ravel_pytree(params["params"])
    counts = batches.count_real(chunks.weight)

    def at(size: jax.Array) -> Params:
        return unravel(alone(lambda size: flat + size * step)(size))

    def measure(size: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = {**params, "params": at(size)}
        each = functools.partial(_surrogate, objective, params, new)
        gain, kl = sum_chunks(each, chunks, counts, objective.sharding)
        return gain / n, kl / n

    one = jnp.ones((), step.dtype)
    gain, kl = measure(one)
    if not line_search:
        return at(one), kl, one

    def good(gain: jax.Array, kl: jax.Array) -> jax.Array:
        return (gain > 0) & (kl <= max_kl)

    def shorten(carry: Any) -> Any:
        tries, size, _, _ = carry
        size = size * _SHORTER
        return tries + 1, size, *measure(size)

    _, size, gain, kl = lax.while_loop(
        lambda carry: (carry[0] < _MOST_TRIES) & ~good(*carry[2:]),
        shorten,
        (jnp.int32(0), one, gain, kl),
    )
    size, kl = (jnp.where(good(gain, kl), x, 0.0) for x in (size, kl))
    new = jax.tree.map(lambda x, old: jnp.where(size > 0, x, old), at(size), params["params"])
    return new, kl, size


def _surrogate(
    objective: Objective, old: Params, new: Params, chunk: Batch
) -> tuple[jax.Array, jax.Array]:
    """Return sums over a chunk of ratio * advantage and of KL(old, new)."""
    before, after = distribution_of(objective, old, chunk), distribution_of(objective, new, chunk)
    log_ratio = after.log_prob(chunk.action) - before.log_prob(chunk.action)
    gain = jnp.expm1(at_least_float32(log_ratio)) * chunk.advantage  # relative to before
    return batches.weighted_sums((gain, at_least_float32(before.kl(after))), chunk.weight)
