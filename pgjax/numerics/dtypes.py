"""Arithmetic in at least float32, whatever the dtype of a user's module."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


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
