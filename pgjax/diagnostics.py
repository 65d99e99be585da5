"""Gradient noise: how reliable is the gradient of a batch? Computed only on request."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pgjax.errors import ConfigError
from pgjax.numerics.dtypes import at_least_float32, unit_scale
from pgjax.types import (
    Algorithm,
    Info,
    Params,
    Rollout,
    check_rollout,
    check_type,
    repeat_first,
    zero_padding,
)


def episode_gradients(
    algorithm: Algorithm, params: Params, rollout: Rollout, advantage: ArrayLike
) -> jax.Array:
    """Gradient of each episode on its own: Σₜ advantageₜ ∇ log π(aₜ | sₜ).

    Use it with `summary` to choose a batch size or to compare estimators. The mean over episodes is
    minus the gradient of the policy's part of a loss with mean_over="episodes". Memory: one copy of
    the policy's parameters per episode. A column that is all padding gives zeros; leave it out of
    `summary` with gradients[(rollout.weight > 0).any(0)].

    Args:
      algorithm: only its `log_prob` is used.
      params: parameters as in TrainState; a critic's are ignored.
      rollout: [T, B, ...], one episode per column.
      advantage: [T, B] float, as the estimator returns it for the whole batch, for example
        normalized(reward_to_go())(rollout).

    Returns:
      [B, P] float, P being the number of the policy's parameters, in the order of ravel_pytree.

    Raises:
      ConfigError: if the fields of the rollout do not fit each other, the policy or the advantage.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pgjax
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1))
      >>> params = algorithm.init(jax.random.key(0), jnp.zeros(4)).params
      >>> x, flags = jnp.ones((5, 3)), jnp.zeros((5, 3), bool)  # 3 episodes of 5 steps
      >>> obs, action = jnp.ones((5, 3, 4)), jnp.zeros((5, 3), jnp.int32)
      >>> rollout = pgjax.Rollout(obs, action, x, flags, flags, obs, weight=x)
      >>> pgjax.diagnostics.episode_gradients(algorithm, params, rollout, x).shape
      (3, 10)
    """
    check_type(algorithm, Algorithm)
    advantage = jnp.asarray(advantage)
    check_rollout(rollout)
    if advantage.shape != rollout.reward.shape:
        raise ConfigError(
            f"advantage has shape {advantage.shape}, but the rewards [T, B] have "
            f"{rollout.reward.shape}: they must be the same"
        )
    rollout = zero_padding(rollout)
    real = rollout.weight > 0
    obs, action = (repeat_first(real, x) for x in (rollout.obs, rollout.action))
    scale = jnp.where(real, rollout.weight * advantage, 0.0)

    def gradient(obs: jax.Array, action: jax.Array, scale: jax.Array) -> jax.Array:
        def gain(of_policy: Params) -> jax.Array:
            return (scale * algorithm.log_prob({**params, "params": of_policy}, obs, action)).sum()

        return ravel_pytree(jax.grad(gain)(params["params"]))[0]

    return jax.vmap(gradient, in_axes=1)(obs, action, scale)


def summary(gradients: ArrayLike) -> Info:
    """Noise statistics of a batch's gradient, from the gradients of its episodes.

    Use it to see whether a batch is large enough: if grad_snr is near 1 or grad_cosine near 0, the
    gradient is mostly noise.

    Args:
      gradients: [B, P] float, one row per episode (see `episode_gradients`).

    Returns:
      A dict of scalars, where g is the gradient of one episode:

      - grad_norm: L2 norm of the mean.
      - grad_variance: E |g - E g|² summed over the parameters (ddof 1).
      - grad_snr: signal-to-noise ratio of the mean, |mean|² / (grad_variance / B); about 1 for pure
        noise.
      - grad_cosine: cosine between the means of the even and the odd episodes, in [-1, 1]; about 0
        for pure noise.

    Raises:
      ConfigError: for fewer than two episodes, or gradients that are not [B, P].

    Example:
      >>> import numpy as np
      >>> from pgjax import diagnostics
      >>> info = diagnostics.summary(np.array([[3.0, 0.0], [0.0, 4.0], [3.0, 0.0], [0.0, 4.0]]))
      >>> round(float(info["grad_norm"]), 3), round(float(info["grad_cosine"]), 3)
      (2.5, 0.0)
    """
    gradients = at_least_float32(gradients)
    if gradients.ndim != 2:
        raise ConfigError(f"gradients must be [B, P], one row per episode, got {gradients.shape}")
    count = len(gradients)
    if count < 2:
        raise ConfigError(f"the variance needs at least 2 episodes, got {count}")
    scale = unit_scale(gradients)  # so that no square overflows or vanishes
    gradients = scale * gradients
    mean = gradients.mean(0)
    variance = ((gradients - mean[None]) ** 2).sum() / (count - 1)
    even, odd = gradients[::2].mean(0), gradients[1::2].mean(0)
    norms = jnp.linalg.norm(even) * jnp.linalg.norm(odd)
    return {
        "grad_norm": jnp.linalg.norm(mean) / scale,
        "grad_variance": variance / scale / scale,
        "grad_snr": _ratio(count * (mean**2).sum(), variance),
        "grad_cosine": _ratio(even @ odd, norms),
    }


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a / b, and 0 for 0 / 0."""
    return jnp.where(a == 0, 0.0, a / jnp.where(a == 0, 1.0, b))
