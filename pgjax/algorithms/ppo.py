"""Proximal policy optimisation (PPO): several steps of the optimiser with each rollout."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from pgjax import losses
from pgjax.advantages import Estimator, gae, normalized
from pgjax.algorithms import actor_critic, batches, checks, gradients, minibatches
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.gradients import Terms
from pgjax.errors import ConfigError, RunWarning, check_count
from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, map_chunks, sum_chunks
from pgjax.types import Algorithm, Info, Params, Rollout, TrainState, check_type, known_number

_KL_MARGIN = 1.5  # an update ends when it exceeds target_kl by this factor


class Options(NamedTuple):
    """What PPO adds to an Objective; `ppo` describes them."""

    clip: ArrayLike | optax.Schedule = 0.2
    num_epochs: int = 10
    minibatch_size: int | None = 64
    value_clip: ArrayLike | None = None
    recompute_advantages: bool = False
    target_kl: ArrayLike | None = None


class Sample(NamedTuple):
    """What the loss needs for each step; leaves as in `Batch`."""

    batch: Batch
    log_prob: jax.Array | None = None  # before the update; None: that of the same parameters
    value: jax.Array | None = None  # before the update, with value_clip


def ppo(
    policy: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    critic: nn.Module | None,
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
    number of the update, the epoch, and the step's column and time. So padding in time, the number
    of environments, threads and devices change no bit of the result.

    Metrics are means over the last epoch, each taken before the optimiser step of its minibatch:
    policy_loss, value_loss, entropy, grad_norm, clip_fraction (the share of steps whose ratio is
    outside 1 - clip and 1 + clip) and approx_kl, the mean of (r - 1) - log r, where r is the ratio
    of probabilities: an estimate of KL(old, new) that is never negative (Schulman 2020,
    Approximating KL Divergence, k3). So with one epoch of one minibatch approx_kl is 0.
    explained_variance is that of the critic before the update, and optimizer_steps counts the steps
    of the update. Counts and returns of episodes are as from `reinforce`.

    Args:
      policy: a Flax module: policy.apply(params, obs [..., d]) -> a distribution.
      optimizer: an optax transformation; it updates the parameters of policy and critic. Its
        schedules count optimiser steps, of which an update makes many; `pgjax.scale_by_updates`
        takes a schedule over updates.
      critic: a Flax module: critic.apply(params, obs [..., d]) -> value [...]; or None, with an
        estimator that needs no values.
      estimator: (rollout, value, next_value) -> advantage [T, B]; by default
        normalized(gae(gamma=0.99, lambda_=0.95)), over the whole rollout.
      value_target: as for `reinforce`.
      clip: the range in (0, 1) around 1 outside which the ratio of probabilities has no gradient,
        or an optax schedule over the updates made so far.
      num_epochs: passes over the rollout, at least 1.
      minibatch_size: steps in a minibatch, at least 1; the last one of an epoch may have fewer.
        With shards it is rounded up to a multiple of their number, and shards that have no steps
        left give none to the last minibatches. None takes all steps together, and so does a number
        larger than the rollout, with a warning.
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
      ConfigError: as `reinforce`, and for options that are out of range.

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
    num_epochs = check_count("num_epochs", num_epochs)
    if minibatch_size is not None:
        minibatch_size = check_count("minibatch_size, if not None,", minibatch_size)
    options = Options(clip, num_epochs, minibatch_size, value_clip, recompute_advantages, target_kl)
    _check_options(options)
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
    params = {**params, **actor_critic.trained(params)}

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


class _Progress(NamedTuple):
    """Where an update stands."""

    epoch: jax.Array  # [] int32
    minibatch: jax.Array  # [] int32: of the epoch
    state: TrainState
    stopped: jax.Array  # [] bool: approx_kl was too large
    steps: jax.Array  # [] int32: of the optimiser
    sums: Terms  # over this epoch; see `_step`


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
    given = {**state.params, **actor_critic.trained(state.params)}  # as in the loss
    old = map_chunks(functools.partial(_old, options, objective, given), chunks, counts)
    step = functools.partial(_step, options, objective, optimizer)

    def advance(progress: _Progress, sample: Sample) -> _Progress:
        state, sums = step(progress.state, sample)
        return _Progress(
            progress.epoch,
            progress.minibatch + 1,
            state,
            sums["steps"] == 0,
            progress.steps + sums["steps"],
            jax.tree.map(jnp.add, progress.sums, sums),
        )

    def epoch(progress: _Progress) -> _Progress:
        batch = chunks
        if options.recompute_advantages:
            batch = batches.prepare(objective, progress.state.params, rollout)[0]
        sample, sums = Sample(batch, *old), jax.tree.map(jnp.zeros_like, progress.sums)
        progress = progress._replace(minibatch=jnp.int32(0), sums=sums)
        if (size := options.minibatch_size) is None:
            progress = advance(progress, sample)
        else:
            taken, count = _minibatches(size, objective, progress, sample, rollout)
            progress = lax.while_loop(
                lambda progress: (progress.minibatch < count) & ~progress.stopped,
                lambda progress: advance(progress, taken(progress.minibatch)),
                progress,
            )
        return progress._replace(epoch=progress.epoch + 1)

    zero, no = jnp.int32(0), jnp.bool_(False)
    shapes = jax.eval_shape(lambda: step(state, Sample(chunks, *old))[1])
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    progress = lax.while_loop(
        lambda progress: (progress.epoch < options.num_epochs) & ~progress.stopped,
        epoch,
        _Progress(zero, zero, state, no, zero, sums),
    )
    before = batches.moments_before(objective, state.params, chunks)
    moments = functools.partial(batches.moment_sums, before)
    added = sum_chunks(moments, chunks, counts, objective.sharding) if before else {}
    params = {**progress.state.params, **batches.merge_moments(before, added)}
    info = info | _means(progress) | {"optimizer_steps": progress.steps}
    return progress.state._replace(params=params, step=state.step + 1), info


def _minibatches(
    size: int,
    objective: Objective,
    progress: _Progress,
    sample: Sample,
    rollout: Rollout,
) -> tuple[Callable[[jax.Array], Sample], jax.Array]:
    """Return (number -> minibatch, how many there are) of an epoch."""
    sharding = objective.sharding
    time, columns = rollout.reward.shape[0], rollout.reward.shape[1] * sharding.num_devices()
    if size > time * columns:
        warnings.warn(
            f"minibatch_size={size} is larger than the rollout of {time} x {columns} steps, which "
            "are taken together",
            RunWarning,
            stacklevel=2,
        )
    num_columns = sharding.pad(columns) // sharding.num_shards
    key = minibatches.shuffling_key(progress.state.key, progress.state.step, progress.epoch)
    real = (sample.batch.weight > 0).reshape(len(sample.batch.weight), -1)
    shuffled = minibatches.shuffle(key, real, num_columns, sharding)
    each = real.shape[1] if size > time * columns else minibatches.quota(size, sharding)

    def taken(number: jax.Array) -> Sample:
        rows, real = minibatches.take(sample, shuffled, number, each, objective.chunk_size)
        weight = jnp.where(real, rows.batch.weight, 0.0)
        return rows._replace(batch=rows.batch._replace(weight=weight))

    return taken, minibatches.count(shuffled, each, sharding)


def _step(
    options: Options,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    sample: Sample,
) -> tuple[TrainState, Terms]:
    """Make one optimiser step with the mean over a minibatch, unless its approx_kl is too large.

    Returns:
      (state, sums over the minibatch: the terms of the loss, the number of "rows" and of "steps"
      made, 1 or 0, and "grad_norm")
    """
    coef = actor_critic.entropy_coef_at(objective, state.step)
    clip = _at(options.clip, state.step)

    def loss(trained: Params, chunk: Sample) -> tuple[jax.Array, Terms]:
        return chunk_loss(options, objective, {**state.params, **trained}, coef, clip, chunk)

    summed = gradients.sum_gradients(
        loss,
        actor_critic.trained(state.params),
        sample,
        batches.count_real(sample.batch.weight),
        objective.sharding,
        add=lambda chunk: (chunk.batch.weight > 0).sum(),
    )
    rows, steps = jnp.maximum(summed.added, 1), jnp.int32(1)
    stepped, grad_norm = gradients.step_along(objective, optimizer, state, summed, rows)
    with checks.as_config_error("the optimizer", "its state must keep its structure"):
        opt_state = jax.tree.map(_as_before, state.opt_state, stepped.opt_state)
    stepped = stepped._replace(opt_state=opt_state)
    if options.target_kl is not None:
        too_far = summed.terms["approx_kl"] / rows > _KL_MARGIN * options.target_kl
        steps = jnp.where(too_far, 0, 1)
        stepped = jax.tree.map(lambda old, new: jnp.where(too_far, old, new), state, stepped)
    sums = {"rows": summed.added, "steps": steps, "grad_norm": grad_norm}
    return stepped, summed.terms | sums


def _means(progress: _Progress) -> Terms:
    """Return means over the rows of the epoch; of the gradient's norm, over its minibatches."""
    rows = jnp.maximum(progress.sums["rows"], 1)
    means = {name: x / rows for name, x in progress.sums.items() if name not in ("rows", "steps")}
    return means | {"grad_norm": progress.sums["grad_norm"] / jnp.maximum(progress.minibatch, 1)}


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


def _as_before(old: Any, new: Any) -> jax.Array:
    """Return part of an optimiser's state in its dtype before the step; some change it."""
    old, new = jnp.asarray(old), jnp.asarray(new)
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _at(number: ArrayLike | optax.Schedule, step: ArrayLike) -> Any:
    return number(step) if callable(number) else number
