"""Running mean and variance of observations, and size of returns: part of a run's parameters.

They are collections of the Flax variables beside "params", and so in every checkpoint. An update
acts, and is computed, with what was known before it, and adds its batch afterwards; nothing else
changes them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from pgjax.types import Params

OBS, RETURNS = "obs_moments", "return_moments"  # collections
_TRAINED = ("params", "critic")
Moments = dict[str, jax.Array]


def trained(params: Params) -> Params:
    """What the optimiser sees: all but what is merely kept."""
    return {name: tree for name, tree in params.items() if name in _TRAINED}


def of_critic(params: Params) -> Params:
    """The variables of the critic: its own parameters, and what is kept for both."""
    return {**params, "params": params["critic"]}


def centred_on(moments: Moments, row: jax.Array) -> Moments:
    """The moments, or where nothing was seen a mean [d] to begin with, near to what will be."""
    mean = jnp.where(moments["count"] > 0, moments["mean"], row.astype(jnp.float32))
    return {**moments, "mean": mean}


def weighted_sums(moments: Moments, x: jax.Array, weight: jax.Array) -> Moments:
    """Of rows x [n, d], with weight [n]: what `merge` adds, sums of differences from the mean.

    From the running mean (see `centred_on`), so that float32 squares do not drown a small variance.
    """
    away = jnp.where((weight > 0)[:, None], x.astype(jnp.float32) - moments["mean"][None], 0.0)
    weighted = weight[:, None] * away
    return {"count": weight.sum(), "mean": weighted.sum(0), "var": (weighted * away).sum(0)}


def merge(moments: Moments, sums: Moments) -> Moments:
    """The moments with those of a batch added, as if all had been seen at once.

    Source: Chan, Golub & LeVeque 1979, Updating formulae for computing sample variances, eq. 1.1.
    """
    count = moments["count"] + sums["count"]
    share = 1.0 / jnp.maximum(count, 1.0)
    shift = share * sums["mean"]
    spread = share * (moments["count"] * moments["var"] + sums["var"]) - shift**2
    merged = {"count": count, "mean": moments["mean"] + shift, "var": jnp.maximum(spread, 0.0)}
    kept = {**moments, "mean": jnp.where(moments["count"] > 0, moments["mean"], 0.0)}
    return {name: jnp.where(sums["count"] > 0, merged[name], kept[name]) for name in merged}


def nothing_seen(size: int) -> Moments:
    """Of rows [size]: mean 0 and variance 1, until something is seen."""
    return {"count": jnp.zeros(()), "mean": jnp.zeros(size), "var": jnp.ones(size)}


def standardize(moments: Moments, x: jax.Array, limit: float = 10.0) -> jax.Array:
    """(x - mean) / std, cut off at so many deviations; constants are 0."""
    leading = (1,) * (x.ndim - 1)
    mean, var = (moments[name].reshape(*leading, -1) for name in ("mean", "var"))
    return jnp.clip((x - mean) * jax.lax.rsqrt(var + 1e-8), -limit, limit)


def reciprocal_size(moments: Moments) -> jax.Array:
    """1 / sqrt(E x^2) of rows of one number, []; 1 while nothing is known or all are 0."""
    square = moments["var"][0] + moments["mean"][0] ** 2
    known = (moments["count"] > 0) & (square > 0)
    return jnp.where(known, jax.lax.rsqrt(jnp.where(known, square, 1.0)), 1.0)


def variables(module: Any, size: int) -> Moments:
    """The moments of a Flax module's collection OBS, whose gradient is zero."""
    begin = nothing_seen(size)
    kept = {name: module.variable(OBS, name, lambda x=x: x).value for name, x in begin.items()}
    return jax.lax.stop_gradient(kept)
