"""Unreduced losses: elementwise, [...] in and [...] out; the caller weighs and sums."""

import chex
import jax
from jax import lax


def policy_gradient_loss(log_prob: jax.Array, advantage: jax.Array) -> jax.Array:
    """-stop_gradient(A) log pi(a | s), elementwise.

    Its gradient, summed over the steps of an episode, is minus the REINFORCE estimate.

    Source: Williams 1992, Simple statistical gradient-following algorithms, eq. 11.
    """
    chex.assert_equal_shape([log_prob, advantage])
    return -lax.stop_gradient(advantage) * log_prob


def value_loss(value: jax.Array, target: jax.Array) -> jax.Array:
    """(V(s) - stop_gradient(target))^2 / 2, elementwise."""
    chex.assert_equal_shape([value, target])
    return 0.5 * (value - lax.stop_gradient(target)) ** 2
