"""Check that a policy fits an action space, before the first step.

The number of choices is read from the traced sampling program. Otherwise a policy with too many
choices would fail only on taking an invalid one, and never in a compiled loop.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from pgjax.envs.base import Discrete, Space
from pgjax.errors import SpaceError, counted

Choices = tuple[int | None, ...]  # for each number of an action; None if any value or unknown

_CALLS = ("jit", "closed_call", "custom_jvp_call")
_SAME_VALUES = ("convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "stop_gradient")


class RawActions(Protocol):
    """What a space requires of a policy's raw actions; see `pgjax.actions.Actions`."""

    @property
    def discrete(self) -> bool: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def choices(self) -> Choices: ...


class _RawActions(NamedTuple):
    discrete: bool
    shape: tuple[int, ...]
    choices: Choices


def raw_actions(space: Space) -> RawActions:
    """Return what the action space of a functional environment requires."""
    if isinstance(space, Discrete):
        return _RawActions(True, (), (space.n,))
    return _RawActions(False, (math.prod(space.shape),), ())


def check_action(needed: RawActions, action: Any, choices: Choices = ()) -> None:
    """Raise SpaceError unless a policy's raw action is what a space requires.

    Args:
      needed: what the space requires.
      action: a raw action of the policy, or its shape and dtype.
      choices: how many values each of its numbers takes, if known.
    """
    kinds = {True: "discrete", False: "continuous"}
    is_discrete = bool(jnp.issubdtype(action.dtype, jnp.integer))
    if (is_discrete, action.shape) != (needed.discrete, needed.shape):
        raise SpaceError(
            f"the policy's actions are {kinds[is_discrete]} with shape {action.shape}, but the "
            f"action space needs {kinds[needed.discrete]} actions with shape {needed.shape}: "
            "SoftmaxPolicy(n) fits Discrete(n), GaussianPolicy(d) fits a Box of d numbers (see "
            "pgjax.actions.policy_for)"
        )
    for number, wanted in zip(choices, needed.choices, strict=False):
        if number is not None and wanted is not None and number != wanted:
            raise SpaceError(
                f"the policy chooses one of {counted(number, 'value')}, but the action space has "
                f"{wanted}: "
                "SoftmaxPolicy(n) fits Discrete(n) (see pgjax.actions.policy_for)"
            )


def choices_of(act: Callable[..., Any], *args: Any) -> tuple[Any, Choices]:
    """Return the shape and dtype of one action, and how many values each of its numbers takes.

    Sampling a softmax ends in an argmax over its choices, and sampling a Bernoulli in a comparison.
    The number is unknown for any other operation.

    Args:
      act: (params, key, obs) -> action.
      *args: examples of its arguments, with one key and one observation.
    """
    closed, like = jax.make_jaxpr(act, return_shape=True)(*args)
    known = _choices(closed.jaxpr, closed.jaxpr.outvars[0], _unknown)
    return like, tuple(known)


def _unknown(var: Any) -> list[int | None]:
    return [None] * math.prod(var.aval.shape)


def _choices(jaxpr: Any, var: Any, outside: Callable[[Any], list[int | None]]) -> list[int | None]:
    """Return the choices of a variable's numbers; `outside` returns those of a jaxpr's inputs."""
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
