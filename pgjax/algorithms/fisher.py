"""Products with the Fisher information matrix of a policy, and the natural gradient.

For a chunk of observations, F = E[score scoreᵀ] is the Hessian of KL(old, new) by the parameters of
the new policy, at the old one. It is never formed: conjugate gradients need only products F v.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.algorithms import batches
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.errors import ConfigError
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import sum_chunks, sum_rows
from pgjax.types import Params, type_name

Wrapper = Callable[[Any], Any]  # of a function


def fisher_product(objective: Objective, params: Params, vector: Params, chunk: Batch) -> jax.Array:
    """Return the sum of F v over the rows of a chunk, as one vector.

    F v = Jᵀ H J v, where J is the Jacobian of the distribution by the policy's parameters, and H
    the Hessian of KL(old, new) by the new distribution, at the old one.

    Args:
      objective: an Objective.
      params: variables of policy and critic; `params["params"]` are the policy's parameters.
      vector: v, as params["params"].
      chunk: leaves [chunk_size, ...].
    """

    def distribution(policy_params: Params) -> Any:
        return distribution_of(objective, {**params, "params": policy_params}, chunk)

    at, along = jax.jvp(distribution, (params["params"],), (vector,))

    def kl_sum(new: Any) -> jax.Array:
        return batches.weighted_sums(at_least_float32(at.kl(new)), chunk.weight)

    _, curved = jax.jvp(jax.grad(kl_sum), (at,), (along,))
    _, pull_back = jax.vjp(distribution, params["params"])
    return ravel_pytree(pull_back(curved)[0])[0]


def distribution_of(objective: Objective, params: Params, chunk: Batch) -> Any:
    """Return the policy's distribution for a chunk; ConfigError if it has no kl."""
    found: Any = objective.policy.apply(params, chunk.obs)
    if not callable(getattr(found, "kl", None)):
        raise ConfigError(
            f"the policy returns {type_name(found)} without a method kl(other), which npg needs: "
            "see pgjax.distributions"
        )
    leaves = jax.tree.leaves(found)
    if not all(hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) for x in leaves):
        raise ConfigError(
            f"the policy returns {type_name(found)}, but npg needs a pytree of floating arrays, "
            "such as a NamedTuple of logits: see pgjax.distributions"
        )
    return found


def conjugate_gradients(
    product: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    steps: int,
    alone: Wrapper = lambda fn: fn,
) -> tuple[jax.Array, jax.Array]:
    """Return x with A x ≈ b for a symmetric positive definite A, and the residual b - A x.

    Args:
      product: v [P] -> A v [P].
      b: [P].
      steps: number of steps; none is made once the residual is 0.
      alone: wraps a function so that XLA does not fuse it with the code around it.

    Source: Nocedal & Wright 2006, Numerical optimization, algorithm 5.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.algorithms.fisher import conjugate_gradients
      >>> x, _ = conjugate_gradients(lambda v: jnp.array([2.0, 4.0]) * v, jnp.ones(2), steps=2)
      >>> x.round(3).tolist()
      [0.5, 0.25]
    """

    def step(carry: tuple[jax.Array, ...], along: jax.Array) -> tuple[jax.Array, ...]:
        x, residual, direction, square = carry
        curvature = dot(direction, along)
        length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        x, residual = x + length * direction, residual - length * along
        new = dot(residual, residual)
        direction = residual + jnp.where(square > 0, new / square, 0.0) * direction
        return x, residual, direction, new

    def body(_: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return alone(step)(carry, product(carry[2]))

    x, residual, _, _ = lax.fori_loop(0, steps, body, (jnp.zeros_like(b), b, b, alone(dot)(b, b)))
    return x, residual


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the inner product of two vectors, summed in a fixed order."""
    return sum_rows((a * b)[:, None])


def natural_gradient(
    objective: Objective,
    params: Params,
    chunks: Batch,
    gradient: jax.Array,
    n: jax.Array,
    *,
    damping: ArrayLike,
    cg_steps: int,
    alone: Wrapper = lambda fn: fn,
) -> tuple[jax.Array, jax.Array]:
    """Return x = (F + damping I)⁻¹ g, and x · F x.

    Args:
      objective: an Objective.
      params: variables of policy and critic, in at least float32.
      chunks: leaves [shards, n, chunk_size, ...].
      gradient: g as one vector [P].
      n: number of real steps, [].
      damping: multiple of the identity.
      cg_steps: steps of the conjugate gradient method.
      alone: as for `conjugate_gradients`.
    """
    _, unravel = ravel_pytree(params["params"])
    counts = batches.count_real(chunks.weight)

    def product(v: jax.Array) -> jax.Array:
        each = functools.partial(fisher_product, objective, params, unravel(v))
        total = sum_chunks(each, chunks, counts, objective.sharding)
        return alone(lambda total, v: total / n.astype(total.dtype) + damping * v)(total, v)

    def curvature(x: jax.Array, residual: jax.Array) -> jax.Array:
        return dot(x, gradient - residual) - damping * dot(x, x)

    x, residual = conjugate_gradients(product, gradient, cg_steps, alone)
    return x, alone(curvature)(x, residual)
