"""The values that flow between the parts of pgjax. These types are the specification."""

import ast
import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pgjax.errors import ConfigError, short_repr

_T = TypeVar("_T")

Array = jax.Array | np.ndarray

Params = Any
"""Flax variables: a dict with "params", and "critic" if there is a critic."""

Info = dict[str, jax.Array]
"""Scalars that describe an update, by the names used in metrics.jsonl."""


def field_docs(cls: type) -> dict[str, str]:
    """Return the string literal below each field in the body of a class, by the field's name.

    Empty without source code, as in a frozen application.
    """
    try:
        body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError):
        return {}
    docs = {}
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str() as text)):
                docs[name] = inspect.cleandoc(text)
    return docs


def _document_fields(cls: type[_T]) -> type[_T]:
    """Set the `__doc__` of each field to the string below it, for `help`; editors show it anyway.

    Without source code the fields keep their default `__doc__`.
    """
    for name, doc in field_docs(cls).items():
        getattr(cls, name).__doc__ = doc
    return cls


@_document_fields
class Rollout(NamedTuple):
    """Experience with time as the leading axis. A column is one episode or one stream of steps.

    Every engine returns one, and `Algorithm.update` takes one. T is the number of steps and B the
    number of columns. No result depends on the content of padded slots (weight 0), which may even
    be NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> rollout = pgjax.Rollout(  # one episode of two steps
      ...     obs=jnp.zeros((2, 1, 4)),
      ...     action=jnp.zeros((2, 1), jnp.int32),
      ...     reward=jnp.ones((2, 1)),
      ...     terminated=jnp.array([[False], [True]]),
      ...     truncated=jnp.zeros((2, 1), bool),
      ...     next_obs=jnp.zeros((2, 1, 4)),
      ...     weight=jnp.ones((2, 1)),
      ... )
      >>> pgjax.advantages.reward_to_go(gamma=0.5)(rollout).tolist()
      [[1.5], [1.0]]
    """

    obs: Array
    """[T, B, ...] any dtype: the observations that the policy acted on."""

    action: Array
    """[T, B, ...] any dtype: the raw actions as sampled, before any clip, squash or offset."""

    reward: Array
    """[T, B] float32: the reward of each step."""

    terminated: Array
    """[T, B] bool: the task ended with this step; the value after it is zero."""

    truncated: Array
    """[T, B] bool: the episode was cut off after this step, for example by a time limit.

    If both flags are set, the step counts as terminated.
    """

    next_obs: Array
    """[T, B, ...] dtype of obs: the true successor, never the observation after a reset."""

    weight: Array
    """[T, B] float32: 1.0 for a real step, 0.0 for padding."""


@_document_fields
class TrainState(NamedTuple):
    """Everything that the next update needs, and everything that a checkpoint holds.

    `Algorithm.init` returns the first one and `Algorithm.update` the next.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pgjax
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1))
      >>> state = algorithm.init(jax.random.key(0), jnp.zeros(4))
      >>> int(state.step)
      0
      >>> jax.tree.map(jnp.shape, state.params)
      {'params': {'Dense_0': {'bias': (2,), 'kernel': (4, 2)}}}
    """

    params: Params
    """Pytree of arrays for policy.apply(params, obs). params["critic"] belongs to the critic."""

    opt_state: Any
    """Pytree of arrays: the state of the optax optimizer."""

    key: jax.Array
    """[] typed key: the root of every random draw of the run. It never changes."""

    step: jax.Array
    """[] int32: the number of updates so far."""


class Module(Protocol):
    """What a policy or a critic must be: two pure functions, as Flax's linen modules have.

    Modules of Flax NNX become one by `pgjax.from_nnx`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pgjax
      >>> class Linear:  # without Flax
      ...     def init(self, key, obs):
      ...         return {"params": jnp.zeros((obs.shape[-1], 2))}
      ...
      ...     def apply(self, params, obs):
      ...         return pgjax.distributions.Categorical(obs @ params["params"])
      >>> algorithm = pgjax.reinforce(Linear(), optax.sgd(0.1))
      >>> state = algorithm.init(jax.random.key(0), jnp.zeros(4))
      >>> algorithm.act(state.params, jax.random.key(1), jnp.zeros((3, 4))).shape
      (3,)
    """

    def init(self, key: jax.Array, obs: Any, /) -> Any:
        """Return a dict whose entry "params", any pytree of arrays, is trained."""

    def apply(self, params: Params, obs: Any, /) -> Any:
        """Return the policy's distribution, or the critic's values, for obs [..., d].

        `params` is what `init` returned, or was trained to; it has further entries, which are not
        this module's.
        """


@_document_fields
class Algorithm(NamedTuple):
    """An algorithm as five pure, jitted functions.

    `pgjax.reinforce` makes one. To add an algorithm, write a function that returns these five.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pgjax
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1))
      >>> state = algorithm.init(jax.random.key(0), jnp.zeros(4))
      >>> algorithm.act(state.params, jax.random.key(1), jnp.zeros((3, 4))).shape
      (3,)
    """

    init: Callable[[jax.Array, ArrayLike], TrainState]
    """(key, obs) -> TrainState. `key` is a typed key []; `obs` is one observation or a batch."""

    act: Callable[[Params, jax.Array, ArrayLike], jax.Array]
    """(params, key, obs [B, ...]) -> action [B, ...]. `key` is typed: one [] or one per row [B]."""

    log_prob: Callable[[Params, ArrayLike, ArrayLike], jax.Array]
    """(params, obs [..., d], action) -> [...] float: log-probabilities of raw actions."""

    loss: Callable[[Params, Rollout], tuple[jax.Array, Info]]
    """(params, rollout) -> (loss [] float, Info). Differentiable with respect to `params`."""

    update: Callable[[TrainState, Rollout], tuple[TrainState, Info]]
    """(state, rollout) -> (TrainState, Info): the state after one update, and its metrics."""


def check_rollout(rollout: Rollout) -> None:
    """Check that the fields of a rollout fit each other: their shapes, and the kinds of dtypes.

    `Algorithm.loss` and `Algorithm.update` call it; use it to check a rollout made by hand. It
    reads no values, so that it costs nothing in a compiled function.

    Args:
      rollout: [T, B, ...] leaves, T and B at least 1.

    Raises:
      ConfigError: a field is not an array, has another shape or kind of dtype than `Rollout` says,
        or does not fit the rewards; observations and next observations differ.

    Example:
      >>> import numpy as np
      >>> import pgjax
      >>> from pgjax.types import check_rollout
      >>> x, no, obs = np.ones((3, 2)), np.zeros((3, 2), bool), np.zeros((3, 1, 4))
      >>> rollout = pgjax.Rollout(obs, no.astype(int), x, no, no, obs, weight=x)
      >>> try:
      ...     check_rollout(rollout)
      ... except pgjax.ConfigError as error:
      ...     print(error)
      rollout.obs has shape (3, 1, 4), but the rewards [T, B] have (3, 2): it must be (3, 2, ...)
    """
    _check_shapes(rollout)
    if rollout.next_obs.shape != rollout.obs.shape:
        raise ConfigError(
            f"rollout.next_obs has shape {rollout.next_obs.shape}, but rollout.obs has "
            f"{rollout.obs.shape}: they must be the same"
        )
    if jnp.result_type(rollout.next_obs) != jnp.result_type(rollout.obs):
        raise ConfigError(
            f"rollout.next_obs has dtype {rollout.next_obs.dtype}, but rollout.obs has "
            f"{rollout.obs.dtype}: they must be the same"
        )
    for name, kind, advice in (
        ("reward", np.floating, ".astype(np.float32) converts integers"),
        ("terminated", np.bool_, "!= 0 converts numbers"),
        ("truncated", np.bool_, "!= 0 converts numbers"),
        ("weight", np.floating, "1.0 for a real step, 0.0 for padding"),
    ):
        dtype = getattr(rollout, name).dtype
        if not jnp.issubdtype(dtype, kind):
            wanted = "bool" if kind is np.bool_ else "floating"
            raise ConfigError(f"rollout.{name} must be {wanted}, got {dtype}: {advice}")


def _check_shapes(rollout: Rollout) -> None:
    """Raise ConfigError unless all fields are arrays [T, B, ...] with T and B of the rewards."""
    if not isinstance(rollout, Rollout):
        raise ConfigError(f"a pgjax.Rollout is needed here, got {type_name(rollout)}")
    for name, x in zip(rollout._fields, rollout, strict=True):
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise ConfigError(f"rollout.{name} must be one array, got {type_name(x)}")
    shape = rollout.reward.shape
    if len(shape) != 2 or 0 in shape:
        raise ConfigError(
            f"rollout.reward has shape {shape}: it must be [T, B], T >= 1 steps of B >= 1 columns"
        )
    for name, x in zip(rollout._fields, rollout, strict=True):
        more = name in ("obs", "action", "next_obs")
        if (x.shape[:2] if more else x.shape) != shape:
            wanted = f"({shape[0]}, {shape[1]}, ...)" if more else shape
            raise ConfigError(
                f"rollout.{name} has shape {x.shape}, but the rewards [T, B] have {shape}: it "
                f"must be {wanted}"
            )


def type_name(value: Any) -> str:
    """Describe what was given in place of something else, for a message."""
    cls = value if isinstance(value, type) else type(value)
    return f"the class {cls.__name__}" if cls is value else f"a value of type {cls.__name__}"


def check_type(value: Any, cls: type[TrainState] | type[Algorithm]) -> None:
    """Raise ConfigError unless an argument is a TrainState or an Algorithm, as `cls` says."""
    if not isinstance(value, cls):
        raise ConfigError(
            f"a pgjax.{cls.__name__} is needed here, got {type_name(value)}: the order is "
            "(algorithm, state), from pgjax.reinforce(...) and algorithm.init(key, obs)"
        )


def known_number(name: str, value: Any) -> float | None:
    """Return a hyperparameter as a float, for a range check; None if JAX traces it.

    Raises:
      ConfigError: if it is not one number.
    """
    traced = isinstance(value, jax.core.Tracer)
    if not isinstance(value, str) and np.shape(value) == ():
        try:
            return None if traced else float(value)
        except (TypeError, ValueError):
            pass
    raise ConfigError(f"{name} must be one number, got {short_repr(value)}")


def zero_padding(rollout: Rollout) -> Rollout:
    """Replace the content of every padded slot with zeros.

    Use it before arithmetic on a whole rollout. It selects with `where` instead of multiplying by
    the weight, since 0 * nan is nan, both in values and in gradients.

    Args:
      rollout: [T, B, ...] leaves.

    Returns:
      A rollout of the same shapes and dtypes.

    Raises:
      ConfigError: if a field does not have the T and B of the rewards.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.types import Rollout, zero_padding
      >>> sevens = jnp.full((2, 1), 7.0)
      >>> rollout = Rollout(*[sevens] * 6, weight=jnp.array([[1.0], [0.0]]))
      >>> zero_padding(rollout).reward.tolist()
      [[7.0], [0.0]]
    """
    _check_shapes(rollout)
    real = rollout.weight > 0

    def clear(leaf: Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        mask = real.reshape(real.shape + (1,) * (leaf.ndim - real.ndim))
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))

    return Rollout(*(clear(leaf) for leaf in rollout))


def repeat_first(real: Array, x: Array) -> jax.Array:
    """Replace every padded row with the first real row.

    Use it for observations and actions. Zeros need not be valid there, and a function that is
    undefined at zero gives NaN gradients whatever the weight.

    Args:
      real: [...] bool, False for padding.
      x: [..., *row], any dtype.

    Returns:
      [..., *row], dtype of x.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.types import repeat_first
      >>> repeat_first(jnp.array([False, True, False]), jnp.array([0, 5, 9])).tolist()
      [5, 5, 5]
    """
    first = x.reshape((-1, *x.shape[real.ndim :]))[jnp.argmax(real.ravel())]
    mask = real.reshape(real.shape + (1,) * (x.ndim - real.ndim))
    return jnp.where(mask, x, jnp.broadcast_to(first, x.shape))


def segment_ends(rollout: Rollout) -> jax.Array:
    """Mark the last real step of each episode, and of each column that stops without an end.

    Use it to find where a recursion over time must restart.

    Args:
      rollout: [T, B, ...] leaves, with no NaN in the padding (see `zero_padding`).

    Returns:
      [T, B] bool.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.types import Rollout, segment_ends
      >>> x, no = jnp.ones((3, 1)), jnp.zeros((3, 1), bool)
      >>> rollout = Rollout(x, x, x, jnp.array([[True], [False], [False]]), no, x, weight=x)
      >>> segment_ends(rollout)[:, 0].tolist()
      [True, False, True]
    """
    real = rollout.weight > 0
    followed = jnp.concatenate([real[1:], jnp.zeros_like(real[:1])])
    ended = jnp.asarray(rollout.terminated) | jnp.asarray(rollout.truncated)
    return jnp.asarray(real) & (ended | ~followed)
