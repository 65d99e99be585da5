"""The natural policy gradient (NPG), and trust region policy optimisation (TRPO)."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pgjax import losses
from pgjax.advantages import Estimator, normalized, reward_to_go
from pgjax.algorithms import actor_critic, batches, gradients
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.epochs import Epochs, Sample, check_epochs, run_epochs
from pgjax.algorithms.fisher import Wrapper, dot, natural_gradient
from pgjax.algorithms.gradients import Terms
from pgjax.algorithms.trust_region import scaled_step, take_step
from pgjax.errors import ConfigError, check_count
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, fusion_barrier, sum_chunks
from pgjax.types import (
    Algorithm,
    Info,
    Module,
    Params,
    Rollout,
    TrainState,
    check_type,
    known_number,
)


class Options(NamedTuple):
    """What NPG adds to an Objective; `npg` describes them."""

    max_kl: ArrayLike = 0.01
    damping: ArrayLike = 0.1
    cg_steps: int = 10
    line_search: bool = False
    epochs: Epochs = Epochs()


def npg(
    policy: Module,
    *,
    estimator: Estimator | None = None,
    critic: Module | None = None,
    critic_optimizer: optax.GradientTransformation | None = None,
    value_target: Estimator | None = None,
    max_kl: ArrayLike = 0.01,
    damping: ArrayLike = 0.1,
    cg_steps: int = 10,
    line_search: bool = False,
    num_epochs: int = 10,
    minibatch_size: int | None = 64,
    entropy_coef: ArrayLike | optax.Schedule = 0.0,
    chunk_size: int | None = CHUNK_SIZE,
    normalize_rewards: ArrayLike | None = None,
    reward_clip: ArrayLike | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Algorithm:
    """The natural policy gradient, as five pure, jitted functions.

    Use it where steps of the policy should not depend on how it is parameterised: their size is a
    KL divergence. With g the gradient of the loss of `reinforce` (the mean over real steps) by the
    policy's parameters, and F the Fisher information matrix of the policy at the observations of
    the rollout, a step is

      -a x,  x = (F + damping I)⁻¹ g,  a = sqrt(2 max_kl / (x · F x)),

    so that the KL divergence of the step is max_kl to second order. (If a policy is nearly
    deterministic, its divergence can be far larger: use `line_search`.) x comes from the conjugate
    gradient method, which needs only products F v, computed from derivatives of the distributions.
    With `line_search` it is TRPO: the step is shortened, by 0.8 each time and at most ten times,
    until the mean of ratio * advantage improves and the mean KL divergence is at most max_kl; if
    it never does, the policy stays. The critic is fitted by `critic_optimizer`.

    Metrics: policy_loss, entropy and grad_norm (of g) are from before the step, kl is the mean
    KL(old, new) of the step, step_size the factor that the line search chose (1 without one, 0 if
    it made no step). value_loss is the mean over the critic's last epoch, explained_variance from
    before the update, and optimizer_steps counts the critic's. Counts and returns of episodes are
    as from `reinforce`.

    Args:
      policy: a `pgjax.Module`: policy.apply(params, obs [..., d]) -> a distribution that has a
        method kl(other) and is a pytree of floating arrays, as those of `pgjax.distributions`.
      estimator: (rollout, value, next_value) -> advantage [T, B]; by default
        normalized(reward_to_go(gamma=0.99)).
      critic: a `pgjax.Module`: critic.apply(params, obs [..., d]) -> value [...]; or None.
      critic_optimizer: an optax transformation for the critic's parameters, such as
        optax.adam(1e-3); None without a critic.
      value_target: as for `reinforce`.
      max_kl: size of a step, finite and above 0, in nats.
      damping: at least 0.
      cg_steps: steps of the conjugate gradient method, at least 1.
      line_search: whether to shorten steps as TRPO does.
      num_epochs, minibatch_size: passes over the rollout to fit the critic, as for `ppo`.
      entropy_coef, chunk_size, normalize_rewards, reward_clip, sharding: as for `reinforce`.

    Returns:
      Algorithm(init, act, log_prob, loss, update), as from `reinforce`. `loss` is that of the
      policy alone; its gradient is g.

    Raises:
      ConfigError: as `reinforce`; for options that are out of range; for a critic without an
        optimiser, or the reverse; and, from `update`, for a distribution without kl.

    Source: Kakade 2001, A natural policy gradient; Schulman et al. 2015, Trust region policy
      optimization, appendix C.

    Example:
      >>> import jax, numpy, optax, pgjax
      >>> env = pgjax.envs.make("CartPole-v1", max_episode_steps=16)
      >>> algorithm = pgjax.npg(pgjax.SoftmaxPolicy(2, (4,)), max_kl=0.01)
      >>> state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
      >>> rollout = pgjax.collect_episodes_on_device(env, algorithm, state, num_episodes=8)
      >>> state, info = algorithm.update(state, rollout)
      >>> 0.005 < float(info["kl"]) < 0.02
      True
    """
    if (critic is None) != (critic_optimizer is None):
        raise ConfigError(
            "critic_optimizer fits the critic: pass both, such as critic=pgjax.ValueNetwork(), "
            "critic_optimizer=optax.adam(1e-3), or neither"
        )
    if estimator is None:
        estimator = normalized(reward_to_go(gamma=0.99))
    objective = Objective(
        policy=policy,
        critic=critic,
        estimator=estimator,
        value_target=actor_critic.resolve_value_target(critic, estimator, value_target),
        entropy_coef=entropy_coef,
        mean_over="steps",
        chunk_size=chunk_size,
        normalize_rewards=normalize_rewards,
        reward_clip=reward_clip,
        sharding=sharding,
        trained=("critic",),
    )
    epochs = check_epochs(num_epochs, minibatch_size)
    options = Options(max_kl, damping, check_count("cg_steps", cg_steps), line_search, epochs)
    _check_options(options)
    return actor_critic.make_algorithm(
        objective,
        optax.identity() if critic_optimizer is None else critic_optimizer,
        npg_loss,
        functools.partial(update, options),
    )


def _check_options(options: Options) -> None:
    if not isinstance(options.line_search, bool):
        raise ConfigError(f"line_search must be True or False, got {options.line_search!r}")
    known = known_number("max_kl", options.max_kl)
    if known is not None and not 0.0 < known < math.inf:
        raise ConfigError(f"max_kl must be finite and above 0, got {options.max_kl}")
    known = known_number("damping", options.damping)
    if known is not None and not 0.0 <= known < math.inf:
        raise ConfigError(f"damping must be finite and at least 0, got {options.damping}")


def npg_loss(objective: Objective, params: Params, rollout: Rollout) -> tuple[jax.Array, Info]:
    """Return the loss of the policy for a rollout, and metrics.

    Args:
      objective: an Objective.
      params: variables of policy and critic, as in `TrainState.params`.
      rollout: [T, B, ...].
    """
    chunks, n, info = batches.prepare(objective, params, rollout)
    coef = actor_critic.entropy_coef_at(objective, 0)
    loss = functools.partial(policy_loss, objective, actor_critic.wide(params), coef)
    total, sums = sum_chunks(batches.skip_empty(loss), chunks, sharding=objective.sharding)
    return total / n, info | {name: x / n for name, x in sums.items()}


def policy_loss(
    objective: Objective, params: Params, entropy_coef: Any, chunk: Batch
) -> tuple[jax.Array, Terms]:
    """Return weighted sums over the rows of a chunk: of the policy's loss, and of its terms."""
    return gradients.loss_sums(
        objective._replace(critic=None),
        params,
        entropy_coef,
        chunk,
        lambda log_p: {"policy_loss": losses.policy_gradient_loss(log_p, chunk.advantage)},
        lambda value: value,  # not called
    )


def _alone(objective: Objective, state: TrainState) -> Wrapper:
    """Return what keeps XLA from fusing a function with the code around it, if there are shards.

    Fused with a gather over devices it would round differently.
    """
    if objective.sharding.num_shards == 1:
        return lambda fn: fn
    # Always true, but unknown at compile time.
    return lambda fn: fusion_barrier(fn, jnp.asarray(state.step) >= 0)


def update(
    options: Options,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rollout: Rollout,
) -> tuple[TrainState, Info]:
    """Make a step of the policy along the natural gradient, and fit the critic.

    Args:
      options: what NPG adds to the objective.
      objective: an Objective.
      optimizer: an optax transformation for the critic.
      state: the state before the update.
      rollout: [T, B, ...], collected with `state.params`.

    Returns:
      (state after the update, metrics).
    """
    check_type(state, TrainState)
    chunks, n, info = batches.prepare(objective, state.params, rollout)
    coef = actor_critic.entropy_coef_at(objective, state.step)
    params = actor_critic.wide(state.params)

    def loss(policy_params: Params, chunk: Batch) -> tuple[jax.Array, Terms]:
        return policy_loss(objective, {**params, "params": policy_params}, coef, chunk)

    counts = batches.count_real(chunks.weight)
    summed = gradients.sum_gradients(loss, params["params"], chunks, counts, objective.sharding)
    alone = _alone(objective, state)
    gradient = alone(lambda total: total / n.astype(total.dtype))(summed.gradient)
    x, curvature = natural_gradient(
        objective,
        params,
        chunks,
        gradient,
        n,
        damping=options.damping,
        cg_steps=options.cg_steps,
        alone=alone,
    )
    step = alone(functools.partial(scaled_step, options.max_kl))(x, curvature)
    new, kl, size = take_step(
        objective,
        params,
        chunks,
        step,
        n,
        line_search=options.line_search,
        max_kl=options.max_kl,
        alone=alone,
    )
    info |= {name: total / n for name, total in summed.terms.items()}
    info |= {"grad_norm": jnp.sqrt(alone(dot)(gradient, gradient)), "kl": kl, "step_size": size}
    policy_params = jax.tree.map(lambda x, old: x.astype(old.dtype), new, state.params["params"])
    after = state
    if objective.critic is not None:
        after, fitted = _fit_critic(options, objective, optimizer, state, rollout, chunks)
        info |= fitted
    after = after._replace(params={**after.params, "params": policy_params})
    after = batches.with_moments(objective, after, state, chunks)
    return after._replace(step=state.step + 1), info


def _fit_critic(
    options: Options,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rollout: Rollout,
    chunks: Batch,
) -> tuple[TrainState, Info]:
    def loss_at(state: TrainState) -> Callable[[Params, Sample], tuple[jax.Array, Terms]]:
        def loss(trained: Params, chunk: Sample) -> tuple[jax.Array, Terms]:
            variables = actor_critic.of_critic({**state.params, **trained})
            critic: Any = objective.critic
            value = at_least_float32(critic.apply(variables, chunk.batch.obs))
            each = losses.value_loss(value, chunk.batch.target)
            total = batches.weighted_sums(each, chunk.batch.weight)
            return total, {"value_loss": total}

        return loss

    progress = run_epochs(
        options.epochs, objective, optimizer, state, rollout, lambda _: Sample(chunks), loss_at
    )
    fitted = {"value_loss": progress.means()["value_loss"], "optimizer_steps": progress.steps}
    return progress.state, fitted
