"""Elementwise losses: [...] in and [...] out. The caller weights and averages them."""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

_MAX_LOG_RATIO = 80.0  # its exponential is finite in float32


def policy_gradient_loss(log_prob: ArrayLike, advantage: ArrayLike) -> jax.Array:
    """Policy gradient loss: -stop_gradient(A) log π(a | s), elementwise.

    Use it to train a policy. Its gradient, summed over the steps of an episode, is minus the
    REINFORCE estimate.

    Args:
      log_prob: log π(a | s), [...] float.
      advantage: A(s, a), [...] float; treated as a constant.

    Returns:
      [...] float.

    Raises:
      AssertionError: if the arguments differ in shape.

    Source: Williams 1992, Simple statistical gradient-following algorithms, eq. 11.

    Example:
      >>> import numpy as np
      >>> from pgjax import losses
      >>> losses.policy_gradient_loss(np.array([-1.0, -2.0]), np.array([3.0, -0.5])).tolist()
      [3.0, -1.0]
    """
    log_prob, advantage = jnp.asarray(log_prob), jnp.asarray(advantage)
    chex.assert_equal_shape([log_prob, advantage])
    return -lax.stop_gradient(advantage) * log_prob


def value_loss(value: ArrayLike, target: ArrayLike) -> jax.Array:
    """Squared error of a critic: (V(s) - stop_gradient(target))² / 2, elementwise.

    Use it to fit a critic to returns.

    Args:
      value: V(s), [...] float.
      target: the returns to fit, [...] float; treated as constants.

    Returns:
      [...] float, at least 0.

    Raises:
      AssertionError: if the arguments differ in shape.

    Example:
      >>> import numpy as np
      >>> from pgjax import losses
      >>> losses.value_loss(np.array([1.0, 2.0]), np.array([3.0, 2.0])).tolist()
      [2.0, 0.0]
    """
    value, target = jnp.asarray(value), jnp.asarray(target)
    chex.assert_equal_shape([value, target])
    return 0.5 * (value - lax.stop_gradient(target)) ** 2


def ppo_clip_loss(
    log_prob: ArrayLike, old_log_prob: ArrayLike, advantage: ArrayLike, clip: ArrayLike
) -> jax.Array:
    """Clipped surrogate loss of PPO: -min(r A, clip(r, 1 - ε, 1 + ε) A), elementwise.

    r = π(a | s) / π_old(a | s). Use it to make several steps with the same experience: once an
    action has become more probable by a factor of 1 + ε, or less by 1 - ε, in the direction of its
    advantage, its gradient is zero. Where the policies are equal, the gradient is that of
    `policy_gradient_loss`.

    Args:
      log_prob: log π(a | s), [...] float.
      old_log_prob: log π_old(a | s), [...] float; treated as a constant.
      advantage: A(s, a), [...] float; treated as a constant.
      clip: ε in (0, 1), a scalar.

    Returns:
      [...] float.

    Raises:
      AssertionError: if log_prob, old_log_prob and advantage differ in shape.

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, eq. 7.

    Example:
      >>> import numpy as np
      >>> from pgjax import losses
      >>> old = np.log([0.5, 0.5, 0.5])
      >>> new = np.log([0.55, 0.8, 0.8])  # r = 1.1, 1.6, 1.6
      >>> losses.ppo_clip_loss(new, old, np.array([1.0, 1.0, -1.0]), 0.2).round(6).tolist()
      [-1.100000023841858, -1.2000000476837158, 1.600000023841858]
    """
    log_prob, old_log_prob, advantage = map(jnp.asarray, (log_prob, old_log_prob, advantage))
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    # A ratio of infinity has a NaN gradient, also where it is clipped.
    log_ratio = jnp.minimum(log_prob - lax.stop_gradient(old_log_prob), _MAX_LOG_RATIO)
    ratio = jnp.exp(log_ratio)
    advantage = lax.stop_gradient(advantage)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def clipped_value_loss(
    value: ArrayLike, old_value: ArrayLike, target: ArrayLike, clip: ArrayLike
) -> jax.Array:
    """Clipped squared error of a critic: max((V - G)², (V_clipped - G)²) / 2, elementwise.

    V_clipped = clip(V, V_old - ε, V_old + ε). Use it to keep a critic near the values that it gave
    when the experience was collected. It often makes no difference (Andrychowicz et al. 2021).

    Args:
      value: V(s), [...] float.
      old_value: V_old(s), [...] float; treated as a constant.
      target: the returns G to fit, [...] float; treated as constants.
      clip: ε > 0 in the units of the values, a scalar.

    Returns:
      [...] float, at least 0.

    Raises:
      AssertionError: if value, old_value and target differ in shape.

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
    Estimation, section 5, has the idea; this form is that of OpenAI's baselines (ppo2).

    Example:
      >>> import numpy as np
      >>> from pgjax import losses
      >>> losses.clipped_value_loss(np.array([3.0]), np.array([1.0]), np.array([4.0]), 0.5).tolist()
      [3.125]
    """
    value, old_value, target = map(jnp.asarray, (value, old_value, target))
    chex.assert_equal_shape([value, old_value, target])
    old_value, target = lax.stop_gradient(old_value), lax.stop_gradient(target)
    clipped = jnp.clip(value, old_value - clip, old_value + clip)
    return 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
