"""Random keys of episodes and steps, and the noise of many steps drawn in one call.

Every draw is determined by the run's key, the number of the episode and the time step.

Sampling an action is cheap arithmetic on noise that depends only on the key: Gumbel noise for a
categorical, normal noise for a Gaussian. On CPU, generating the noise costs as much as the rest of
`act`. So `act` is split in two: what depends only on the key is computed ahead for a block of
steps, and the rest takes that noise as an argument. The split happens on the traced program, so it
works for any policy and does not change the result.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

Noise = tuple[jax.Array, ...]
_RESET = 2**32 - 1  # stands for the time step before the first, when the environment is reset


def episode_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """Return the keys [n] of a run's episodes with the given numbers [n] uint32."""
    return jax.vmap(lambda e: jax.random.fold_in(key, e))(numbers)


def reset_seeds(keys: jax.Array) -> jax.Array:
    """Return the seeds [n] uint32 that episodes with keys [n] reset their environments with."""
    before = jax.vmap(lambda k: jax.random.fold_in(k, _RESET))(keys)
    return jax.vmap(lambda k: jax.random.bits(k, dtype=jnp.uint32))(before)


def noise_at(
    draw: Callable[[jax.Array], Any], keys: jax.Array, times: jax.Array, *, time_axis: int
) -> Any:
    """Draw for each of the episodes with keys [n] at each of the times [T].

    Returns [n, T, ...] with time_axis=1 and [T, n, ...] with time_axis=0.
    """
    of_episode = jax.vmap(lambda k, t: draw(jax.random.fold_in(k, t)), in_axes=(None, 0))
    return jax.vmap(of_episode, in_axes=(0, None), out_axes=1 - time_axis)(keys, times)


def split_noise(
    act: Callable[[Any, jax.Array, jax.Array], Any], params: Any, key: Any, obs: Any
) -> tuple[Callable[[jax.Array], Noise], Callable[[Any, Noise, jax.Array], Any]]:
    """Return (draw, act_on) such that act_on(params, draw(key), obs) is act(params, key, obs).

    Args:
      act: (params, key, obs) -> action, pure; a jitted function is unwrapped first.
      params, key, obs: examples of the arguments, or their shapes and dtypes.

    Returns:
      draw: key -> a tuple of plain arrays, empty if nothing is drawn.
      act_on: (params, noise, obs) -> action.
    """
    act = getattr(act, "__wrapped__", act)  # split the function inside jit
    closed, out_shape = jax.make_jaxpr(act, return_shape=True)(params, key, obs)
    drawn, rest, is_key = _split_program(closed, len(jax.tree.leaves(params)))

    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    [impl] = found

    def draw(key: jax.Array) -> Noise:
        values = drawn(key)
        return tuple(
            jax.random.key_data(x) if k else x for x, k in zip(values, is_key, strict=True)
        )

    def act_on(params: Any, noise: Noise, obs: jax.Array) -> Any:
        values = [
            jax.random.wrap_key_data(x, impl=impl) if k else x
            for x, k in zip(noise, is_key, strict=True)
        ]
        leaves = rest(*jax.tree.leaves(params), obs, *values)
        return jax.tree.unflatten(jax.tree.structure(out_shape), leaves)

    return draw, act_on


def _split_program(
    closed: ClosedJaxpr, key_index: int
) -> tuple[Callable[..., Any], Callable[..., Any], list[bool]]:
    """Split a program into what follows from its input `key_index` alone, and the rest.

    Returns:
      (key -> noise, (*other inputs, *noise) -> outputs, which of the noise are keys)
    """
    jaxpr = closed.jaxpr
    key_vars = jaxpr.invars[key_index : key_index + 1]
    other_vars = jaxpr.invars[:key_index] + jaxpr.invars[key_index + 1 :]
    from_key, from_other = set(key_vars), set(other_vars)
    early, late = [], []
    for eqn in jaxpr.eqns:
        inputs = {v for v in eqn.invars if not isinstance(v, Literal)}
        if inputs & from_other:
            late.append(eqn)
            from_other.update(eqn.outvars)
        elif inputs & from_key:
            early.append(eqn)
            from_key.update(eqn.outvars)
        else:  # it depends on constants only: either part may need it
            early.append(eqn)
            late.append(eqn)

    used = {v for eqn in late for v in eqn.invars if not isinstance(v, Literal)}
    used |= {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    order = key_vars + [v for eqn in early for v in eqn.outvars]
    noise_vars = [v for v in order if v in used and v in from_key]
    is_key = [jnp.issubdtype(v.aval.dtype, jax.dtypes.prng_key) for v in noise_vars]

    def part(**changes: Any) -> Callable[..., Any]:
        return jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(**changes), closed.consts))

    drawn = part(invars=key_vars, outvars=noise_vars, eqns=early)
    rest = part(invars=other_vars + noise_vars, eqns=late)
    return drawn, rest, is_key
