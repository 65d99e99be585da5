"""Arithmetic in at least float32, whatever the dtype and the scale of a user's numbers."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

F = TypeVar("F", bound=Callable[..., Any])


def at_least_float32(x: ArrayLike) -> jax.Array:
    """Return an array of float32 or float64: fewer bits, integers and bools become float32.

    Example:
      >>> import jax.numpy as jnp
      >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    x = jnp.asarray(x)
    enough = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32
    return x if enough else x.astype(jnp.float32)


def standard_promotion(fn: F) -> F:
    """Make a function work under jax_numpy_dtype_promotion="strict", which optax does not support.

    The setting applies again to what the caller does with the results.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> add = standard_promotion(lambda a, b: a + b)
      >>> with jax.numpy_dtype_promotion("strict"):
      ...     add(jnp.int32(1), jnp.float32(2)).dtype
      dtype('float32')
    """

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return fn(*args, **kwargs)

    return cast(F, wrapped)


def result_dtype(*xs: ArrayLike) -> jnp.dtype:
    """Return the floating dtype of a result of several arrays, in which integers count as float32.

    Example:
      >>> import jax.numpy as jnp
      >>> result_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones(2, int)).name
      'float32'
    """
    dtypes = [jnp.asarray(x).dtype for x in xs]
    floats = [d if jnp.issubdtype(d, jnp.floating) else jnp.dtype(jnp.float32) for d in dtypes]
    return standard_promotion(functools.reduce)(jnp.promote_types, floats)


def unit_scale(*xs: jax.Array) -> jax.Array:
    """Return a power of two that brings the largest of all numbers between 1/2 and 1.

    Multiply by it before squaring, so that nothing overflows or vanishes. It is exact: every sum
    and root has the bits of the unscaled one, times the scale. It is 1 if all numbers are 0.

    Example:
      >>> import jax.numpy as jnp
      >>> float(unit_scale(jnp.array([3.0, -20.0])))  # -20 / 32 = -0.625
      0.03125
    """
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(x)) for x in xs))
    _, exponent = jnp.frexp(lax.stop_gradient(largest))
    usable = (largest > 0) & jnp.isfinite(largest)
    most = jnp.finfo(largest.dtype).maxexp - 2  # so that neither the scale nor its inverse is 0
    exponent = jnp.where(usable, jnp.clip(exponent, -most, most), 0)
    return jnp.ldexp(jnp.ones_like(largest), -exponent)
