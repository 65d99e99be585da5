"""The gradient of a batch, summed over its chunks, and a step of the optimiser along it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from pgjax.algorithms import actor_critic, checks
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch, weighted_sums
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import Sharding, fusion_barrier, sum_chunks
from pgjax.types import Params, TrainState

Terms = dict[str, jax.Array]  # of a loss, by name


class Summed(NamedTuple):
    """Sums over the rows of a batch."""

    gradient: jax.Array  # of the trained parameters, as one vector [P]
    loss: jax.Array  # []
    terms: Terms  # [] each
    added: Any  # what `sum_gradients` was asked to add up besides


def loss_sums(
    objective: Objective,
    params: Params,
    entropy_coef: Any,
    chunk: Batch,
    policy_terms: Callable[[jax.Array], Terms],
    value_loss: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, Terms]:
    """Return weighted sums over the rows of a chunk: of the loss, and of its terms by name.

    Args:
      objective: an Objective; see `pgjax.reinforce`.
      params: variables of policy and critic, as in `TrainState.params`.
      entropy_coef: [] float; a Python float of 0 leaves the entropy out of the loss.
      chunk: leaves [chunk_size, ...].
      policy_terms: log-probabilities of the actions [chunk_size] -> terms [chunk_size] by name, of
        which "policy_loss" is part of the loss.
      value_loss: V(obs) [chunk_size] -> [chunk_size]; not called without a critic.
    """
    distribution: Any = objective.policy.apply(params, chunk.obs)
    terms = policy_terms(at_least_float32(distribution.log_prob(chunk.action)))
    terms = terms | {"entropy": at_least_float32(distribution.entropy())}
    total = terms["policy_loss"]
    # A coefficient of 0 skips the term: 0 * entropy is NaN where the entropy is infinite.
    if not isinstance(entropy_coef, float) or entropy_coef:
        total = total - entropy_coef * terms["entropy"]
    if objective.critic is not None:
        value: Any = objective.critic.apply(actor_critic.of_critic(params), chunk.obs)
        terms["value_loss"] = value_loss(at_least_float32(value))
        total = total + objective.value_coef * terms["value_loss"]
    return weighted_sums((total, terms), chunk.weight)


def sum_gradients(
    loss: Callable[[Params, Any], tuple[jax.Array, Terms]],
    trained: Params,
    chunks: Any,
    counts: jax.Array | None,
    sharding: Sharding,
    add: Callable[[Any], Any] = lambda chunk: (),
) -> Summed:
    """Sum a loss, its gradient and its terms over chunks, in order.

    Args:
      loss: (trained parameters, chunk) -> (loss [], terms [] by name), sums over a chunk's rows.
      trained: the parameters to differentiate by, a pytree.
      chunks: leaves [shards, n, chunk_size, ...].
      counts, sharding: as for `sum_chunks`.
      add: chunk -> pytree of arrays to add up besides.
    """

    # Gradients are summed as one vector: one addition per chunk, not one per leaf.
    def gradient(chunk: Any) -> Summed:
        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(trained, chunk)
        return Summed(ravel_pytree(grads)[0], value, terms, add(chunk))

    return sum_chunks(gradient, chunks, counts, sharding)


def step_along(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    summed: Summed,
    n: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Make one optimiser step with the gradient `summed.gradient / n`, in at least float32.

    Args:
      objective: its sharding decides whether XLA may fuse the step with the code around it.
      optimizer: an optax transformation; it is given the loss over n.
      state: the parameters, of which only the trained ones change, and the optimiser's state.
      summed: sums of the gradient and of the loss.
      n: what the sums are divided by, [].

    Returns:
      (state with other parameters and another state of the optimiser, L2 norm of the gradient []).
    """
    before = actor_critic.trained(objective, state.params)
    _, unravel = ravel_pytree(before)

    def step(total: jax.Array, loss: jax.Array, n: jax.Array) -> tuple[Params, Any, jax.Array]:
        grads = unravel(total / n.astype(total.dtype))
        updates, opt_state = checks.optimizer_step(
            optimizer, grads, state.opt_state, before, loss / n.astype(loss.dtype), state.step
        )
        after = optax.apply_updates(before, updates)
        params = {
            name: jax.tree.map(lambda x, old: x.astype(old.dtype), after[name], state.params[name])
            for name in after
        }
        return params, opt_state, optax.tree.norm(grads)

    if objective.sharding.num_shards > 1:
        step = fusion_barrier(step, state.step >= 0)  # always true, but unknown at compile time
    params, opt_state, norm = step(summed.gradient, summed.loss, n)
    return state._replace(params={**state.params, **params}, opt_state=opt_state), norm


def scale_by_updates(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Scale by minus a learning rate that is a schedule over updates.

    Use it at the end of an optax chain to anneal the learning rate of an algorithm that makes
    several optimiser steps per update, such as `ppo`. optax's own schedules count these steps, of
    which an update may make different numbers.

    Args:
      schedule: number of updates made so far -> learning rate.

    Returns:
      An optax transformation without state, to which `Algorithm.update` passes the number of
      updates made so far as `num_updates`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pgjax
      >>> rate = pgjax.scale_by_updates(optax.linear_schedule(0.1, 0.0, transition_steps=10))
      >>> optimizer = optax.chain(optax.scale_by_adam(), rate)  # for pgjax.ppo
      >>> updates, _ = rate.update(jnp.ones(1), rate.init(jnp.ones(1)), num_updates=5)
      >>> round(float(updates[0]), 3)  # half of the updates are made
      -0.05
    """

    def init(params: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, *, num_updates: Any, **_: Any) -> Any:
        rate = schedule(num_updates)
        return jax.tree.map(lambda u: jnp.asarray(-rate, u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
