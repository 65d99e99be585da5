"""Returns and advantages as recursions over time. The leading axis is time: [T] or [T, ...].

Sums are in float32, or in float64 for float64 rewards and values; results have the dtype of the
arguments.
"""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pgjax.numerics.dtypes import at_least_float32, result_dtype, standard_promotion
from pgjax.numerics.sums import scan_in_fixed_order


@standard_promotion
def discounted_returns(
    r_t: ArrayLike, discount_t: ArrayLike, bootstrap_value: ArrayLike = 0.0
) -> jax.Array:
    """Discounted sums of future rewards.

    Gₜ = rₜ + γₜ Gₜ₊₁ for t = T-1, ..., 0, with G_T = bootstrap_value.

    Use it for Monte Carlo returns, or for any other quantity with this recursion.

    Args:
      r_t: rewards, [T, ...] float.
      discount_t: γₜ in [0, 1], a scalar, [T] or [T, ...]; 0 if an episode ends with step t.
      bootstrap_value: the value after the last step, a scalar or [...].

    Returns:
      Gₜ, [T, ...] float.

    Source: Sutton & Barto, Reinforcement Learning, 2nd ed., eq. 3.9.

    Example:
      >>> import numpy as np
      >>> from pgjax import returns
      >>> returns.discounted_returns(np.array([1.0, 2.0, 3.0]), 0.5).tolist()
      [2.75, 3.5, 3.0]
    """
    dtype = result_dtype(r_t)
    r_t = at_least_float32(r_t)
    discount_t = _broadcast_over_time(discount_t, r_t)
    bootstrap_value = jnp.broadcast_to(jnp.asarray(bootstrap_value, r_t.dtype), r_t.shape[1:])

    def step(g: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        r, discount = x
        g = r + discount * g
        return g, g

    # A step of reward 0 and discount 1 leaves G unchanged.
    xs, neutral = (r_t, discount_t), (0, 1)
    return scan_in_fixed_order(step, bootstrap_value, xs, neutral, reverse=True)[1].astype(dtype)


@standard_promotion
def lambda_returns(
    r_t: ArrayLike, discount_t: ArrayLike, v_t: ArrayLike, lambda_: ArrayLike = 1.0
) -> jax.Array:
    """λ-returns: mixtures of Monte Carlo returns and one-step bootstrapped returns.

    Gₜ = rₜ + γₜ [(1 - λₜ) vₜ + λₜ Gₜ₊₁] for t = T-1, ..., 0, with G_T = v_{T-1}.

    Use them as targets for a critic. λ = 1 gives Monte Carlo returns that bootstrap only after the
    last step; a smaller λ relies more on the critic, with more bias and less variance.

    Args:
      r_t: rewards, [T, ...] float.
      discount_t: γₜ in [0, 1], a scalar, [T] or [T, ...]; 0 if an episode ends with step t.
      v_t: the value of the state after step t, [T, ...] float.
      lambda_: λₜ in [0, 1], a scalar, [T] or [T, ...].

    Returns:
      Gₜ, [T, ...] float.

    Raises:
      AssertionError: if r_t and v_t differ in shape.

    Source: Sutton & Barto, Reinforcement Learning, 2nd ed., eq. 12.20.

    Example:
      >>> import numpy as np
      >>> from pgjax import returns
      >>> r_t, v_t = np.array([1.0, 2.0]), np.array([10.0, 20.0])
      >>> returns.lambda_returns(r_t, 0.5, v_t, lambda_=0.25).tolist()
      [6.25, 12.0]
    """
    dtype = result_dtype(r_t, v_t)
    r_t, v_t = at_least_float32(r_t), at_least_float32(v_t)
    chex.assert_equal_shape([r_t, v_t])
    discount_t, lambda_ = (_broadcast_over_time(x, r_t) for x in (discount_t, lambda_))
    # Gₜ = [rₜ + γₜ (1 - λₜ) vₜ] + [γₜ λₜ] Gₜ₊₁
    mixed = r_t + discount_t * (1 - lambda_) * v_t
    return discounted_returns(mixed, discount_t * lambda_, v_t[-1]).astype(dtype)


@standard_promotion
def gae(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: ArrayLike,
    lambda_: ArrayLike,
) -> jax.Array:
    """Generalised advantage estimates.

    δₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) - V(sₜ)
    Aₜ = δₜ + γ λ (1 - (terminatedₜ or truncatedₜ)) Aₜ₊₁ for t = T-1, ..., 0, with A_T = 0.

    Use them as advantages when there is a critic. A truncated step bootstraps from next_value and a
    terminated one does not; a step that is both counts as terminated. The last step bootstraps
    unless it is terminated. To estimate the advantages of a Rollout, see `pgjax.advantages.gae`.

    Args:
      reward: [T, ...] float.
      value: V(sₜ), [T, ...] float.
      next_value: V(sₜ₊₁) of the true successor, [T, ...] float.
      terminated, truncated: [T, ...] bool.
      gamma, lambda_: γ and λ, scalars in [0, 1].

    Returns:
      Aₜ, [T, ...] float.

    Raises:
      AssertionError: if the arrays differ in shape.

    Source: Schulman et al. 2016, High-dimensional continuous control using generalized advantage
    estimation, eq. 11 and 16.

    Example:
      >>> import numpy as np
      >>> from pgjax import returns
      >>> reward, value, next_value = np.ones(2), np.full(2, 2.0), np.full(2, 4.0)
      >>> terminated, truncated = np.array([False, True]), np.array([False, False])
      >>> returns.gae(reward, value, next_value, terminated, truncated, 0.5, 0.5).tolist()
      [0.75, -1.0]
    """
    dtype = result_dtype(reward, value, next_value)
    reward, value, next_value = map(at_least_float32, (reward, value, next_value))
    terminated, truncated = jnp.asarray(terminated), jnp.asarray(truncated)
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    ended = jnp.logical_or(terminated, truncated)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    discount = gamma * lambda_ * jnp.where(ended, 0.0, 1.0)
    return discounted_returns(delta, discount).astype(dtype)


def _broadcast_over_time(x: ArrayLike, r_t: jax.Array) -> jax.Array:
    """Broadcast a scalar, [T] or [T, ...] to the shape of `r_t`; the leading axis is time."""
    x = jnp.asarray(x, r_t.dtype)
    if x.ndim:
        x = x.reshape(x.shape + (1,) * (r_t.ndim - x.ndim))
    return jnp.broadcast_to(x, r_t.shape)
