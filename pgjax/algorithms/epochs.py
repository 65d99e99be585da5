"""Several passes over a rollout, in shuffled minibatches, with an optimiser step for each."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from pgjax.algorithms import actor_critic, batches, checks, gradients, minibatches
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.gradients import Terms
from pgjax.errors import RunWarning, check_count
from pgjax.types import Params, Rollout, TrainState


class Sample(NamedTuple):
    """What a loss needs for each step; leaves as in `Batch`."""

    batch: Batch
    log_prob: jax.Array | None = None  # before the update; None: that of the same parameters
    value: jax.Array | None = None  # before the update, where values are clipped


class Epochs(NamedTuple):
    """How often, and in which parts, an update passes over a rollout."""

    num_epochs: int = 10
    minibatch_size: int | None = 64


class Progress(NamedTuple):
    """Where an update stands."""

    epoch: jax.Array  # [] int32
    minibatch: jax.Array  # [] int32: of the epoch
    state: TrainState
    stopped: jax.Array  # [] bool: `too_far` said so
    steps: jax.Array  # [] int32: of the optimiser
    sums: Terms  # over this epoch; see `_step`

    def means(self) -> Terms:
        """Return means over the rows of the epoch; of the gradient's norm, over its minibatches."""
        rows = jnp.maximum(self.sums["rows"], 1)
        means = {name: x / rows for name, x in self.sums.items() if name not in ("rows", "steps")}
        return means | {"grad_norm": self.sums["grad_norm"] / jnp.maximum(self.minibatch, 1)}


def run_epochs(
    epochs: Epochs,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rollout: Rollout,
    sample_at: Callable[[TrainState], Sample],
    loss_at: Callable[[TrainState], Callable[[Params, Sample], tuple[jax.Array, Terms]]],
    too_far: Callable[[Terms], jax.Array] | None = None,
) -> Progress:
    """Make passes over a rollout, with an optimiser step for each minibatch.

    Args:
      epochs: how many, and the size of the minibatches.
      objective: an Objective.
      optimizer: an optax transformation.
      state: the state before.
      rollout: for its shape.
      sample_at: state at the beginning of an epoch -> all rows, in chunks.
      loss_at: state before a step -> (trained parameters, chunk) -> (loss, terms), sums over the
        chunk's rows.
      too_far: means of the terms over a minibatch -> whether to end, without a step; or None.
    """

    def step(state: TrainState, sample: Sample) -> tuple[TrainState, Terms]:
        return _step(objective, optimizer, loss_at(state), too_far, state, sample)

    def advance(progress: Progress, sample: Sample) -> Progress:
        state, sums = step(progress.state, sample)
        return Progress(
            progress.epoch,
            progress.minibatch + 1,
            state,
            sums["steps"] == 0,
            progress.steps + sums["steps"],
            jax.tree.map(jnp.add, progress.sums, sums),
        )

    def epoch(progress: Progress) -> Progress:
        sample, sums = sample_at(progress.state), jax.tree.map(jnp.zeros_like, progress.sums)
        progress = progress._replace(minibatch=jnp.int32(0), sums=sums)
        if (size := epochs.minibatch_size) is None:
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
    shapes = jax.eval_shape(lambda: step(state, sample_at(state))[1])
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.while_loop(
        lambda progress: (progress.epoch < epochs.num_epochs) & ~progress.stopped,
        epoch,
        Progress(zero, zero, state, no, zero, sums),
    )


def check_epochs(num_epochs: int, minibatch_size: int | None) -> Epochs:
    """Return Epochs; raise ConfigError unless the numbers are integers of at least 1."""
    num_epochs = check_count("num_epochs", num_epochs)
    if minibatch_size is not None:
        minibatch_size = check_count("minibatch_size, if not None,", minibatch_size)
    return Epochs(num_epochs, minibatch_size)


def _minibatches(
    size: int,
    objective: Objective,
    progress: Progress,
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
    objective: Objective,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Params, Sample], tuple[jax.Array, Terms]],
    too_far: Callable[[Terms], jax.Array] | None,
    state: TrainState,
    sample: Sample,
) -> tuple[TrainState, Terms]:
    """Make one optimiser step with the mean over a minibatch, unless it went too far.

    Returns:
      (state, sums over the minibatch: the terms of the loss, the number of "rows" and of "steps"
      made, 1 or 0, and "grad_norm")
    """
    summed = gradients.sum_gradients(
        loss,
        actor_critic.trained(objective, state.params),
        sample,
        batches.count_real(sample.batch.weight),
        objective.sharding,
        # In the dtype of the other sums, so that devices exchange one array.
        add=lambda chunk: (chunk.batch.weight > 0).sum(dtype=chunk.batch.weight.dtype),
    )
    rows, steps = jnp.maximum(summed.added, 1), jnp.int32(1)
    stepped, grad_norm = gradients.step_along(objective, optimizer, state, summed, rows)
    with checks.as_config_error("the optimizer", "its state must keep its structure"):
        opt_state = jax.tree.map(_as_before, state.opt_state, stepped.opt_state)
    stepped = stepped._replace(opt_state=opt_state)
    if too_far is not None:
        ends = too_far({name: x / rows for name, x in summed.terms.items()})
        steps = jnp.where(ends, 0, 1)
        stepped = jax.tree.map(lambda old, new: jnp.where(ends, old, new), state, stepped)
    sums = {"rows": summed.added, "steps": steps, "grad_norm": grad_norm}
    return stepped, summed.terms | sums


def _as_before(old: Any, new: Any) -> jax.Array:
    """Return part of an optimiser's state in its dtype before the step; some change it."""
    old, new = jnp.asarray(old), jnp.asarray(new)
    return new if new.dtype == old.dtype else new.astype(old.dtype)
