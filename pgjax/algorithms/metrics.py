"""Metrics of a batch: counts, returns and lengths of episodes, and how well a critic fits."""

import jax
import jax.numpy as jnp

from pgjax.numerics.dtypes import at_least_float32, unit_scale
from pgjax.numerics.sums import sum_rows
from pgjax.returns import discounted_returns
from pgjax.types import Info, Rollout, segment_ends


def episode_info(rollout: Rollout) -> Info:
    """Counts, returns and lengths of the episodes of a rollout; its padding must be zero."""
    real, ends, dtype = rollout.weight > 0, segment_ends(rollout), rollout.reward.dtype
    starts = real & jnp.concatenate([jnp.ones_like(real[:1]), (ends | ~real)[:-1]])
    # Returns and lengths are sums in the fixed order of the recursion, in one loop: [T, B, 2].
    per_step = jnp.stack([rollout.reward, rollout.weight.astype(dtype)], -1)
    sums = discounted_returns(per_step, jnp.where(ends, 0.0, 1.0).astype(dtype)[..., None])
    cut = ends & rollout.truncated & ~rollout.terminated
    at_start = jnp.where(starts[..., None], sums, 0.0)
    episodes, steps, total, length, truncated = sum_rows(
        (starts, real, at_start[..., 0], at_start[..., 1], cut)
    )
    count = jnp.maximum(episodes, 1)
    lowest = jnp.min(jnp.where(starts[..., None], sums, jnp.inf), (0, 1))
    highest = jnp.max(jnp.where(starts[..., None], sums, -jnp.inf), (0, 1))
    return {
        "episodes": episodes.astype(jnp.int32),
        "env_steps": steps.astype(jnp.int32),
        "mean_return": total / count,
        "min_return": lowest[0],
        "max_return": highest[0],
        "mean_length": length / count,
        "min_length": lowest[1],
        "max_length": highest[1],
        "truncated_fraction": truncated / count,
    }


def explained_variance(weight: jax.Array, value: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant.

    The scale of the numbers does not matter. For a constant target it is 1 if the residual is
    constant too, and otherwise 0.
    """
    real = weight > 0

    def centred(x: jax.Array) -> jax.Array:
        # On one of the values: the float32 mean of equal numbers is not always equal to them.
        return jnp.where(real, x - x.ravel()[jnp.argmax(real.ravel())], 0.0)

    value, target = (jnp.where(real, at_least_float32(x), 0.0) for x in (value, target))
    scale = unit_scale(value, target)
    pair = (centred(scale * target - scale * value), centred(scale * target))
    (sum_residual, sum_target), count = sum_rows((pair, weight))
    count = jnp.maximum(count, 1)
    squares = (
        jnp.where(real, (pair[0] - sum_residual / count) ** 2, 0.0),
        jnp.where(real, (pair[1] - sum_target / count) ** 2, 0.0),
    )
    residual, total = sum_rows(squares)
    constant = total == 0
    explained = 1.0 - residual / jnp.where(constant, 1.0, total)
    return jnp.where(constant, jnp.where(residual == 0, 1.0, 0.0), explained)
