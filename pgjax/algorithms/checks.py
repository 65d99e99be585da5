"""Check that policy, critic, estimator, optimiser, parameters and rollout fit each other.

Only shapes and dtypes are traced, so that the checks cost nothing in a compiled function.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from pgjax.advantages import Estimator, Values, estimate
from pgjax.errors import ConfigError, PgjaxError, short_repr
from pgjax.types import Module, Params, Rollout, type_name

_NO_VALUES = "; without a critic the values are None"


@contextlib.contextmanager
def as_config_error(part: str, contract: str) -> Iterator[None]:
    """Re-raise an exception from a user's module or function as a ConfigError with its contract."""
    try:
        yield
    except PgjaxError:
        raise
    except Exception as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise ConfigError(f"{part} fails ({reason}): {contract}") from e


def check_key(key: jax.Array) -> None:
    """Raise ConfigError unless `key` is a typed key."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ConfigError("a typed key is needed: pass jax.random.key(seed), not PRNGKey(seed)")


def check_module(name: str, module: Any, example: str) -> None:
    """Raise ConfigError unless a policy or critic is an object with `apply`.

    Only `initial_variables` needs its `init`.
    """
    if isinstance(module, type) or not callable(getattr(module, "apply", None)):
        raise ConfigError(
            f"the {name} must be a Flax module such as {example}, or another object with init and "
            "apply (pgjax.from_nnx makes one from a module of Flax NNX), got "
            f"{type_name(module)}"
        )


def initial_variables(name: str, module: Module, key: jax.Array, obs: jax.Array) -> dict[str, Any]:
    """Initialise a policy or critic; raise ConfigError unless it returns a dict with "params"."""
    with as_config_error(type(module).__name__, f"a {name} takes observations [..., d]"):
        variables = module.init(key, obs)
    is_dict = isinstance(variables, Mapping)
    if not is_dict or (variables and "params" not in variables):
        got = f"the entries {short_repr(list(variables))}" if is_dict else type_name(variables)
        raise ConfigError(
            f"init of the {name} must return a dict whose entry 'params' is trained, got {got}"
        )
    return dict(variables)


def check_optimizer(optimizer: Any) -> None:
    """Raise ConfigError unless an optimiser has init and update, as optax's do."""
    names = ("init", "update")
    if isinstance(optimizer, type) or not all(callable(getattr(optimizer, x, 0)) for x in names):
        raise ConfigError(
            "the optimizer must be an optax transformation such as optax.adam(0.01), got "
            f"{type_name(optimizer)}"
        )


def optimizer_step(
    optimizer: optax.GradientTransformation,
    grads: Params,
    opt_state: Any,
    params: Params,
    loss: jax.Array,
    num_updates: jax.Array,
) -> tuple[Params, Any]:
    """Return (updates, state) of an optimiser.

    It is given value= (the loss), grad= and num_updates= if it takes them.
    """
    accepted = inspect.signature(optimizer.update).parameters
    extra = {"value": loss, "grad": grads, "num_updates": num_updates}
    if not any(x.kind is inspect.Parameter.VAR_KEYWORD for x in accepted.values()):
        extra = {name: x for name, x in extra.items() if name in accepted}
    with as_config_error(
        "the optimizer",
        "it is given the gradient, the parameters, value= (the loss) and grad=, but no function to "
        "evaluate, so that line searches such as optax.lbfgs do not work; its state must be that "
        "of the same optimizer",
    ):
        return optimizer.update(grads, opt_state, params, **extra)


def check_params(params: Any, *collections: str) -> None:
    """Raise ConfigError unless params are a dict that has some collections of variables."""
    if not isinstance(params, Mapping):
        raise ConfigError(f"params must be the dict TrainState.params, got {type_name(params)}")
    for name in collections:
        if name not in params:
            raise ConfigError(
                f"the parameters have no {name!r}: an algorithm with other options made them"
            )


@contextlib.contextmanager
def fitting(module: Module, params: Params, obs: ArrayLike, contract: str) -> Iterator[None]:
    """Re-raise what `module.apply(params, obs)` raises as a ConfigError.

    It names the first parameter that was made for observations of another shape, if there is one.
    """
    check_params(params)
    try:
        with as_config_error(type(module).__name__, contract):
            yield
    except ConfigError as e:
        difference = _first_difference(module, params, obs) if e.__cause__ else ""
        raise (ConfigError(difference) if difference else e) from e.__cause__


def _first_difference(module: Module, params: Params, obs: ArrayLike) -> str:
    """Describe the first parameter that does not have the shape that observations need, if any."""
    try:
        rows = jax.ShapeDtypeStruct(np.shape(obs), jnp.result_type(obs))
        shapes = jax.eval_shape(module.init, _key_shape(), rows)
    except Exception:
        return ""
    given = dict(jax.tree_util.tree_leaves_with_path(dict(params)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        shape = np.shape(given[path]) if path in given else None
        if shape != leaf.shape:
            has = f"has shape {shape}" if path in given else "is missing"
            return (
                f"the parameters were made for another {type(module).__name__} or for other "
                f"observations: {jax.tree_util.keystr(path)} {has}, but observations [..., "
                f"{rows.shape[-1]}] need {leaf.shape}"
            )
    return ""


def check_networks(
    policy: Module,
    critic: Module | None,
    params: Params,
    of_critic: Params,
    obs: Any,
    action: Any = None,
) -> Any:
    """Check policy and critic on two observations.

    Args:
      policy: a policy.
      critic: a critic, or None.
      params, of_critic: their variables; the latter are not used without a critic.
      obs: shape and dtype of two observations, [2, ...].
      action: the actions of a rollout, [T, B, ...]; or None, to check that the policy can act.

    Returns:
      The shape and dtype of two actions.

    Raises:
      ConfigError: if they do not fit.
    """

    def draw(obs: jax.Array, key: jax.Array) -> Any:
        distribution: Any = policy.apply(params, obs)
        if action is None:
            distribution.mode()
        if action is None or hasattr(distribution, "sample"):
            sample = distribution.sample(key)
        else:  # it may lack what only collecting needs
            sample = jnp.zeros((2, *action.shape[2:]), jnp.result_type(action))
        return sample, distribution.log_prob(sample), distribution.entropy()

    def guard(module: Module, params: Params, contract: str) -> AbstractContextManager[None]:
        if action is None:  # the parameters have just been made
            return as_config_error(type(module).__name__, contract)
        return fitting(module, params, obs, contract)

    contract = (
        "a policy returns a distribution, an object with sample(key), log_prob(action), entropy() "
        "and mode(), for two observations as well as for one"
    )
    with guard(policy, params, contract):
        sample, log_prob, entropy = jax.eval_shape(draw, obs, _key_shape())
    if sample.shape[:1] != (2,):
        raise ConfigError(
            f"the policy's sample has shape {sample.shape} for two observations: it must give one "
            "action for each row"
        )
    if action is not None:
        needed = jax.ShapeDtypeStruct(action.shape[:2] + sample.shape[1:], sample.dtype)
        _compare("rollout.action", action, needed)
    per_row = {"the policy's log_prob": log_prob, "the policy's entropy": entropy}
    if critic is not None:
        with guard(critic, of_critic, "a critic returns a value for each row"):
            per_row["the critic"] = jax.eval_shape(critic.apply, of_critic, obs)
    for part, x in per_row.items():
        if getattr(x, "shape", None) != (2,):
            raise ConfigError(
                f"{part} gives {jax.tree.map(jnp.shape, x)} for two observations of shape "
                f"{obs.shape[1:]}, not (2,): it must give one number for each"
            )
    return sample


def _key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _compare(name: str, action: Any, needed: Any) -> None:
    """Raise ConfigError unless an action has the shape and the kind of dtype that is needed."""
    if action.shape != needed.shape:
        raise ConfigError(
            f"{name} has shape {action.shape}, but the policy's actions for these observations "
            f"have {needed.shape}"
        )
    if jnp.issubdtype(action.dtype, np.inexact) != jnp.issubdtype(needed.dtype, np.inexact):
        raise ConfigError(
            f"{name} has dtype {action.dtype}, but the policy's actions have {needed.dtype}"
        )


def check_action(distribution: Any, action: ArrayLike) -> None:
    """Raise ConfigError unless an action is what a distribution samples, in shape and kind."""
    if hasattr(distribution, "sample"):
        given = jax.ShapeDtypeStruct(np.shape(action), jnp.result_type(action))
        _compare("the action", given, jax.eval_shape(distribution.sample, _key_shape()))


def check_rows(name: str, shape: tuple[int, ...], distribution: Any) -> None:
    """Raise ConfigError unless a shape is that of the batch axes of a distribution."""
    if hasattr(distribution, "entropy"):
        rows = jax.eval_shape(distribution.entropy).shape
        if shape != rows:
            raise ConfigError(
                f"{name} of shape {shape} for observations of batch shape {rows}: it must be one "
                "for each observation"
            )


def estimates(
    estimator: Estimator,
    value_target: Estimator,
    rollout: Rollout,
    value: Values,
    next_value: Values,
) -> tuple[Any, Any]:
    """Return advantage and target [T, B] of a rollout, after checking their shapes."""
    none = _NO_VALUES if value is None else ""
    results = []
    for part, fn, result in (
        ("the estimator", estimator, "advantage"),
        ("value_target", value_target, "target"),
    ):
        with as_config_error(part, f"(rollout, value, next_value) -> {result} [T, B]{none}"):
            results.append(estimate(fn, rollout, value, next_value, part))
    return results[0], results[1]
