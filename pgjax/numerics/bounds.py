"""Map any numbers into the bounds of a box, in NumPy and in JAX by the same formula."""

from typing import Any

import numpy as np


def into_bounds(xp: Any, raw: Any, low: Any, high: Any, *, squash: bool) -> Any:
    """Clip numbers to bounds, or map them into bounds by tanh; round them if bounds are integers.

    No step overflows for finite bounds, however far they are apart.

    Args:
      xp: numpy or jax.numpy.
      raw: [..., d] float.
      low, high: [d], the bounds, of the dtype of the result.
      squash: whether to use tanh.

    Returns:
      [..., d] of the dtype of the bounds, within them.

    Example:
      >>> import numpy as np
      >>> low, high = np.array([0, -3]), np.array([10, 3])
      >>> into_bounds(np, np.array([0.0, 50.0]), low, high, squash=True).tolist()
      [5, 3]
    """
    dtype = low.dtype
    integer = dtype.kind in "biu"
    # NumPy computes in the dtype of the space, in float64 for integers; JAX has float32 for those.
    raw = raw.astype((np.float64 if xp is np else np.float32) if integer else dtype)
    lowest, highest = low.astype(raw.dtype), high.astype(raw.dtype)
    if squash:
        fraction = (xp.tanh(raw) + 1) / 2
        raw = (1 - fraction) * lowest + fraction * highest
    if not integer:  # after the cast: float32(0.1) lies above a float64 bound of 0.1
        return xp.minimum(xp.maximum(raw, lowest), highest)
    # Use the bounds themselves: converted to float they may be rounded.
    raw = xp.rint(raw)
    inside = xp.where((raw > lowest) & (raw < highest), raw, xp.zeros_like(raw)).astype(dtype)
    return xp.where(raw <= lowest, low, xp.where(raw >= highest, high, inside))
