"""Elementwise losses: [...] in and [...] out. The caller weights and averages them."""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


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
