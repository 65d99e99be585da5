"""The recursions. The leading axis is time; [T] and [T, B] alike."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

_UNROLL = 8  # steps per loop iteration: a step costs less than the loop around it


def discounted_returns(
    r_t: chex.Array, discount_t: chex.Numeric, bootstrap_value: chex.Numeric = 0.0
) -> jax.Array:
    """Gₜ = rₜ + γₜ Gₜ₊₁ for t = T-1, ..., 0, with G_T = bootstrap_value.

    Args:
      r_t: rewards, [T, ...] float.
      discount_t: γₜ in [0, 1], a scalar, [T] or [T, ...]; 0 where an episode ends at step t.
      bootstrap_value: the value after the last step, a scalar or [...].

    Returns:
      [T, ...] float.

    Source: Sutton & Barto, Reinforcement Learning, 2nd ed., eq. 3.9.
    """
    r_t = jnp.asarray(r_t)
    r_t = r_t.astype(jnp.result_type(r_t, float))
    discount_t = _per_step(discount_t, r_t)
    bootstrap_value = jnp.broadcast_to(jnp.asarray(bootstrap_value, r_t.dtype), r_t.shape[1:])

    # In whole turns of a loop, and never one turn, which XLA would take apart and round with what
    # is around: so the length changes no bit. A step of reward 0 and discount 1 changes nothing.
    missing = max(-len(r_t) % _UNROLL, 2 * _UNROLL - len(r_t))
    padding = [(0, missing)] + [(0, 0)] * (r_t.ndim - 1)
    xs = jnp.pad(r_t, padding), jnp.pad(discount_t, padding, constant_values=1)

    def step(g: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        g = x[0] + x[1] * g
        return g, g

    returns = lax.scan(step, bootstrap_value, xs, reverse=True, unroll=_UNROLL)[1]
    return returns[: len(r_t)]


def lambda_returns(
    r_t: chex.Array, discount_t: chex.Numeric, v_t: chex.Array, lambda_: chex.Numeric = 1.0
) -> jax.Array:
    """Gₜ = rₜ + γₜ [(1 - λₜ) vₜ + λₜ Gₜ₊₁] for t = T-1, ..., 0, with G_T = v_{T-1}.

    Args:
      r_t: rewards, [T, ...] float.
      discount_t: γₜ in [0, 1], a scalar, [T] or [T, ...].
      v_t: the value of the state that step t leads to, [T, ...].
      lambda_: λ in [0, 1], a scalar, [T] or [T, ...].

    Returns:
      [T, ...] float.

    Source: Sutton & Barto, 2nd ed., eq. 12.20.
    """
    dtype = jnp.result_type(r_t, v_t, float)
    r_t, v_t = jnp.asarray(r_t, dtype), jnp.asarray(v_t, dtype)
    chex.assert_equal_shape([r_t, v_t])
    discount_t, lambda_ = (_per_step(x, r_t) for x in (discount_t, lambda_))
    # Gₜ = [rₜ + γₜ (1 - λₜ) vₜ] + [γₜ λₜ] Gₜ₊₁
    return discounted_returns(r_t + discount_t * (1 - lambda_) * v_t, discount_t * lambda_, v_t[-1])


def _per_step(x: chex.Numeric, r_t: jax.Array) -> jax.Array:
    """A scalar, [T] or [T, ...] to the shape of r_t: the leading axis is time."""
    x = jnp.asarray(x, r_t.dtype)
    if x.ndim:
        x = x.reshape(x.shape + (1,) * (r_t.ndim - x.ndim))
    return jnp.broadcast_to(x, r_t.shape)


def gae(
    reward: chex.Array,
    value: chex.Array,
    next_value: chex.Array,
    terminated: chex.Array,
    truncated: chex.Array,
    gamma: chex.Numeric,
    lambda_: chex.Numeric,
) -> jax.Array:
    """Generalised advantage estimates.

    δₜ = rₜ + γ (1 - terminatedₜ) V(sₜ₊₁) - V(sₜ)
    Aₜ = δₜ + γ λ (1 - (terminatedₜ or truncatedₜ)) Aₜ₊₁,  A_T = 0

    A truncated step bootstraps from next_value, a terminated one does not; both true counts as
    terminated. The last step bootstraps unless it terminated.

    Args:
      reward, value, next_value: [T, ...] float; next_value is V of the true successor.
      terminated, truncated: [T, ...] bool.
      gamma, lambda_: in [0, 1].

    Returns:
      Advantages [T, ...].

    Source: Schulman et al. 2016, High-dimensional continuous control using generalized advantage
    estimation, eq. 11 and 16.
    """
    reward, value, next_value = map(jnp.asarray, (reward, value, next_value))
    terminated, truncated = jnp.asarray(terminated), jnp.asarray(truncated)
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    ended = jnp.logical_or(terminated, truncated)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    return discounted_returns(delta, gamma * lambda_ * jnp.where(ended, 0.0, 1.0))
