"""`reinforce(...)` ties policy, estimator, critic and optimiser into an Algorithm."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from pgjax import losses
from pgjax.advantages import Estimator, normalized, reward_to_go
from pgjax.algorithms.actor_critic import Objective, as_config_error, check_key, check_parts
from pgjax.algorithms.batches import Batch, count_real, prepare, skip_empty
from pgjax.errors import ConfigError
from pgjax.numerics import running_moments
from pgjax.numerics.sums import CHUNK_SIZE, Sharding, fusion_barrier, sum_chunks
from pgjax.types import Algorithm, Info, Params, Rollout, TrainState


def reinforce(
    policy: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator | None = None,
    critic: nn.Module | None = None,
    entropy_coef: float | optax.Schedule = 0.0,
    value_coef: float = 0.5,
    mean_over: str = "episodes",
    chunk_size: int | None = CHUNK_SIZE,
    scale_rewards: float | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Algorithm:
    """REINFORCE, with or without a critic, as five pure, jitted functions.

    The loss is (sum over real steps of
        -stop_gradient(advantage) log_prob + value_coef (V - target)^2 / 2 - entropy_coef entropy
    ) / N, with N the number of episodes or of real steps.

    Args:
      policy: a Flax module, policy.apply(params, obs [..., d]) -> a distribution. Wrapped in
        NormalizedObs (and the critic too) it sees observations by their running moments.
      optimizer: any optax transformation; it sees the critic's parameters too.
      estimator: (rollout, value, next_value) -> advantage [T, B]; by default
        normalized(reward_to_go(gamma=0.99)), the lesson's.
      critic: a Flax module, critic.apply(params, obs [..., d]) -> [...], or None.
      entropy_coef, value_coef: >= 0. The first may be an optax schedule, of the updates made so
        far; `loss`, which does not know them, takes its value at 0.
      mean_over: "episodes" or "steps": what N counts.
      chunk_size: rows summed at a time, 1 to 128 for results that do not depend on threads,
        padding or devices. None takes the batch whole, which is quicker on an accelerator and
        gives that promise up.
      scale_rewards: None, or a discount in [0, 1]: an estimator then sees rewards over the root
        mean square of all returns-to-go, so discounted, of the updates before.
      sharding: with Sharding(num_shards) the columns of a rollout are grouped, in order, into so
        many shards that are each summed alone; what the sums round to depends on it. With
        Sharding(num_shards, axis_name) as many devices, or a divisor of them, share the columns:
        each device of that mapped axis (jax.shard_map) holds equally many, in order, as
        `collect_episodes_on_device` gives them. `loss` and `update` are then to be called under the
        mapping, and give the same on every device, and the same bits whatever their number. A
        gradient of `loss` taken there is of the sum over devices of each one's part: its lax.pmean
        is the gradient.

    Returns:
      Algorithm(init, act, log_prob, loss, update). `init` takes a typed key and one observation or
      a batch of them; the key is split, one half initialises and the other becomes state.key.
      `act` takes one key for all rows of obs or a batch of keys [B], one for each row, and consumes
      them. `loss` may be differentiated with respect to params. `update` makes one optimiser step.

    Raises:
      ConfigError: for an argument out of its range; from `init` for a key that is not typed, and
        for parts that do not fit: a policy or critic that does not give one number for each row, an
        estimator that needs what is missing, such as a critic.

    Source: Williams 1992; with a critic, Sutton & Barto, 2nd ed., section 13.4.
    """
    if mean_over not in ("episodes", "steps"):
        raise ConfigError(f'mean_over must be "episodes" or "steps", got {mean_over!r}')
    if chunk_size is not None and not 1 <= chunk_size <= CHUNK_SIZE:
        raise ConfigError(f"chunk_size must be None or lie in 1..{CHUNK_SIZE}, got {chunk_size}")
    if sharding.num_shards < 1:
        raise ConfigError(f"num_shards must be at least 1, got {sharding.num_shards}")
    if scale_rewards is not None and not 0.0 <= scale_rewards <= 1.0:
        raise ConfigError(f"scale_rewards must be None or lie in [0, 1], got {scale_rewards}")
    for name, coef in (("entropy_coef", entropy_coef), ("value_coef", value_coef)):
        if not callable(coef) and not 0.0 <= coef < float("inf"):
            raise ConfigError(f"{name} must be finite and at least 0, got {coef}")
    if not callable(entropy_coef):
        entropy_coef = float(entropy_coef)
    objective = Objective(
        policy,
        critic,
        estimator or normalized(reward_to_go(gamma=0.99)),
        entropy_coef,
        value_coef,
        mean_over,
        chunk_size,
        scale_rewards,
        sharding,
    )

    def init(key: jax.Array, obs: jax.Array) -> TrainState:
        check_key(key)
        init_key, run_key = jax.random.split(key)
        policy_key, critic_key = jax.random.split(init_key)
        # One dict for both: Flax ignores a collection that a module does not use, so that
        # policy.apply(state.params, obs) works with and without a critic.
        with as_config_error(type(policy).__name__, "a policy takes observations [..., d]"):
            params = dict(policy.init(policy_key, obs))
        if critic is not None:
            with as_config_error(type(critic).__name__, "a critic takes observations [..., d]"):
                of_critic = dict(critic.init(critic_key, obs))
            params["critic"] = of_critic.pop("params", {})
            if both := (params.keys() & of_critic.keys()) - {running_moments.OBS}:
                raise ConfigError(f"policy and critic both keep a collection {sorted(both)}")
            params |= of_critic
        if scale_rewards is not None:
            params[running_moments.RETURNS] = running_moments.nothing_seen(1)
        check_parts(objective, params, obs)
        opt_state = optimizer.init(running_moments.trained(params))
        return TrainState(params, opt_state, run_key, jnp.zeros((), jnp.int32))

    def act(params: Params, key: jax.Array, obs: jax.Array) -> jax.Array:
        check_key(key)
        distribution: Any = policy.apply(params, obs)
        if key.ndim == 0:
            return distribution.sample(key)
        return jax.vmap(lambda d, k: d.sample(k))(distribution, key)

    def log_prob(params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        distribution: Any = policy.apply(params, obs)
        return distribution.log_prob(action)

    def loss(params: Params, rollout: Rollout) -> tuple[jax.Array, Info]:
        chunks, n, info = prepare(objective, params, rollout)
        chunk_loss = functools.partial(_chunk_loss, objective, params, coef_at(0))
        total, sums = sum_chunks(skip_empty(chunk_loss), chunks, sharding=objective.sharding)
        return total / n, _finish(sums, n, info)

    def update(state: TrainState, rollout: Rollout) -> tuple[TrainState, Info]:
        chunks, n, info = prepare(objective, state.params, rollout)
        trained, coef = running_moments.trained(state.params), coef_at(state.step)
        known = _known(objective, state.params, chunks)
        # The gradient travels as one vector: adding it up is then one operation, not one a leaf.
        _, unravel = ravel_pytree(trained)

        def gradient(chunk: Batch) -> Any:
            def loss(trained: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
                return _chunk_loss(objective, {**state.params, **trained}, coef, chunk)

            grads, sums = jax.grad(loss, has_aux=True)(trained)
            return ravel_pytree(grads)[0], sums, _seen(known, chunk)

        total, sums, seen = sum_chunks(gradient, chunks, count_real(chunks), objective.sharding)

        def step(total: jax.Array, n: jax.Array) -> tuple[Params, Any, jax.Array]:
            grads = unravel(total / n.astype(total.dtype))
            updates, opt_state = optimizer.update(grads, state.opt_state, trained)
            params = optax.apply_updates(trained, updates)
            return params, opt_state, optax.tree.norm(grads)

        if sharding.num_shards > 1:
            step = fusion_barrier(step, state.step >= 0)  # which is so, but XLA cannot know
        params, opt_state, grad_norm = step(total, n)
        kept = {name: running_moments.merge(known[name], sums) for name, sums in seen.items()}
        info = _finish(sums, n, info) | {"grad_norm": grad_norm}
        params = {**state.params, **params, **kept}
        return TrainState(params, opt_state, state.key, state.step + 1), info

    def coef_at(step: jax.Array | int) -> Any:
        return entropy_coef(step) if callable(entropy_coef) else entropy_coef

    return Algorithm(*(jax.jit(f) for f in (init, act, log_prob, loss, update)))


def _rows(batch: Batch) -> dict[str, jax.Array]:
    """What the moments are of: rows [..., d]."""
    rows = {running_moments.OBS: batch.obs}
    if batch.returns is not None:
        rows[running_moments.RETURNS] = batch.returns[..., None]
    return rows


def _known(
    objective: Objective, params: Params, chunks: Batch
) -> dict[str, running_moments.Moments]:
    """The moments that are kept; before anything was seen about the very first row."""
    first = {name: x[0, 0, :1] for name, x in _rows(chunks).items() if name in params}
    first = objective.sharding.gather(first)
    return {name: running_moments.centred_on(params[name], x[0]) for name, x in first.items()}


def _seen(
    known: dict[str, running_moments.Moments], chunk: Batch
) -> dict[str, running_moments.Moments]:
    """What a chunk adds to each of them."""
    rows = _rows(chunk)
    return {
        name: running_moments.weighted_sums(of, rows[name], chunk.weight)
        for name, of in known.items()
    }


def _chunk_loss(
    objective: Objective, params: Params, entropy_coef: Any, chunk: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sums over a chunk's rows: of the loss, and of its terms by name."""
    distribution: Any = objective.policy.apply(params, chunk.obs)
    log_p = distribution.log_prob(chunk.action)
    terms = {
        "policy_loss": losses.policy_gradient_loss(log_p, chunk.advantage),
        "entropy": distribution.entropy(),
    }
    total = terms["policy_loss"]
    # Not 0 * entropy, which is NaN where the entropy is infinite.
    if not isinstance(entropy_coef, float) or entropy_coef:
        total = total - entropy_coef * terms["entropy"]
    if objective.critic is not None:
        value: Any = objective.critic.apply(running_moments.of_critic(params), chunk.obs)
        terms["value_loss"] = losses.value_loss(value, chunk.target)
        total = total + objective.value_coef * terms["value_loss"]
    return _weighted_sums((total, terms), chunk.weight)


def _finish(sums: dict[str, jax.Array], n: jax.Array, info: Info) -> Info:
    """The policy's loss over n as in the loss, other terms as means over real steps."""
    steps = jnp.maximum(info["env_steps"], 1)
    return info | {name: sums[name] / (n if name == "policy_loss" else steps) for name in sums}


def _weighted_sums(tree: Any, weight: jax.Array) -> Any:
    """Sum of weight * leaf over the real rows of a chunk, for each leaf [chunk_size]."""
    leaves, treedef = jax.tree.flatten(tree)
    weighted = jnp.where((weight > 0)[:, None], weight[:, None] * jnp.stack(leaves, -1), 0.0)
    total = weighted.sum(0)
    return jax.tree.unflatten(treedef, [total[i] for i in range(len(leaves))])
