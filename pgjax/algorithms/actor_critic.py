"""Policy, critic and estimator as one objective: what every algorithm shares."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pgjax.advantages import Estimator
from pgjax.errors import ConfigError, PgjaxError
from pgjax.numerics import running_moments
from pgjax.numerics.sums import Sharding
from pgjax.types import Params, Rollout


class Objective(NamedTuple):
    """What the loss is made of."""

    policy: nn.Module
    critic: nn.Module | None
    estimator: Estimator
    entropy_coef: float | optax.Schedule
    value_coef: float
    mean_over: str
    chunk_size: int | None
    scale_rewards: float | None
    sharding: Sharding


@contextlib.contextmanager
def as_config_error(part: str, should: str) -> Iterator[None]:
    """Raise what a part of a user's own raises as one ConfigError, with what it should be."""
    try:
        yield
    except PgjaxError:
        raise
    except Exception as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise ConfigError(f"{part} fails ({reason}): {should}") from e


def check_parts(objective: Objective, params: Params, obs: jax.Array) -> None:
    """Raise ConfigError unless the parts of an objective fit each other; nothing is computed.

    `obs` is one observation [d] or a batch of them [n, d], or one of more axes.
    """
    shape = jnp.shape(obs)
    each = shape if len(shape) > 2 else shape[-1:]
    rows = jax.ShapeDtypeStruct((2, *each), jnp.result_type(obs))

    def parts(rows: jax.Array, key: jax.Array) -> Any:
        distribution: Any = objective.policy.apply(params, rows)
        action, _ = distribution.sample(key), distribution.mode()
        shapes = {"log_prob": distribution.log_prob(action), "entropy": distribution.entropy()}
        value = None
        if objective.critic is not None:
            value = shapes["critic"] = objective.critic.apply(
                running_moments.of_critic(params), rows
            )
        return action, shapes, value

    key = jax.eval_shape(lambda: jax.random.key(0))
    with as_config_error(
        type(objective.policy).__name__,
        "a policy gives a distribution, an object with sample(key), log_prob(action), entropy() "
        "and mode(), for two observations as for one",
    ):
        action, shapes, value = jax.eval_shape(parts, rows, key)
    for name, x in shapes.items():
        if getattr(x, "shape", None) != (2,):
            whose = "the critic" if name == "critic" else f"the policy's {name}"
            raise ConfigError(
                f"{whose} gives {jax.tree.map(jnp.shape, x)} for two observations, not (2,): one "
                "number for each row"
            )
    if action.shape[:1] != (2,):
        raise ConfigError(f"the policy's sample has shape {action.shape} for two observations")
    square = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    flags = jax.ShapeDtypeStruct((2, 2), bool)
    seen, done = (jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for x in (rows, action))
    rollout = Rollout._make((seen, done, square, flags, flags, seen, square))
    value = None if value is None else square
    none = "" if value is not None else "; without a critic the values are None"
    with as_config_error(
        "the estimator", f"(rollout, value, next_value) -> advantage [T, B]{none}"
    ):
        advantage = jax.eval_shape(objective.estimator, rollout, value, value)
    if getattr(advantage, "shape", None) != (2, 2):
        raise ConfigError(
            f"the estimator gives {jax.tree.map(jnp.shape, advantage)} for a rollout of two steps "
            "of two episodes, not (2, 2): one number for each step"
        )


def check_key(key: jax.Array) -> None:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ConfigError("a typed key is needed: jax.random.key(seed), not PRNGKey(seed)")
