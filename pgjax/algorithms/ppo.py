"""Proximal policy optimisation (PPO): several steps of the optimiser with each rollout."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from pgjax import losses
from pgjax.advantages import Estimator, gae, normalized
from pgjax.algorithms import actor_critic, batches, gradients
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.epochs import Epochs, Sample, check_epochs, run_epochs
from pgjax.algorithms.gradients import Terms
from pgjax.errors import ConfigError
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, map_chunks, sum_chunks
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

_KL_MARGIN = 1.5  # an update ends when it exceeds target_kl by this factor


class Options(NamedTuple):
    """What PPO adds to an Objective; `ppo` describes them."""

    clip: ArrayLike | optax.Schedule = 0.2
    epochs: Epochs = Epochs()
    value_clip: ArrayLike | None = None
    recompute_advantages: bool = False
    target_kl: ArrayLike | None = None


def ppo(
    policy: Module,
    optimizer: optax.GradientTransformation,
    *,
    critic: Module | None,
    estimator: Estimator | None = None,
    value_target: Estimator | None = None,
    clip: ArrayLike | optax.Schedule = 0.2,
    num_epochs: int = 10,
    minibatch_size: int | None = 64,
    entropy_coef: ArrayLike | optax.Schedule = 0.0,
    value_coef: ArrayLike = 0.5,
    value_clip: ArrayLike | None = None,
    recompute_advantages: bool = False,
    target_kl: ArrayLike | None = None,
    chunk_size: int | None = CHUNK_SIZE,
    normalize_rewards: ArrayLike | None = None,
    reward_clip: ArrayLike | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Algorithm:
    """PPO with a clipped surrogate, as five pure, jitted functions.

    Use it where environment steps are expensive: it makes many optimiser steps with each rollout.
    An update makes `num_epochs` passes over the real steps of a rollout, in minibatches, and one
    optimiser step for each of them, with the loss

      mean over the steps of `losses.ppo_clip_loss` + value_coef * value loss
        - entropy_coef * entropy.

    The log-probabilities to compare with are those of the parameters that the update is given.

    Each real step falls into one minibatch of each epoch; which one follows from the run's key, the
    number of the update, the epoch, and the step's column and time. So padding in time, threads and
    devices change no bit of the result, and neither does the number of environments that step side
    by side while whole episodes are collected.

    Metrics are means over the last epoch, each taken before the optimiser step of its minibatch:
    policy_loss, value_loss, entropy, grad_norm, clip_fraction (the share of steps whose ratio is
    outside 1 - clip and 1 + clip) and approx_kl, the mean of (r - 1) - log r, where r is the ratio
    of probabilities: an estimate of KL(old, new) that is never negative (Schulman 2020,
    Approximating KL Divergence, k3). So with one epoch of one minibatch approx_kl is 0.
    explained_variance is that of the critic before the update, and optimizer_steps counts the steps
    of the update. Counts and returns of episodes are as from `reinforce`.

    Args:
      policy: a `pgjax.Module`: policy.apply(params, obs [..., d]) -> a distribution.
      optimizer: an optax transformation; it updates the parameters of policy and critic. Its
        schedules count optimiser steps, of which an update makes many; `pgjax.scale_by_updates`
        takes a schedule over updates.
      critic: a `pgjax.Module`: critic.apply(params, obs [..., d]) -> value [...]; or None, with an
        estimator that needs no values.
      estimator: (rollout, value, next_value) -> advantage [T, B]; by default
        normalized(gae(gamma=0.99, lambda_=0.95)), over the whole rollout.
      value_target: as for `reinforce`.
      clip: the range in (0, 1) around 1 outside which the ratio of probabilities has no gradient,
        or an optax schedule over the updates made so far.
      num_epochs: passes over the rollout, at least 1.
      minibatch_size: steps in a minibatch, at least 1; the last one of an epoch may have fewer.
        Each of `num_shards` shards gives minibatch_size / num_shards of its steps, rounded up,
        while it has some left: fill all shards equally, or minibatches are smaller. None takes all
        steps together, and so does a number larger than the rollout, with a warning.
      entropy_coef: as for `reinforce`.
      value_coef: at least 0.
      value_clip: None, or the range > 0 of `losses.clipped_value_loss`.
      recompute_advantages: compute advantages and targets anew for each epoch, with the critic as
        it is then (Andrychowicz et al. 2021, What Matters in On-Policy RL?).
      target_kl: None, or a number > 0: the update ends, without a step, at a minibatch whose
        approx_kl exceeds 1.5 times this number.
      chunk_size: rows summed together, as for `reinforce`.
      normalize_rewards, reward_clip: as for `reinforce`.
      sharding: as for `reinforce`; each shard gives an equal part of each minibatch.

    Returns:
      Algorithm(init, act, log_prob, loss, update), as from `reinforce`. `loss` is that of a whole
      rollout before the first step, where all ratios are 1: its gradient is that of `reinforce`
      with mean_over="steps".

    Raises:
      ConfigError: as `reinforce`, for options that are out of range, and for value_clip without a
        critic.

    Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms.

    Example:
      >>> import gymnasium, jax, numpy, optax, pgjax
      >>> stream = pgjax.Stream(gymnasium.make_vec("CartPole-v1", num_envs=8))
      >>> algorithm = pgjax.ppo(
      ...     pgjax.SoftmaxPolicy(2), optax.adam(3e-4), critic=pgjax.ValueNetwork(), num_epochs=4)
      >>> state = algorithm.init(jax.random.key(0), numpy.zeros(4, numpy.float32))
      >>> rollout = pgjax.collect_steps(stream, algorithm, state, num_steps=32)
      >>> state, info = algorithm.update(state, rollout)
      >>> int(info["optimizer_steps"])  # 4 epochs of 8 * 32 / 64 minibatches
      16
    """
    if estimator is None:
        estimator = normalized(gae(gamma=0.99, lambda_=0.95))
    objective = Objective(
        policy=policy,
        critic=critic,
        estimator=estimator,
        value_target=actor_critic.resolve_value_target(critic, estimator, value_target),
        entropy_coef=entropy_coef,
        value_coef=value_coef,
        mean_over="steps",
        chunk_size=chunk_size,
        normalize_rewards=normalize_rewards,
        reward_clip=reward_clip,
        sharding=sharding,
    )
    epochs = check_epochs(num_epochs, minibatch_size)
    options = Options(clip, epochs, value_clip, recompute_advantages, target_kl)
    _check_options(options)
    if critic is None and value_clip is not None:
        raise ConfigError("value_clip limits the loss of a critic: give one, or leave it out")
    return actor_critic.make_algorithm(
        objective,
        optimizer,
        functools.partial(ppo_loss, options),
        functools.partial(update, options),
    )


def _check_options(options: Options) -> None:
    if not isinstance(options.recompute_advantages, bool):
        raise ConfigError(
            f"recompute_advantages must be True or False, got {options.recompute_advantages!r}"
        )
    for name, least, most in (
        ("clip", 0.0, 1.0),
        ("value_clip", 0.0, math.inf),
        ("target_kl", 0.0, math.inf),
    ):
        number = getattr(options, name)
        if (number is None and name != "clip") or (name == "clip" and callable(number)):
            continue
        known = known_number(name, number)
        if known is not None and not least < known < most:
            between = "in (0, 1)" if most == 1.0 else "None, or finite and above 0"
            raise ConfigError(f"{name} must be {between}, got {number}")


def ppo_loss(
    options: Options, objective: Objective, params: Params, rollout: Rollout
) -> tuple[jax.Array, Info]:
    """Return the loss of a rollout before the first step of an update, and metrics.

    Args:
      options: what PPO adds to the objective.
      objective: an Objective.
      params: variables of policy and critic, as in `TrainState.params`.
      rollout: [T, B, ...].
    """
    chunks, n, info = batches.prepare(objective, params, rollout)
    coef = actor_critic.entropy_coef_at(objective, 0)
    params = actor_critic.wide(params)

    def loss(chunk: Batch) -> Any:
        return chunk_loss(options, objective, params, coef, _at(options.clip, 0), Sample(chunk))

    total, sums = sum_chunks(batches.skip_empty(loss), chunks, sharding=objective.sharding)
    return total / n, info | {name: x / n for name, x in sums.items()}


def chunk_loss(
    options: Options,
    objective: Objective,
    params: Params,
    entropy_coef: Any,
    clip: Any,
    chunk: Sample,
) -> tuple[jax.Array, Terms]:
    """Return weighted sums over the rows of a chunk: of the loss, and of its terms by name.

    Args:
      options: what PPO adds to the objective.
      objective: an Objective.
      params: variables of policy and critic, as in `TrainState.params`.
      entropy_coef: [] float; a Python float of 0 leaves the entropy out of the loss.
      clip: [] float in (0, 1).
      chunk: leaves [chunk_size, ...].

    Returns:
      (sum of the loss [], sums [] of policy_loss, entropy, approx_kl, clip_fraction and, with a
      critic, value_loss).
    """
    batch = chunk.batch

    def policy_terms(log_prob: jax.Array) -> Terms:
        old = lax.stop_gradient(log_prob) if chunk.log_prob is None else chunk.log_prob
        log_ratio = log_prob - old
        return {
            "policy_loss": losses.ppo_clip_loss(log_prob, old, batch.advantage, clip),
            "approx_kl": jnp.expm1(log_ratio) - log_ratio,
            "clip_fraction": jnp.abs(jnp.expm1(log_ratio)) > clip,
        }

    def value_loss(value: jax.Array) -> jax.Array:
        if options.value_clip is None:
            return losses.value_loss(value, batch.target)
        old = lax.stop_gradient(value) if chunk.value is None else chunk.value
        return losses.clipped_value_loss(value, old, batch.target, options.value_clip)

    return gradients.loss_sums(objective, params, entropy_coef, batch, policy_terms, value_loss)


def update(
    options: Options,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rollout: Rollout,
) -> tuple[TrainState, Info]:
    """Make `num_epochs` passes over a rollout, with an optimiser step for each minibatch.

    Args:
      options: what PPO adds to the objective.
      objective: an Objective.
      optimizer: an optax transformation.
      state: the state before the update.
      rollout: [T, B, ...], collected with `state.params`.

    Returns:
      (state after the update, metrics).
    """
    check_type(state, TrainState)
    chunks, _, info = batches.prepare(objective, state.params, rollout)
    counts = batches.count_real(chunks.weight)
    given = actor_critic.wide(state.params)  # as in the loss
    old = map_chunks(functools.partial(_old, options, objective, given), chunks, counts)

    def sample_at(state: TrainState) -> Sample:
        batch = chunks
        if options.recompute_advantages:
            batch = batches.prepare(objective, state.params, rollout)[0]
        return Sample(batch, *old)

    def loss_at(state: TrainState) -> Callable[[Params, Sample], tuple[jax.Array, Terms]]:
        coef = actor_critic.entropy_coef_at(objective, state.step)
        clip = _at(options.clip, state.step)

        def loss(trained: Params, chunk: Sample) -> tuple[jax.Array, Terms]:
            return chunk_loss(options, objective, {**state.params, **trained}, coef, clip, chunk)

        return loss

    def too_far(means: Terms) -> jax.Array:
        return means["approx_kl"] > _KL_MARGIN * jnp.asarray(options.target_kl)

    progress = run_epochs(
        options.epochs,
        objective,
        optimizer,
        state,
        rollout,
        sample_at,
        loss_at,
        None if options.target_kl is None else too_far,
    )
    state = batches.with_moments(objective, progress.state, state, chunks)
    info = info | progress.means() | {"optimizer_steps": progress.steps}
    return state._replace(step=state.step + 1), info


def _old(
    options: Options, objective: Objective, params: Params, chunk: Batch
) -> tuple[jax.Array, jax.Array | None]:
    """Return log-probabilities of a chunk's actions and, if they are needed, values."""
    distribution: Any = objective.policy.apply(params, chunk.obs)
    log_prob = at_least_float32(distribution.log_prob(chunk.action))
    if objective.critic is None or options.value_clip is None:
        return log_prob, None
    value: Any = objective.critic.apply(actor_critic.of_critic(params), chunk.obs)
    return log_prob, at_least_float32(value)


def _at(number: ArrayLike | optax.Schedule, step: ArrayLike) -> Any:
    return number(step) if callable(number) else number
