"""How many values an action may take, read off the traced program that chooses it.

A policy of too many choices would be found out only when it makes one of them, and inside a
compiled loop never.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from pgjax.envs.base import Discrete, Space
from pgjax.errors import SpaceError

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


class RawActions(Protocol):
    """The raw actions that a space needs of a policy."""

    @property
    def discrete(self) -> bool:
        """Whether all of its numbers are whole."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one raw action."""
        ...

    @property
    def choices(self) -> Choices:
        """How many values each number takes."""
        ...


class _Needs(NamedTuple):
    discrete: bool
    shape: tuple[int, ...]
    choices: Choices


def raw_actions(space: Space) -> RawActions:
    """The raw actions that a functional environment's space needs."""
    if isinstance(space, Discrete):
        return _Needs(True, (), (space.n,))
    return _Needs(False, (math.prod(space.shape),), ())


def check_action(needed: RawActions, action: Any, choices: Choices = ()) -> None:
    """Raise SpaceError unless a policy's raw action is what a space needs.

    Args:
      needed: the raw actions of the space.
      action: an array, or its shape and dtype.
      choices: how many values each number of the policy's action takes, where that is known.
    """
    kinds = {True: "discrete", False: "continuous"}
    is_discrete = bool(jnp.issubdtype(action.dtype, jnp.integer))
    if (is_discrete, action.shape) != (needed.discrete, needed.shape):
        raise SpaceError(
            f"the policy's actions are {kinds[is_discrete]} of shape {action.shape}, but the "
            f"action space needs {kinds[needed.discrete]} ones of shape {needed.shape}: SoftmaxPolicy(n) fits "
            "Discrete(n), GaussianPolicy(d) a Box of d numbers (see pgjax.gym.actions.policy_for)"
        )
    for number, wanted in zip(choices, needed.choices, strict=False):
        if number is not None and wanted is not None and number != wanted:
            raise SpaceError(
                f"the policy chooses one of {number}, where the action space has {wanted}: "
                "SoftmaxPolicy(n) fits Discrete(n) (see pgjax.gym.actions.policy_for)"
            )
