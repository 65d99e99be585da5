"""Shared parts of all algorithms: an Objective, and pure functions of it.

An algorithm adds its own loss and update, and `make_algorithm` binds and jits the five functions;
see `reinforce`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pgjax.advantages import Estimator, value_target_of
from pgjax.errors import ConfigError, PgjaxError
from pgjax.numerics import running_moments
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, fusion_barrier
from pgjax.types import Algorithm, Info, Params, Rollout, TrainState

RETURNS = "return_moments"  # collection of the running moments of discounted returns, if kept
_TRAINED = ("params", "critic")


class Objective(NamedTuple):
    """The parts and coefficients of a loss; `reinforce` describes them."""

    policy: nn.Module
    estimator: Estimator
    value_target: Estimator  # what the critic is fitted to; see resolve_value_target
    critic: nn.Module | None = None
    entropy_coef: float | optax.Schedule = 0.0
    value_coef: float = 0.5
    mean_over: Literal["episodes", "steps"] = "episodes"
    chunk_size: int | None = CHUNK_SIZE
    normalize_rewards: float | None = None  # discount of the returns whose RMS divides rewards
    sharding: Sharding = Sharding()


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
      ConfigError: for a coefficient or an option that is out of range.
    """
    check_objective(objective)
    return Algorithm(
        init=jax.jit(functools.partial(init, objective, optimizer)),
        act=jax.jit(functools.partial(act, objective)),
        log_prob=jax.jit(functools.partial(log_prob, objective)),
        loss=jax.jit(functools.partial(loss, objective)),
        update=jax.jit(functools.partial(update, objective, optimizer)),
    )


def check_objective(objective: Objective) -> None:
    """Raise ConfigError for a coefficient or an option that is out of range."""
    chunk_size, discount = objective.chunk_size, objective.normalize_rewards
    if objective.mean_over not in ("episodes", "steps"):
        raise ConfigError(f'mean_over must be "episodes" or "steps", got {objective.mean_over!r}')
    if chunk_size is not None and not 1 <= chunk_size <= CHUNK_SIZE:
        raise ConfigError(f"chunk_size must be None or in 1..{CHUNK_SIZE}, got {chunk_size}")
    if objective.sharding.num_shards < 1:
        raise ConfigError(f"num_shards must be at least 1, got {objective.sharding.num_shards}")
    if discount is not None and not 0.0 <= discount <= 1.0:
        raise ConfigError(f"normalize_rewards must be None or in [0, 1], got {discount}")
    for name in ("entropy_coef", "value_coef"):
        coef = getattr(objective, name)
        if not callable(coef) and not 0.0 <= coef < float("inf"):
            raise ConfigError(f"{name} must be finite and at least 0, got {coef}")


def resolve_value_target(
    critic: nn.Module | None, estimator: Estimator, value_target: Estimator | None
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


def trained(params: Params) -> Params:
    """Return the collections that the optimizer trains, in at least float32.

    Losses use these copies, so that gradients are added up in at least float32.
    """
    chosen = {name: tree for name, tree in params.items() if name in _TRAINED}
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
    check_key(key)
    init_key, run_key = jax.random.split(key)
    policy_key, critic_key = jax.random.split(init_key)
    # Policy and critic share one dict: Flax ignores collections that a module does not use, so that
    # policy.apply(state.params, obs) works with and without a critic.
    with as_config_error(type(policy).__name__, "a policy takes observations [..., d]"):
        params = dict(policy.init(policy_key, obs))
    if critic is not None:
        with as_config_error(type(critic).__name__, "a critic takes observations [..., d]"):
            variables = dict(critic.init(critic_key, obs))
        params["critic"] = variables.pop("params", {})
        if both := (params.keys() & variables.keys()) - {running_moments.OBS}:
            raise ConfigError(f"policy and critic both have a collection named {sorted(both)}")
        params |= variables
    if objective.normalize_rewards is not None:
        params[RETURNS] = running_moments.initial_moments(1)
    check_parts(objective, params, obs)
    opt_state = optimizer.init(trained(params))
    return TrainState(params, opt_state, run_key, jnp.zeros((), jnp.int32))


def act(objective: Objective, params: Params, key: jax.Array, obs: ArrayLike) -> jax.Array:
    """Sample actions; `key` is one key for all rows of obs, or a batch with one for each row."""
    check_key(key)

    def sample(key: jax.Array, obs: ArrayLike) -> jax.Array:
        distribution: Any = objective.policy.apply(params, obs)
        return distribution.sample(key)

    # Each row apart: a distribution may have parameters that all rows share, such as a std [d].
    for _ in range(key.ndim):
        sample = jax.vmap(sample)
    return sample(key, obs)


def log_prob(objective: Objective, params: Params, obs: ArrayLike, action: ArrayLike) -> jax.Array:
    """Return log pi(action | obs), [...]."""
    distribution: Any = objective.policy.apply(params, obs)
    return distribution.log_prob(action)


def entropy_coef_at(objective: Objective, step: ArrayLike) -> Any:
    """Return the entropy coefficient after `step` updates; a Python float if it is constant."""
    coef = objective.entropy_coef
    return coef(step) if callable(coef) else float(coef)


def apply_gradient(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    total: jax.Array,
    n: jax.Array,
    unravel: Callable[[jax.Array], Params],
) -> tuple[Params, Any, jax.Array]:
    """Make one optimiser step with the gradient `unravel(total / n)`, in at least float32.

    Args:
      objective: its sharding decides whether XLA may fuse the step with the code around it.
      optimizer: an optax transformation.
      state: the parameters, of which only the trained ones change, and the optimiser's state.
      total: the sum of the gradients, as one vector [P].
      n: what the sum is divided by, [].
      unravel: from [P] to a tree like the trained parameters.

    Returns:
      (trained parameters, optimiser state, L2 norm of the gradient []).
    """
    before = trained(state.params)

    def step(total: jax.Array, n: jax.Array) -> tuple[Params, Any, jax.Array]:
        grads = unravel(total / n.astype(total.dtype))
        updates, opt_state = optimizer.update(grads, state.opt_state, before)
        after = optax.apply_updates(before, updates)
        params = {
            name: jax.tree.map(lambda x, old: x.astype(old.dtype), after[name], state.params[name])
            for name in after
        }
        return params, opt_state, optax.tree.norm(grads)

    if objective.sharding.num_shards > 1:
        step = fusion_barrier(step, state.step >= 0)  # always true, but unknown at compile time
    return step(total, n)


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
    rollout = Rollout._make((seen, done, square, flags, flags, seen, square))
    value = None if objective.critic is None else square
    none = "" if value is not None else "; without a critic the values are None"
    for part, fn, result in (
        ("the estimator", objective.estimator, "advantage"),
        ("value_target", objective.value_target, "target"),
    ):
        with as_config_error(part, f"(rollout, value, next_value) -> {result} [T, B]{none}"):
            given = jax.eval_shape(fn, rollout, value, value)
        if getattr(given, "shape", None) != (2, 2):
            raise ConfigError(
                f"{part} gives {jax.tree.map(jnp.shape, given)} for a rollout of two steps of two "
                "episodes, not (2, 2): it must give one number for each step"
            )


def _check_networks(objective: Objective, params: Params, rows: jax.ShapeDtypeStruct) -> Any:
    """Check policy and critic on two observations; return the shape and dtype of two actions."""
    policy, critic = objective.policy, objective.critic

    def draw(rows: jax.Array, key: jax.Array) -> Any:
        distribution: Any = policy.apply(params, rows)
        action, _ = distribution.sample(key), distribution.mode()
        return action, distribution.log_prob(action), distribution.entropy()

    key = jax.eval_shape(lambda: jax.random.key(0))
    with as_config_error(
        type(policy).__name__,
        "a policy returns a distribution, an object with sample(key), log_prob(action), entropy() "
        "and mode(), for two observations as well as for one",
    ):
        action, log_prob, entropy = jax.eval_shape(draw, rows, key)
    per_row = {"the policy's log_prob": log_prob, "the policy's entropy": entropy}
    if critic is not None:
        variables = of_critic(params)
        with as_config_error(type(critic).__name__, "a critic returns a value for each row"):
            per_row["the critic"] = jax.eval_shape(critic.apply, variables, rows)
    for part, x in per_row.items():
        if getattr(x, "shape", None) != (2,):
            raise ConfigError(
                f"{part} gives {jax.tree.map(jnp.shape, x)} for two observations, not (2,): it "
                "must give one number for each row"
            )
    if action.shape[:1] != (2,):
        raise ConfigError(
            f"the policy's sample has shape {action.shape} for two observations: it must give one "
            "action for each row"
        )
    return action


def check_key(key: jax.Array) -> None:
    """Raise ConfigError unless `key` is a typed key."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ConfigError("a typed key is needed: pass jax.random.key(seed), not PRNGKey(seed)")
