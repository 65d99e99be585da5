"""REINFORCE, with or without a critic."""

import functools
from typing import Any, Literal

import jax
import optax
from jax.typing import ArrayLike

from pgjax import losses
from pgjax.advantages import Estimator, normalized, reward_to_go
from pgjax.algorithms import actor_critic, batches, gradients
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.gradients import Terms
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, sum_chunks
from pgjax.types import Algorithm, Info, Module, Params, Rollout, TrainState, check_type


def reinforce(
    policy: Module,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator | None = None,
    critic: Module | None = None,
    value_target: Estimator | None = None,
    entropy_coef: ArrayLike | optax.Schedule = 0.0,
    value_coef: ArrayLike = 0.5,
    mean_over: Literal["episodes", "steps"] = "episodes",
    chunk_size: int | None = CHUNK_SIZE,
    normalize_rewards: ArrayLike | None = None,
    reward_clip: ArrayLike | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Algorithm:
    """REINFORCE, with or without a critic, as five pure, jitted functions.

    Use it to train any policy with any estimator, on whole episodes or on streams of steps. The
    loss is

      (sum over real steps of -stop_gradient(advantage) log_prob
        + value_coef (V - target)^2 / 2 - entropy_coef entropy) / N,

    where N is the number of episodes or of real steps.

    Derivatives: `loss` can be differentiated in both modes. `update` can only be in forward mode
    (jax.jvp, jax.jacfwd), because it stops after the last chunk with a real step; for reverse mode
    pass the gradient of `loss` to `optimizer.update`. In each, advantages and targets are
    constants: derivatives with respect to `gamma` and `lambda_` are zero.

    Hyperparameters may be traced by JAX, for example to vmap over `entropy_coef`, `value_coef`, or
    the `gamma` of an estimator. Only known numbers are checked for their range.

    Args:
      policy: a `pgjax.Module`: policy.apply(params, obs [..., d]) -> a distribution. Wrap it in
        NormalizedObs (and the critic too) to normalise observations by running moments.
      optimizer: an optax transformation; it updates the parameters of policy and critic. It is
        given the loss of the update, before the step, as `value` and the gradient as `grad`, for
        those that use them (such as optax.polyak_sgd and optax.contrib.reduce_on_plateau). Those
        that evaluate the loss themselves, such as optax.lbfgs, are refused by `init`.
      estimator: (rollout, value, next_value) -> advantage [T, B]; by default
        normalized(reward_to_go(gamma=0.99)), as in the lesson.
      critic: a `pgjax.Module`: critic.apply(params, obs [..., d]) -> value [...]; or None.
      value_target: (rollout, value, next_value) -> the returns [T, B] that the critic is fitted to;
        by default what the estimator declares. An estimator that is a plain function declares
        none. Ignored without a critic.
      entropy_coef: at least 0, or an optax schedule over the updates made so far. `loss`, which
        does not know their number, uses its value at 0.
      value_coef: at least 0.
      mean_over: "episodes" or "steps": what N counts.
      chunk_size: rows summed at a time, in 1..128, so that results do not depend on threads,
        padding or devices. None sums the whole batch together, which is faster on an accelerator
        and gives up that guarantee.
      normalize_rewards: None, or a discount in [0, 1]: the estimator then sees rewards divided by
        the root mean square of the returns-to-go, with that discount, of all previous updates.
      reward_clip: None, or a number > 0: the estimator then sees rewards clipped to
        [-reward_clip, reward_clip], after they are normalised.
      sharding: Sharding(num_shards) groups the columns of a rollout, in order, into shards that are
        summed separately; their number changes the rounding. Sharding(num_shards, axis_name)
        distributes the shards over the devices of a mapped axis (jax.shard_map); the number of
        devices must divide num_shards. Each device holds the same number of columns, in order, as
        `collect_episodes_on_device` returns them. Call `loss` and `update` inside the mapping: they
        return the same bits on every device, whatever the number of devices. The gradient of `loss`
        inside the mapping is this device's part of it times the number of devices, so that its
        lax.pmean is the whole gradient.

    Returns:
      Algorithm(init, act, log_prob, loss, update). `init` takes a typed key and one observation or
      a batch of them; it splits the key, uses one half to initialise and keeps the other as
      state.key. `act` takes one key for all rows of obs, or a batch of keys [B] with one for each
      row, and consumes them. `loss` can be differentiated with respect to params. `update` makes
      one optimiser step.

    Raises:
      ConfigError: for an argument of the wrong type or out of its range, and for a critic without a
        target. `init` raises it for a key that is not typed, and for parts that do not fit
        together, such as a critic that returns more than one number for each row, or gae without a
        critic. The other functions raise it when they are traced: for a rollout whose fields do not
        fit each other, the policy's actions or the parameters (reward and weight must be floating,
        the flags bool), and for an estimator or critic that returns another shape than [T, B].

    Source: Williams 1992; with a critic, Sutton & Barto, 2nd ed., section 13.4.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import optax
      >>> import pgjax
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(num_actions=2), optax.adam(0.01))
      >>> obs = np.zeros((5, 4), np.float32)  # five observations of four numbers
      >>> state = algorithm.init(jax.random.key(0), obs)
      >>> algorithm.act(state.params, jax.random.key(1), obs).shape
      (5,)
    """
    if estimator is None:
        estimator = normalized(reward_to_go(gamma=0.99))
    objective = Objective(
        policy=policy,
        critic=critic,
        estimator=estimator,
        value_target=actor_critic.resolve_value_target(critic, estimator, value_target),
        entropy_coef=entropy_coef,
        value_coef=value_coef,
        mean_over=mean_over,
        chunk_size=chunk_size,
        normalize_rewards=normalize_rewards,
        reward_clip=reward_clip,
        sharding=sharding,
    )
    return actor_critic.make_algorithm(objective, optimizer, reinforce_loss, update)


def reinforce_loss(
    objective: Objective, params: Params, rollout: Rollout
) -> tuple[jax.Array, Info]:
    """Return the loss of a rollout, and metrics.

    Use it as the `loss` of an algorithm; `reinforce` binds it to an objective.

    Args:
      objective: an Objective; see `reinforce`.
      params: variables of policy and critic, as in `TrainState.params`.
      rollout: [T, B, ...].

    Returns:
      (loss [], metrics).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import pgjax
      >>> from pgjax.algorithms.actor_critic import Objective
      >>> policy, estimator = pgjax.SoftmaxPolicy(2, ()), pgjax.advantages.reward_to_go(gamma=1.0)
      >>> objective = Objective(policy, estimator, estimator.value_target)
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> obs = np.ones((3, 1, 4))
      >>> rollout = pgjax.Rollout(obs=obs, action=no.astype(int), reward=ones, terminated=no,
      ...                         truncated=no, next_obs=obs, weight=ones)
      >>> params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0), obs))
      >>> loss, _ = reinforce_loss(objective, params, rollout)
      >>> round(float(loss), 3)  # (3 + 2 + 1) log 2
      4.159
    """
    chunks, n, info = batches.prepare(objective, params, rollout)
    coef = actor_critic.entropy_coef_at(objective, 0)
    params = actor_critic.wide(params)
    loss = functools.partial(chunk_loss, objective, params, coef)
    total, sums = sum_chunks(batches.skip_empty(loss), chunks, sharding=objective.sharding)
    return total / n, batches.loss_info(sums, n, info)


def update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rollout: Rollout,
) -> tuple[TrainState, Info]:
    """Make one optimiser step with the gradient of `reinforce_loss`.

    Use it as the `update` of an algorithm; `reinforce` binds it to an objective and an optimiser.

    Args:
      objective: an Objective; see `reinforce`.
      optimizer: an optax transformation.
      state: the state before the update.
      rollout: [T, B, ...], collected with `state.params`.

    Returns:
      (state after the update, metrics). If observations or rewards are normalised, the update uses
      the running moments of `state`, and adds the rollout to them afterwards.

    Example:
      >>> import functools
      >>> import jax
      >>> import numpy as np
      >>> import optax
      >>> import pgjax
      >>> from pgjax.algorithms import actor_critic
      >>> policy, estimator = pgjax.SoftmaxPolicy(2, ()), pgjax.advantages.reward_to_go(gamma=1.0)
      >>> objective = actor_critic.Objective(policy, estimator, estimator.value_target)
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> obs = np.ones((3, 1, 4))
      >>> rollout = pgjax.Rollout(obs=obs, action=no.astype(int), reward=ones, terminated=no,
      ...                         truncated=no, next_obs=obs, weight=ones)
      >>> optimizer = optax.sgd(0.01)
      >>> state = actor_critic.init(objective, optimizer, jax.random.key(0), obs[0])
      >>> bound = jax.jit(functools.partial(update, objective, optimizer))
      >>> state, info = bound(state, rollout)
      >>> int(state.step), int(info["env_steps"])
      (1, 3)
    """
    check_type(state, TrainState)
    chunks, n, info = batches.prepare(objective, state.params, rollout)
    coef = actor_critic.entropy_coef_at(objective, state.step)
    before = batches.moments_before(objective, state.params, chunks)

    def loss(trained: Params, chunk: Batch) -> tuple[jax.Array, Terms]:
        return chunk_loss(objective, {**state.params, **trained}, coef, chunk)

    summed = gradients.sum_gradients(
        loss,
        actor_critic.trained(objective, state.params),
        chunks,
        batches.count_real(chunks.weight),
        objective.sharding,
        add=functools.partial(batches.moment_sums, before),
    )
    state, grad_norm = gradients.step_along(objective, optimizer, state, summed, n)
    params = {**state.params, **batches.merge_moments(before, summed.added)}
    info = batches.loss_info(summed.terms, n, info) | {"grad_norm": grad_norm}
    return state._replace(params=params, step=state.step + 1), info


def chunk_loss(
    objective: Objective, params: Params, entropy_coef: Any, chunk: Batch
) -> tuple[jax.Array, Terms]:
    """Return weighted sums over the rows of a chunk: of the loss, and of its terms by name.

    Use it under `sum_chunks`, to sum a loss or its gradient over a batch.

    Args:
      objective: an Objective; see `reinforce`.
      params: variables of policy and critic, as in `TrainState.params`.
      entropy_coef: [] float; a Python float of 0 leaves the entropy out of the loss.
      chunk: leaves [chunk_size, ...].

    Returns:
      (sum of the loss [], sums [] of policy_loss, entropy and, with a critic, value_loss).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import pgjax
      >>> from pgjax.algorithms.actor_critic import Objective
      >>> from pgjax.algorithms.batches import Batch
      >>> policy, estimator = pgjax.SoftmaxPolicy(2, ()), pgjax.advantages.reward_to_go(gamma=1.0)
      >>> objective = Objective(policy, estimator, estimator.value_target)
      >>> chunk = Batch(
      ...     obs=np.ones((3, 4)), action=np.zeros(3, int), weight=np.array([1.0, 1.0, 0.0]),
      ...     advantage=np.array([1.0, 2.0, 9.0]), target=np.zeros(3), returns=None,
      ... )
      >>> params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0), chunk.obs))
      >>> total, _ = chunk_loss(objective, params, 0.0, chunk)
      >>> round(float(total), 3)  # (1 + 2) log 2
      2.079
    """
    return gradients.loss_sums(
        objective,
        params,
        entropy_coef,
        chunk,
        lambda log_p: {"policy_loss": losses.policy_gradient_loss(log_p, chunk.advantage)},
        lambda value: losses.value_loss(value, chunk.target),
    )
