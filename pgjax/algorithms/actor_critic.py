"""Shared parts of all algorithms: an Objective, and pure functions of it.

An algorithm adds its own loss and update, and `make_algorithm` binds and jits the five functions;
see `reinforce`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pgjax import types
from pgjax.advantages import Estimator, value_target_of
from pgjax.algorithms import checks
from pgjax.errors import ConfigError, check_count
from pgjax.numerics import running_moments
from pgjax.numerics.dtypes import at_least_float32, standard_promotion
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, check_sharding
from pgjax.numerics.xla import jit_fast_compile, jit_with_metrics
from pgjax.types import (
    Algorithm,
    Info,
    Module,
    Params,
    Rollout,
    TrainState,
    known_number,
    type_name,
)

RETURNS = "return_moments"  # collection of the running moments of discounted returns, if kept
_NETWORKS = ("params", "critic")  # the collections of policy and critic


class Objective(NamedTuple):
    """The parts and coefficients of a loss; `reinforce` describes them."""

    policy: Module
    estimator: Estimator
    value_target: Estimator  # what the critic is fitted to; see resolve_value_target
    critic: Module | None = None
    entropy_coef: ArrayLike | optax.Schedule = 0.0
    value_coef: ArrayLike = 0.5
    mean_over: Literal["episodes", "steps"] = "episodes"
    chunk_size: int | None = CHUNK_SIZE
    normalize_rewards: ArrayLike | None = None  # discount of the returns whose RMS divides rewards
    reward_clip: ArrayLike | None = None
    sharding: Sharding = Sharding()
    trained: tuple[str, ...] = _NETWORKS  # the collections that the optimizer trains


def make_algorithm(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Objective, Params, Rollout], tuple[jax.Array, Info]],
    update: Callable[
        [Objective, optax.GradientTransformation, TrainState, Rollout], tuple[TrainState, Info]
    ],
) -> Algorithm:
    """Check an objective, bind the five functions of an algorithm to it, and jit them.

    Args:
      objective: the first argument of each function.
      optimizer: the second argument of `init` and `update`.
      loss: (objective, params, rollout) -> (loss [], metrics).
      update: (objective, optimizer, state, rollout) -> (state, metrics).

    Returns:
      Algorithm(init, act, log_prob, loss, update).

    Raises:
      ConfigError: for a part of the wrong type, or a coefficient or option that is out of range.
    """
    check_objective(objective)
    checks.check_optimizer(optimizer)
    return Algorithm(
        init=jit_fast_compile(functools.partial(standard_promotion(init), objective, optimizer)),
        act=_bound(act, objective),
        log_prob=_bound(log_prob, objective),
        loss=_bound(loss, objective),
        update=jit_with_metrics(
            functools.partial(standard_promotion(update), objective, optimizer)
        ),
    )


def _bound(fn: Callable[..., Any], *args: Any) -> Any:
    return jax.jit(functools.partial(standard_promotion(fn), *args))


def objective_of(algorithm: Algorithm) -> Objective | None:
    """Return the objective that `make_algorithm` bound; None for an algorithm made otherwise."""
    bound = inspect.unwrap(algorithm.update)
    first = bound.args[:1] if isinstance(bound, functools.partial) else ()
    return next((x for x in first if isinstance(x, Objective)), None)


def check_objective(objective: Objective) -> None:
    """Raise ConfigError for a part of the wrong type, or a number that is out of range.

    Numbers that JAX traces are not checked.
    """
    checks.check_module("policy", objective.policy, "pgjax.SoftmaxPolicy(2)")
    if objective.critic is not None:
        checks.check_module("critic", objective.critic, "pgjax.ValueNetwork()")
    for name in ("estimator", "value_target"):
        if not callable(fn := getattr(objective, name)):
            raise ConfigError(
                f"{name} must be a function (rollout, value, next_value) -> [T, B], got "
                f"{type_name(fn)}"
            )
    if objective.mean_over not in ("episodes", "steps"):
        raise ConfigError(f'mean_over must be "episodes" or "steps", got {objective.mean_over!r}')
    if objective.chunk_size is not None:
        check_count("chunk_size, if not None,", objective.chunk_size, CHUNK_SIZE)
    check_sharding(objective.sharding)
    for name in ("entropy_coef", "value_coef"):
        coef = getattr(objective, name)
        if name == "entropy_coef" and callable(coef):
            continue
        known = known_number(name, coef)
        if known is not None and not 0.0 <= known < float("inf"):
            raise ConfigError(f"{name} must be finite and at least 0, got {coef}")
    if (discount := objective.normalize_rewards) is not None:
        known = known_number("normalize_rewards", discount)
        if known is not None and not 0.0 <= known <= 1.0:
            raise ConfigError(f"normalize_rewards must be None or in [0, 1], got {discount}")
    if (limit := objective.reward_clip) is not None:
        known = known_number("reward_clip", limit)
        if known is not None and not 0.0 < known < float("inf"):
            raise ConfigError(f"reward_clip must be None, or finite and above 0, got {limit}")


def resolve_value_target(
    critic: Module | None, estimator: Estimator, value_target: Estimator | None
) -> Estimator:
    """Return what the critic is fitted to: `value_target`, or else what the estimator declares.

    Without a critic the target is zero.

    Raises:
      ConfigError: if there is a critic, and no target for it.
    """
    if critic is None:
        return lambda rollout, value, next_value: jnp.zeros_like(rollout.reward)
    target = value_target_of(estimator) if value_target is None else value_target
    if target is None:
        raise ConfigError(
            "the estimator does not declare what the critic is fitted to: pass it, for example "
            "value_target=pgjax.advantages.gae(0.99, 0.95).value_target"
        )
    return target


def wide(params: Params) -> Params:
    """Return variables in which the parameters of policy and critic are in at least float32.

    Losses use these copies, so that gradients are added up in at least float32.
    """
    networks = {name: params[name] for name in _NETWORKS if name in params}
    return {**params, **jax.tree.map(at_least_float32, networks)}


def trained(objective: Objective, params: Params) -> Params:
    """Return the collections that the optimizer trains, in at least float32."""
    chosen = {name: params[name] for name in objective.trained if name in params}
    return jax.tree.map(at_least_float32, chosen)


def of_critic(params: Params) -> Params:
    """Return the variables of the critic: its own parameters and the shared collections."""
    return {**params, "params": params["critic"]}


def init(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    obs: ArrayLike,
) -> TrainState:
    """Initialise policy, critic, moments and optimiser, after checking that the parts fit.

    The key is split: one half initialises, the other becomes `state.key`.
    """
    policy, critic = objective.policy, objective.critic
    checks.check_key(key)
    try:
        obs = jnp.asarray(obs)
    except (TypeError, ValueError):
        raise ConfigError(
            f"obs must be one array, got {type_name(obs)}: flatten it, as collect_episodes does"
        ) from None
    init_key, run_key = jax.random.split(key)
    policy_key, critic_key = jax.random.split(init_key)
    # Policy and critic share one dict: Flax ignores collections that a module does not use, so that
    # policy.apply(state.params, obs) works with and without a critic.
    params = checks.initial_variables("policy", policy, policy_key, obs)
    if critic is not None:
        variables = checks.initial_variables("critic", critic, critic_key, obs)
        params["critic"] = variables.pop("params", {})
        if both := (params.keys() & variables.keys()) - {running_moments.OBS}:
            raise ConfigError(f"policy and critic both have a collection named {sorted(both)}")
        params |= variables
    if objective.normalize_rewards is not None:
        params[RETURNS] = running_moments.initial_moments(1)
    check_parts(objective, params, obs)
    with checks.as_config_error("the optimizer", "init takes the parameters"):
        opt_state = optimizer.init(trained(objective, params))
    loss, grads, step = jnp.float32(0), trained(objective, params), jnp.zeros((), jnp.int32)
    jax.eval_shape(
        functools.partial(checks.optimizer_step, optimizer), grads, opt_state, grads, loss, step
    )
    return TrainState(params, opt_state, run_key, step)


def act(objective: Objective, params: Params, key: jax.Array, obs: ArrayLike) -> jax.Array:
    """Sample actions; `key` is one key for all rows of obs, or a batch with one for each row."""
    checks.check_key(key)
    distribution = _apply(objective, params, obs)
    if key.ndim == 0:
        return distribution.sample(key)
    checks.check_rows("keys", key.shape, distribution)

    def sample(key: jax.Array, obs: ArrayLike) -> jax.Array:
        distribution: Any = objective.policy.apply(params, obs)
        return distribution.sample(key)

    # Each row apart: a distribution may have parameters that all rows share, such as a std [d].
    for _ in range(key.ndim):
        sample = jax.vmap(sample)
    return sample(key, obs)


def log_prob(objective: Objective, params: Params, obs: ArrayLike, action: ArrayLike) -> jax.Array:
    """Return log pi(action | obs), [...]."""
    distribution = _apply(objective, params, obs)
    checks.check_action(distribution, action)
    result = distribution.log_prob(action)
    checks.check_rows("the policy returns log-probabilities", jnp.shape(result), distribution)
    return result


def _apply(objective: Objective, params: Params, obs: ArrayLike) -> Any:
    """Return the policy's distribution."""
    policy = objective.policy
    with checks.fitting(policy, params, obs, "a policy takes observations [..., d]"):
        return policy.apply(params, obs)


def entropy_coef_at(objective: Objective, step: ArrayLike) -> Any:
    """Return the entropy coefficient after `step` updates; a Python float if it is constant."""
    coef = objective.entropy_coef
    if callable(coef):
        return coef(step)
    known = known_number("entropy_coef", coef)
    return coef if known is None else known


def check_parts(objective: Objective, params: Params, obs: ArrayLike) -> None:
    """Raise ConfigError unless the parts of an objective fit together; only shapes are traced.

    `obs` is one observation [d], a batch of them [n, d], or one observation of several axes.
    """
    shape = jnp.shape(obs)
    each = shape if len(shape) > 2 else shape[-1:]
    rows = jax.ShapeDtypeStruct((2, *each), jnp.result_type(obs))
    action = _check_networks(objective, params, rows)
    square = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    flags = jax.ShapeDtypeStruct((2, 2), bool)
    seen, done = (jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for x in (rows, action))
    check_estimates(objective, Rollout._make((seen, done, square, flags, flags, seen, square)))


def _check_networks(objective: Objective, params: Params, obs: Any, action: Any = None) -> Any:
    policy, critic = objective.policy, objective.critic
    variables = None if critic is None else of_critic(params)
    return checks.check_networks(policy, critic, params, variables, obs, action)


def check_rollout(objective: Objective, params: Params, rollout: Rollout) -> None:
    """Raise ConfigError unless a rollout fits itself, the parameters and the policy's samples."""
    types.check_rollout(rollout)
    uses = {"critic": objective.critic, RETURNS: objective.normalize_rewards}
    checks.check_params(params, *(name for name, part in uses.items() if part is not None))
    rows = jax.ShapeDtypeStruct((2, *rollout.obs.shape[2:]), jnp.result_type(rollout.obs))
    _check_networks(objective, params, rows, rollout.action)


def check_estimates(objective: Objective, rollout: Rollout) -> None:
    """Raise ConfigError unless the estimator accepts a rollout of these shapes, [T, B, ...]."""
    shape = rollout.reward.shape
    value = None if objective.critic is None else jax.ShapeDtypeStruct(shape, jnp.float32)
    fns = objective.estimator, objective.value_target
    jax.eval_shape(functools.partial(checks.estimates, *fns), rollout, value, value)
