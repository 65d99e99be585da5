"""The logarithm of the slope of tanh, and its mean under a normal distribution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

_LOG_2, _SQRT_2, _SQRT_2PI = float(np.log(2.0)), float(np.sqrt(2.0)), float(np.sqrt(2.0 * np.pi))
# Gauss-Hermite nodes for E f(x), x ~ N(0, 1), and Gauss-Legendre nodes for the integral of f from 0
# to 8. In float64, with the std at which they change over, both have errors below 1e-6.
_NORMAL_NODES, _NORMAL_WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
_NORMAL_WEIGHTS = _NORMAL_WEIGHTS / _NORMAL_WEIGHTS.sum()
_LINE_NODES, _LINE_WEIGHTS = (4.0 * x for x in np.polynomial.legendre.leggauss(20))
_LINE_NODES = _LINE_NODES + 4.0
_CHANGE_OVER = 0.6


def log_tanh_slope(x: jax.Array) -> jax.Array:
    """Return log(1 - tanh(x)²) as 2 (log 2 - x - softplus(-2x)), which stays finite.

    In float32 1 - tanh(x)² itself is 0 from about x = 8 on.
    """
    return 2.0 * (_LOG_2 - x - jax.nn.softplus(-2.0 * x))


def mean_log_tanh_slope(mean: jax.Array, std: jax.Array) -> jax.Array:
    """Return E log(1 - tanh(x)²) for x ~ N(mean, std²), elementwise.

    The error is below 1e-5 for std from 0.01 to 30 and means from -30 to 30.

    For a narrow normal the function is smooth, which suits Gauss-Hermite quadrature. For a wide one
    it has a kink at 0: it is 2 log 2 - 2 |x| - 2 log(1 + exp(-2 |x|)). The mean of |x| is known;
    the last term, which soon falls to 0, is integrated against the density of |x|.
    """
    mean, std = jnp.broadcast_arrays(mean, std)
    wide = std > _CHANGE_OVER
    # Each formula sees a std that suits it, so that the one not used has a finite gradient.
    narrow_std, wide_std = jnp.where(wide, _CHANGE_OVER, std), jnp.where(wide, std, _CHANGE_OVER)

    def slope(z: jax.Array) -> jax.Array:
        return log_tanh_slope(mean + narrow_std * z)

    def density(x: jax.Array) -> jax.Array:  # of |x|
        z, mirrored = (x - mean) / wide_std, (x + mean) / wide_std
        return (jnp.exp(-0.5 * z**2) + jnp.exp(-0.5 * mirrored**2)) / wide_std

    z = mean / wide_std
    distance = 2.0 * wide_std * jnp.exp(-0.5 * z**2) / _SQRT_2PI
    distance += mean * jax.lax.erf(z / _SQRT_2)
    line_weights = _LINE_WEIGHTS * np.log1p(np.exp(-2.0 * _LINE_NODES)) / _SQRT_2PI
    rest = _weighted_sum(density, _LINE_NODES, line_weights, mean.dtype)
    narrow = _weighted_sum(slope, _NORMAL_NODES, _NORMAL_WEIGHTS, mean.dtype)
    return jnp.where(wide, 2.0 * (_LOG_2 - distance - rest), narrow)


def _weighted_sum(
    fn: Callable[[jax.Array], jax.Array], nodes: np.ndarray, weights: np.ndarray, dtype: DTypeLike
) -> jax.Array:
    """Sum of weights * fn(nodes)."""
    return jnp.tensordot(jnp.asarray(weights, dtype), jax.vmap(fn)(jnp.asarray(nodes, dtype)), 1)
