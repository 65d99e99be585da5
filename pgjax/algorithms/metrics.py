"""Metrics of a batch: counts, returns and lengths of episodes, and how well a critic fits."""

import jax
import jax.numpy as jnp

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
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant."""

    def only_real(x: jax.Array) -> jax.Array:
        return jnp.where(weight > 0, x, 0.0)

    pair = (only_real(target - value), only_real(target))
    (sum_residual, sum_target), count = sum_rows((pair, weight))
    count = jnp.maximum(count, 1)
    squares = (
        only_real((pair[0] - sum_residual / count) ** 2),
        only_real((pair[1] - sum_target / count) ** 2),
    )
    residual, total = sum_rows(squares)
    return 1.0 - residual / (total + 1e-8)
