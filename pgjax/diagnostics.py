"""How noisy a batch's gradient is: nothing here is computed unless you ask for it."""

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pgjax.errors import ConfigError
from pgjax.types import Algorithm, Info, Params, Rollout, repeat_first, zero_padding


def episode_gradients(
    algorithm: Algorithm, params: Params, rollout: Rollout, advantage: jax.Array
) -> jax.Array:
    """Each episode's own part of the gradient, sum_t advantage grad log pi, by vmap.

    Their mean is minus the gradient of a loss with mean_over="episodes", as far as it is the
    policy's. Memory: the parameters once for each episode. A column of nothing but padding gives
    zeros, and is to be left out of `summary`: gradients[(rollout.weight > 0).any(0)].

    Args:
      algorithm: `log_prob` is used.
      params: of the policy; a critic's are left alone.
      rollout: [T, B, ...], columns are episodes.
      advantage: [T, B], as an estimator gives it for the whole batch:
        normalized(reward_to_go())(rollout).

    Returns:
      [B, P], P as many as the policy's parameters, in the order of ravel_pytree.
    """
    chex.assert_equal_shape([rollout.reward, advantage])
    rollout = zero_padding(rollout)
    real = rollout.weight > 0
    obs, action = (repeat_first(real, x) for x in (rollout.obs, rollout.action))
    scale = jnp.where(real, rollout.weight * advantage, 0.0)

    def gradient(obs: jax.Array, action: jax.Array, scale: jax.Array) -> jax.Array:
        def gain(of_policy: Params) -> jax.Array:
            return (scale * algorithm.log_prob({**params, "params": of_policy}, obs, action)).sum()

        return ravel_pytree(jax.grad(gain)(params["params"]))[0]

    return jax.vmap(gradient, in_axes=1)(obs, action, scale)


def summary(gradients: jax.Array) -> Info:
    """What the gradients of a batch's episodes, [B, P], say of their mean.

    Returns:
      grad_norm: the mean's L2 norm.
      grad_variance: E |g - E g|^2 of one episode's gradient, summed over parameters (ddof 1).
      grad_snr: |mean|^2 / (grad_variance / B), the mean's signal-to-noise ratio; about 1 where
        there is nothing but noise.
      grad_cosine: between the means of the even and of the odd episodes, -1 to 1; about 0 where
        there is nothing but noise.

    Raises:
      ConfigError: for fewer than two episodes.
    """
    count = len(gradients)
    if count < 2:
        raise ConfigError(f"one gradient has no variance: give at least 2 episodes, got {count}")
    mean = gradients.mean(0)
    variance = ((gradients - mean[None]) ** 2).sum() / (count - 1)
    even, odd = gradients[::2].mean(0), gradients[1::2].mean(0)
    norms = jnp.linalg.norm(even) * jnp.linalg.norm(odd)
    return {
        "grad_norm": jnp.linalg.norm(mean),
        "grad_variance": variance,
        "grad_snr": _ratio(count * (mean**2).sum(), variance),
        "grad_cosine": _ratio(even @ odd, norms),
    }


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of a to b; 0 for 0 / 0."""
    return jnp.where(a == 0, 0.0, a / jnp.where(a == 0, 1.0, b))
