"""Running mean and variance of rows of numbers, such as observations.

They are a collection of the Flax variables next to "params", and so part of every checkpoint. An
update acts and computes with the moments from before it, and adds its batch afterwards. Nothing
else changes them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from pgjax.errors import ConfigError

OBS = "obs_moments"  # name of the collection
Moments = dict[str, jax.Array]  # "count" [], "mean" [d] and "var" [d], float32


def centred_on(moments: Moments, row: jax.Array) -> Moments:
    """Return the moments; before any data, with `row` [d] as a provisional mean near the data."""
    mean = jnp.where(moments["count"] > 0, moments["mean"], row.astype(jnp.float32))
    return {**moments, "mean": mean}


def weighted_sums(moments: Moments, x: jax.Array, weight: jax.Array) -> Moments:
    """Sum the differences of rows x [n, d] from the running mean, for `merge`; weight is [n].

    Differences from a mean near the data (see `centred_on`) keep a small variance from being lost
    in the rounding of large float32 squares.
    """
    away = jnp.where((weight > 0)[:, None], x.astype(jnp.float32) - moments["mean"][None], 0.0)
    weighted = weight[:, None] * away
    return {"count": weight.sum(), "mean": weighted.sum(0), "var": (weighted * away).sum(0)}


def merge(moments: Moments, sums: Moments) -> Moments:
    """Add the `weighted_sums` of a batch to the moments: those of all rows so far.

    Source: Chan, Golub & LeVeque 1979, Updating formulae for computing sample variances, eq. 1.1.
    """
    count = moments["count"] + sums["count"]
    share = 1.0 / jnp.maximum(count, 1.0)
    shift = share * sums["mean"]
    spread = share * (moments["count"] * moments["var"] + sums["var"]) - shift**2
    merged = {"count": count, "mean": moments["mean"] + shift, "var": jnp.maximum(spread, 0.0)}
    kept = {**moments, "mean": jnp.where(moments["count"] > 0, moments["mean"], 0.0)}
    return {name: jnp.where(sums["count"] > 0, merged[name], kept[name]) for name in merged}


def initial_moments(size: int) -> Moments:
    """Return the initial moments of rows [size]: count 0, mean 0 and variance 1."""
    return {"count": jnp.zeros(()), "mean": jnp.zeros(size), "var": jnp.ones(size)}


def standardize(moments: Moments, x: jax.Array, limit: float = 10.0) -> jax.Array:
    """Return (x - mean) / std clipped to [-limit, limit], for x [..., d]; 0 for constants."""
    leading = (1,) * (x.ndim - 1)
    mean, var = (moments[name].reshape(*leading, -1) for name in ("mean", "var"))
    return jnp.clip((x - mean) * jax.lax.rsqrt(var + 1e-8), -limit, limit)


def reciprocal_rms(moments: Moments) -> jax.Array:
    """Return 1 / sqrt(E x²) of rows [1], a scalar; 1 before any data, or if all data are 0.

    It is NaN if E x² overflows: 0 would hide that.
    """
    square = moments["var"][0] + moments["mean"][0] ** 2
    known = (moments["count"] > 0) & (square > 0)
    square = jnp.where(jnp.isinf(square), jnp.nan, jnp.where(known, square, 1.0))
    return jax.lax.rsqrt(square)


def variables(module: Any, size: int) -> Moments:
    """Return the moments in the collection OBS of a Flax module, with gradient zero."""
    begin = initial_moments(size)
    kept = {name: module.variable(OBS, name, lambda x=x: x).value for name, x in begin.items()}
    if (known := kept["mean"].shape) != (size,):  # Flax does not compare shapes of variables
        raise ConfigError(f"the running moments are of {known} numbers, but observations of {size}")
    return jax.lax.stop_gradient(kept)
