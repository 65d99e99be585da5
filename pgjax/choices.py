"""How many values an action may take, read off the traced program that chooses it.

A policy of too many choices would be found out only when it makes one of them, and inside a
compiled loop never.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal

Choices = tuple[int | None, ...]  # of each number of an action; None where it cannot be told

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call")
_SAME_VALUES = ("convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "stop_gradient")


def choices_of(act: Callable[..., Any], *args: Any) -> tuple[Any, Choices]:
    """(shape and dtype of one action, how many values each of its numbers may take).

    Sampling a softmax ends in an argmax over its choices, and a coin in a comparison; of what ends
    in anything else nothing is known.

    Args:
      act: (params, key, obs) -> action.
      *args: examples of its arguments, for one key and one observation.
    """
    closed, like = jax.make_jaxpr(act, return_shape=True)(*args)
    known = _choices(closed.jaxpr, closed.jaxpr.outvars[0], _unknown)
    return like, tuple(known)


def _unknown(var: Any) -> list[int | None]:
    return [None] * math.prod(var.aval.shape)


def _choices(jaxpr: Any, var: Any, outside: Callable[[Any], list[int | None]]) -> list[int | None]:
    """Of a variable's numbers; `outside` tells those of what the jaxpr is given."""
    if isinstance(var, Literal):
        return _unknown(var)
    if var.aval.dtype == bool:
        return [2] * math.prod(var.aval.shape)
    if var in jaxpr.invars:
        return outside(var)
    eqn: Any = next((eqn for eqn in jaxpr.eqns if var in eqn.outvars), None)
    if eqn is None:
        return _unknown(var)
    before = functools.partial(_choices, jaxpr, outside=outside)
    name, size = eqn.primitive.name, math.prod(var.aval.shape)
    if name in _CALLS:
        called = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        inner = getattr(called, "jaxpr", called)
        out = inner.outvars[eqn.outvars.index(var)]
        return _choices(inner, out, lambda v: before(eqn.invars[inner.invars.index(v)]))
    if name == "argmax":
        of = eqn.invars[0].aval.shape
        return [math.prod(of[axis] for axis in eqn.params["axes"])] * size
    if name in _SAME_VALUES and math.prod(eqn.invars[0].aval.shape) == size:
        return before(eqn.invars[0])
    if name in ("concatenate", "stack") and len(var.aval.shape) == 1:
        return [n for part in eqn.invars for n in before(part)]
    return _unknown(var)
