"""Prepare a rollout for the loss: advantages and targets, split into chunks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.algorithms.actor_critic import (
    RETURNS,
    Objective,
    check_estimates,
    check_rollout,
    of_critic,
)
from pgjax.algorithms.checks import estimates
from pgjax.algorithms.metrics import episode_info, explained_variance
from pgjax.errors import ConfigError, counted
from pgjax.numerics import running_moments
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.running_moments import Moments
from pgjax.numerics.sums import (
    Sharding,
    fusion_barrier,
    join_rows,
    map_chunks,
    split_rows,
    sum_chunks,
)
from pgjax.returns import discounted_returns
from pgjax.types import (
    Array,
    Info,
    Params,
    Rollout,
    TrainState,
    repeat_first,
    segment_ends,
    zero_padding,
)


class Batch(NamedTuple):
    """What the loss needs for each step, all constant under differentiation.

    Leaves are [T, B, ...], then in chunks [shards, n, chunk_size, ...].
    """

    obs: jax.Array
    action: jax.Array
    weight: jax.Array
    advantage: jax.Array
    target: jax.Array  # what the critic is fitted to; zero without one
    returns: jax.Array | None  # discounted returns of the rewards as collected, if normalised


def prepare(
    objective: Objective, params: Params, rollout: Rollout
) -> tuple[Batch, jax.Array, Info]:
    """Compute everything that is constant in the loss.

    Returns:
      (chunks [shards, n, chunk_size, ...], the N that the loss is divided by, counts and returns).

    Raises:
      ConfigError: the rollout does not fit itself, the parameters, the policy or the estimator.
    """
    check_rollout(objective, params, rollout)
    sharding, collected = objective.sharding, rollout
    rollout = _fill_shards(sharding, zero_padding(collected))
    if rollout.reward.shape != collected.reward.shape:
        check_estimates(objective, collected)  # the columns that fill the shards are no episodes
    rollout = rollout._replace(
        reward=at_least_float32(rollout.reward), weight=at_least_float32(rollout.weight)
    )
    # Estimators and metrics see the columns of all devices.
    whole, value, next_value = sharding.gather(rollout, axis=1), None, None
    if objective.critic is not None:
        values = _values(objective, params, rollout)
        value, next_value = sharding.gather(values, axis=1)
    info, returns = episode_info(whole), None
    if objective.normalize_rewards is not None:
        discount = jnp.where(segment_ends(whole), 0.0, objective.normalize_rewards)
        returns = sharding.mine(discounted_returns(whole.reward, discount))
        scale = running_moments.reciprocal_rms(params[RETURNS])
        # Fused into a recursion, the product would round differently for other lengths.
        scaled = fusion_barrier(jnp.multiply, info["env_steps"] >= 0)(scale, whole.reward)
        whole = whole._replace(reward=scaled)
    if objective.reward_clip is not None:
        limit = jnp.asarray(objective.reward_clip, whole.reward.dtype)
        whole = whole._replace(reward=jnp.clip(whole.reward, -limit, limit))
    fns = objective.estimator, objective.value_target
    advantage, target = estimates(*fns, whole, value, next_value)
    if value is not None:
        info["explained_variance"] = explained_variance(whole.weight, value, target)
    advantage, target = (sharding.mine(at_least_float32(x)) for x in (advantage, target))
    # A user's estimator or critic may return anything in padded slots.
    advantage, target = (jnp.where(rollout.weight > 0, x, 0.0) for x in (advantage, target))
    obs, action, weight = map(jnp.asarray, (rollout.obs, rollout.action, rollout.weight))
    batch = Batch(obs, action, weight, advantage, target, returns)
    # At least one, so that a batch without any real step has a loss of 0.
    n = jnp.maximum(info["episodes" if objective.mean_over == "episodes" else "env_steps"], 1)
    chunks = split_rows(batch, objective.chunk_size, _shards_per_device(sharding))
    obs, action = (repeat_first(chunks.weight > 0, x) for x in (chunks.obs, chunks.action))
    return chunks._replace(obs=obs, action=action), n, info


def _fill_shards(sharding: Sharding, rollout: Rollout) -> Rollout:
    """Append columns of padding, so that all shards have the same number of columns."""
    num_columns = rollout.reward.shape[1] * sharding.num_devices()
    missing = sharding.pad(num_columns) - num_columns
    if missing and sharding.axis_name is not None:
        raise ConfigError(
            f"{counted(num_columns, 'column')} on all devices cannot be divided into "
            f"{sharding.num_shards} "
            "equal shards: pad them to a multiple, as collect_episodes_on_device does"
        )
    if not missing:
        return rollout
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), rollout
    )


def _shards_per_device(sharding: Sharding) -> int:
    return sharding.num_shards // sharding.num_devices()


def _values(objective: Objective, params: Params, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
    """V(obs) and V(next_obs), both [T, B], chunk by chunk so that padding changes no bit.

    The chunks after the last real step are skipped; their values are 0.
    """
    critic: Any = objective.critic
    variables = lax.stop_gradient(of_critic(params))  # a loop of unknown length has no gradient
    shape, shards = rollout.reward.shape, _shards_per_device(objective.sharding)

    def chunks_of(leaf: Array) -> Any:
        return split_rows(leaf, objective.chunk_size, shards)

    counts = count_real(chunks_of(rollout.weight))

    def apply(obs: Array) -> Any:
        def value_of(chunk: jax.Array) -> jax.Array:
            return at_least_float32(critic.apply(variables, chunk))

        return join_rows(map_chunks(value_of, chunks_of(obs), counts), shape)

    return apply(rollout.obs), apply(rollout.next_obs)


def skip_empty(fn: Any) -> Any:
    """Wrap a function of a chunk to return zeros, without computing, if all rows are padding."""

    def maybe(chunk: Batch) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, chunk))
        return lax.cond(jnp.any(chunk.weight > 0), fn, lambda _: zeros, chunk)

    return maybe


def count_real(weight: jax.Array) -> jax.Array:
    """Number of chunks of each shard up to the last one that has a real row, [shards].

    `weight` is split into chunks [shards, n, chunk_size].
    """
    real = (weight > 0).any(2)
    return jnp.max(jnp.where(real, jnp.arange(1, real.shape[1] + 1), 0), 1)


def weighted_sums(tree: Any, weight: jax.Array) -> Any:
    """Sum weight * leaf over the real rows of a chunk, for each leaf [chunk_size]."""
    leaves, treedef = jax.tree.flatten(tree)
    weighted = jnp.where((weight > 0)[:, None], weight[:, None] * jnp.stack(leaves, -1), 0.0)
    total = weighted.sum(0)
    return jax.tree.unflatten(treedef, [total[i] for i in range(len(leaves))])


def loss_info(sums: dict[str, jax.Array], n: jax.Array, info: Info) -> Info:
    """Add the terms of the loss to `info`: policy_loss over n, others as means over real steps."""
    steps = jnp.maximum(info["env_steps"], 1)
    return info | {name: sums[name] / (n if name == "policy_loss" else steps) for name in sums}


def moments_before(objective: Objective, params: Params, chunks: Batch) -> dict[str, Moments]:
    """Running moments before an update; empty ones get the first row of the batch as their mean.

    Sums of differences from a mean that is close to the data keep their precision in float32.
    """
    first = {name: x[0, 0, :1] for name, x in _observed(chunks).items() if name in params}
    first = objective.sharding.gather(first)
    return {name: running_moments.centred_on(params[name], x[0]) for name, x in first.items()}


def moment_sums(before: dict[str, Moments], chunk: Batch) -> dict[str, Moments]:
    """Sums over a chunk that `merge_moments` adds."""
    rows = _observed(chunk)
    return {
        name: running_moments.weighted_sums(moments, rows[name], chunk.weight)
        for name, moments in before.items()
    }


def merge_moments(before: dict[str, Moments], sums: dict[str, Moments]) -> dict[str, Moments]:
    """Running moments after an update, from those before it and the sums over its batch."""
    return {name: running_moments.merge(before[name], sums[name]) for name in sums}


def with_moments(
    objective: Objective, after: TrainState, before: TrainState, chunks: Batch
) -> TrainState:
    """Return the state `after` an update, with the running moments `before` it plus its batch."""
    moments = moments_before(objective, before.params, chunks)
    if not moments:
        return after
    sums = sum_chunks(
        functools.partial(moment_sums, moments),
        chunks,
        count_real(chunks.weight),
        objective.sharding,
    )
    return after._replace(params={**after.params, **merge_moments(moments, sums)})


def _observed(batch: Batch) -> dict[str, jax.Array]:
    """Rows [..., d] whose running moments may be kept, by collection."""
    rows = {running_moments.OBS: batch.obs}
    if batch.returns is not None:
        rows[RETURNS] = batch.returns[..., None]
    return rows
