"""A rollout as rows that are ready for the loss, in the chunks that it is summed in."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.metrics import episode_info, explained_variance
from pgjax.errors import ConfigError
from pgjax.numerics import running_moments
from pgjax.numerics.sums import Sharding, fusion_barrier, join_rows, split_rows
from pgjax.returns import discounted_returns
from pgjax.types import Info, Params, Rollout, repeat_first, segment_ends, zero_padding


class Batch(NamedTuple):
    """Rows ready for the loss; nothing in it depends on what is differentiated.

    [T, B, ...], then in chunks [shards, n, chunk_size, ...].
    """

    obs: jax.Array
    action: jax.Array
    weight: jax.Array
    advantage: jax.Array
    target: jax.Array  # what the critic is fitted to; zero without one
    returns: jax.Array | None  # discounted, of the rewards as they came; None if nobody asks


def prepare(
    objective: Objective, params: Params, rollout: Rollout
) -> tuple[Batch, jax.Array, Info]:
    """Computed once: chunks [shards, n, chunk_size, ...], what the loss is divided by, counts."""
    sharding = objective.sharding
    rollout = _fill_shards(sharding, zero_padding(rollout))
    # An estimator sees the whole batch, and so does what is told of it.
    whole, value, next_value = sharding.gather(rollout, axis=1), None, None
    if objective.critic is not None:
        values = _values(objective, params, rollout)
        value, next_value = sharding.gather(values, axis=1)
    info, returns = episode_info(whole), None
    if objective.scale_rewards is not None:
        goes_on = jnp.where(segment_ends(whole), 0.0, objective.scale_rewards)
        returns = sharding.mine(discounted_returns(whole.reward, goes_on))
        scale = running_moments.reciprocal_size(params[running_moments.RETURNS])
        # Fused into a recursion it would be rounded with it, and otherwise for another length.
        scaled = fusion_barrier(jnp.multiply, info["env_steps"] >= 0)(scale, whole.reward)
        whole = whole._replace(reward=scaled)
    advantage, target = objective.estimator(whole, value, next_value), jnp.zeros_like(whole.reward)
    if value is not None:
        target = inspect.unwrap(objective.estimator)(whole, value, next_value) + value
        info["explained_variance"] = explained_variance(whole.weight, value, target)
    advantage, target = sharding.mine(advantage), sharding.mine(target)
    # An estimator or a critic of a user's own may leave anything in padded slots.
    advantage, target = (jnp.where(rollout.weight > 0, x, 0.0) for x in (advantage, target))
    batch = Batch(rollout.obs, rollout.action, rollout.weight, advantage, target, returns)
    # At least one, so that a batch without a real step gives nothing over one.
    n = jnp.maximum(info["episodes" if objective.mean_over == "episodes" else "env_steps"], 1)
    shards = sharding.num_shards // sharding.num_devices()
    chunks = split_rows(batch, objective.chunk_size, shards)
    obs, action = (repeat_first(chunks.weight > 0, x) for x in (chunks.obs, chunks.action))
    return chunks._replace(obs=obs, action=action), n, info


def _fill_shards(sharding: Sharding, rollout: Rollout) -> Rollout:
    """With columns of padding, so that each shard has equally many."""
    held = rollout.reward.shape[1]
    columns = held * sharding.num_devices()
    missing = sharding.pad(columns) - columns
    if missing and sharding.axis_name is not None:
        raise ConfigError(
            f"{columns} columns on all devices do not fill {sharding.num_shards} shards evenly: "
            "pad them to a multiple, as collect_episodes_on_device does"
        )

    if not missing:
        return rollout
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), rollout
    )


def skip_empty(fn: Any) -> Any:
    """`fn`, but zeros at once for a chunk that holds only padding."""

    def maybe(chunk: Batch) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, chunk))
        return lax.cond(jnp.any(chunk.weight > 0), fn, lambda _: zeros, chunk)

    return maybe


def count_real(chunks: Batch) -> jax.Array:
    """[shards]: how many chunks there are up to the last one with a real row."""
    real = (chunks.weight > 0).any(2)
    return jnp.max(jnp.where(real, jnp.arange(1, real.shape[1] + 1), 0), 1)


def _values(objective: Objective, params: Params, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
    """V(obs) and V(next_obs), both [T, B], chunk by chunk so that padding changes no bit."""
    critic: Any = objective.critic
    variables, shape = running_moments.of_critic(params), rollout.reward.shape

    shards = objective.sharding.num_shards // objective.sharding.num_devices()

    def apply(obs: jax.Array) -> Any:
        chunks = split_rows(obs, objective.chunk_size, shards)
        value = lax.map(lambda shard: lax.map(lambda x: critic.apply(variables, x), shard), chunks)
        return join_rows(value, shape)

    return apply(rollout.obs), apply(rollout.next_obs)
