"""`reinforce(...)` ties policy, estimator, critic and optimiser into an Algorithm."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from pgjax import losses
from pgjax.advantages import Estimator, normalized, reward_to_go
from pgjax.chunks import CHUNK_SIZE, Sharding, join_rows, split_rows, sum_chunks
from pgjax.errors import ConfigError
from pgjax.metrics import episode_info, explained_variance
from pgjax.types import Algorithm, Info, Params, Rollout, TrainState, zero_padding


class _Objective(NamedTuple):
    """What the loss is made of."""

    policy: nn.Module
    critic: nn.Module | None
    estimator: Estimator
    entropy_coef: float
    value_coef: float
    mean_over: str
    chunk_size: int | None
    sharding: Sharding


class _Batch(NamedTuple):
    """Rows ready for the loss; nothing in it depends on what is differentiated."""

    obs: jax.Array
    action: jax.Array
    weight: jax.Array
    advantage: jax.Array
    target: jax.Array  # what the critic is fitted to; zero without one


def _check_key(key: jax.Array) -> None:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ConfigError("a typed key is needed: jax.random.key(seed), not PRNGKey(seed)")


def _critic_params(params: Params) -> Params:
    return {"params": params["critic"]}


def reinforce(
    policy: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator | None = None,
    critic: nn.Module | None = None,
    entropy_coef: float = 0.0,
    value_coef: float = 0.5,
    mean_over: str = "episodes",
    chunk_size: int | None = CHUNK_SIZE,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Algorithm:
    """REINFORCE, with or without a critic, as five pure, jitted functions.

    The loss is (sum over real steps of
        -stop_gradient(advantage) log_prob + value_coef (V - target)^2 / 2 - entropy_coef entropy
    ) / N, with N the number of episodes or of real steps.

    Args:
      policy: a Flax module, policy.apply(params, obs [..., d]) -> a distribution.
      optimizer: any optax transformation; it sees the critic's parameters too.
      estimator: (rollout, value, next_value) -> advantage [T, B]; by default
        normalized(reward_to_go(gamma=0.99)), the lesson's.
      critic: a Flax module, critic.apply(params, obs [..., d]) -> [...], or None.
      entropy_coef, value_coef: >= 0.
      mean_over: "episodes" or "steps": what N counts.
      chunk_size: rows summed at a time, 1 to 128 for results that do not depend on threads,
        padding or devices. None takes the batch whole, which is quicker on an accelerator and
        gives that promise up.
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
      ConfigError: for an argument out of its range, or a key that is not typed.

    Source: Williams 1992; with a critic, Sutton & Barto, 2nd ed., section 13.4.
    """
    if mean_over not in ("episodes", "steps"):
        raise ConfigError(f'mean_over must be "episodes" or "steps", got {mean_over!r}')
    if chunk_size is not None and not 1 <= chunk_size <= CHUNK_SIZE:
        raise ConfigError(f"chunk_size must be None or lie in 1..{CHUNK_SIZE}, got {chunk_size}")
    if sharding.num_shards < 1:
        raise ConfigError(f"num_shards must be at least 1, got {sharding.num_shards}")
    for name, coef in (("entropy_coef", entropy_coef), ("value_coef", value_coef)):
        if not 0.0 <= coef < float("inf"):
            raise ConfigError(f"{name} must be finite and at least 0, got {coef}")
    objective = _Objective(
        policy,
        critic,
        estimator or normalized(reward_to_go(gamma=0.99)),
        entropy_coef,
        value_coef,
        mean_over,
        chunk_size,
        sharding,
    )

    def init(key: jax.Array, obs: jax.Array) -> TrainState:
        _check_key(key)
        init_key, run_key = jax.random.split(key)
        policy_key, critic_key = jax.random.split(init_key)
        # One dict for both: Flax ignores a collection that a module does not use, so that
        # policy.apply(state.params, obs) works with and without a critic.
        params = dict(policy.init(policy_key, obs))
        if critic is not None:
            params["critic"] = critic.init(critic_key, obs)["params"]
        return TrainState(params, optimizer.init(params), run_key, jnp.zeros((), jnp.int32))

    def act(params: Params, key: jax.Array, obs: jax.Array) -> jax.Array:
        _check_key(key)
        distribution: Any = policy.apply(params, obs)
        if key.ndim == 0:
            return distribution.sample(key)
        return jax.vmap(lambda d, k: d.sample(k))(distribution, key)

    def log_prob(params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        distribution: Any = policy.apply(params, obs)
        return distribution.log_prob(action)

    def loss(params: Params, rollout: Rollout) -> tuple[jax.Array, Info]:
        chunks, n, info = _prepare(objective, params, rollout)
        chunk_loss = functools.partial(_chunk_loss, objective, params)
        total, sums = sum_chunks(_skip_empty(chunk_loss), chunks, sharding=objective.sharding)
        return total / n, _finish(sums, n, info)

    def update(state: TrainState, rollout: Rollout) -> tuple[TrainState, Info]:
        chunks, n, info = _prepare(objective, state.params, rollout)
        # The gradient travels as one vector: adding it up is then one operation, not one a leaf.
        _, unravel = ravel_pytree(state.params)

        def gradient(chunk: _Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
            chunk_loss = functools.partial(_chunk_loss, objective)
            grads, sums = jax.grad(chunk_loss, has_aux=True)(state.params, chunk)
            return ravel_pytree(grads)[0], sums

        total, sums = sum_chunks(gradient, chunks, _count_real(chunks), objective.sharding)

        def step(total: jax.Array, n: jax.Array) -> tuple[Params, Any, jax.Array]:
            grads = unravel(total / n.astype(total.dtype))
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return params, opt_state, optax.tree.norm(grads)

        if sharding.num_shards > 1:
            step = _in_a_branch(step, state.step >= 0)  # which is so, but XLA cannot know
        params, opt_state, grad_norm = step(total, n)
        info = _finish(sums, n, info) | {"grad_norm": grad_norm}
        return TrainState(params, opt_state, state.key, state.step + 1), info

    return Algorithm(*(jax.jit(f) for f in (init, act, log_prob, loss, update)))


def _in_a_branch(fn: Callable[..., Any], true: jax.Array) -> Callable[..., Any]:
    """`fn`, across whose border XLA fuses nothing.

    Elsewhere its rounding would depend on what stands around it, such as a gather over devices. A
    branch costs as much as the whole update of a small policy in `dispatch.updater`.
    """

    def alone(*args: Any) -> Any:
        otherwise = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, *args))
        return lax.cond(true, fn, lambda *_: otherwise, *args)

    return alone


def _prepare(
    objective: _Objective, params: Params, rollout: Rollout
) -> tuple[_Batch, jax.Array, Info]:
    """Computed once: chunks [shards, n, chunk_size, ...], what the loss is divided by, counts."""
    sharding = objective.sharding
    rollout = _fill_shards(sharding, zero_padding(rollout))
    # An estimator sees the whole batch, and so does what is told of it.
    whole, value, next_value = sharding.gather(rollout, axis=1), None, None
    if objective.critic is not None:
        values = _values(objective, params, rollout)
        value, next_value = sharding.gather(values, axis=1)
    advantage = objective.estimator(whole, value, next_value)
    info, target = episode_info(whole), jnp.zeros_like(whole.reward)
    if value is not None:
        target = inspect.unwrap(objective.estimator)(whole, value, next_value) + value
        info["explained_variance"] = explained_variance(whole.weight, value, target)
    advantage, target = sharding.mine(advantage), sharding.mine(target)
    # An estimator or a critic of a user's own may leave anything in padded slots.
    advantage, target = (jnp.where(rollout.weight > 0, x, 0.0) for x in (advantage, target))
    batch = _Batch(rollout.obs, rollout.action, rollout.weight, advantage, target)
    # At least one, so that a batch without a real step gives nothing over one.
    n = jnp.maximum(info["episodes" if objective.mean_over == "episodes" else "env_steps"], 1)
    shards = sharding.num_shards // sharding.num_devices()
    return _fill_padding(split_rows(batch, objective.chunk_size, shards)), n, info


def _fill_shards(sharding: Sharding, rollout: Rollout) -> Rollout:
    """With columns of padding, so that each shard has equally many."""
    held = rollout.reward.shape[1]
    columns = held * sharding.num_devices()
    missing = sharding.pad(columns) - columns
    if missing and sharding.axis_name is not None:
        raise ConfigError(
            f"{columns} columns on all devices do not fill {sharding.num_shards} shards evenly: "
            "pad them to a multiple, as collect_episodes_on_device does"
        )

    if not missing:
        return rollout
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), rollout
    )


def _fill_padding(chunks: _Batch) -> _Batch:
    """Copies of the first real row for the observations and actions of padded ones.

    Not zeros, which need not be possible actions: what is undefined there would give NaN gradients,
    however it is weighted.
    """
    real = chunks.weight > 0
    first = jnp.argmax(real.ravel())

    def fill(x: jax.Array) -> jax.Array:
        row = x.reshape((-1,) + x.shape[3:])[first]
        mask = real.reshape(real.shape + (1,) * (x.ndim - 3))
        return jnp.where(mask, x, jnp.broadcast_to(row, x.shape))

    return chunks._replace(obs=fill(chunks.obs), action=fill(chunks.action))


def _chunk_loss(
    objective: _Objective, params: Params, chunk: _Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sums over a chunk's rows: of the loss, and of its terms by name."""
    distribution: Any = objective.policy.apply(params, chunk.obs)
    log_p = distribution.log_prob(chunk.action)
    terms = {
        "policy_loss": losses.policy_gradient_loss(log_p, chunk.advantage),
        "entropy": distribution.entropy(),
    }
    total = terms["policy_loss"]
    if objective.entropy_coef:  # not 0 * entropy, which is NaN where the entropy is infinite
        total = total - objective.entropy_coef * terms["entropy"]
    if objective.critic is not None:
        value: Any = objective.critic.apply(_critic_params(params), chunk.obs)
        terms["value_loss"] = losses.value_loss(value, chunk.target)
        total = total + objective.value_coef * terms["value_loss"]
    return _weighted_sums((total, terms), chunk.weight)


def _finish(sums: dict[str, jax.Array], n: jax.Array, info: Info) -> Info:
    """The policy's loss over n as in the loss, other terms as means over real steps."""
    steps = jnp.maximum(info["env_steps"], 1)
    return info | {name: sums[name] / (n if name == "policy_loss" else steps) for name in sums}


def _skip_empty(fn: Any) -> Any:
    """`fn`, but zeros at once for a chunk that holds only padding."""

    def maybe(chunk: _Batch) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, chunk))
        return lax.cond(jnp.any(chunk.weight > 0), fn, lambda _: zeros, chunk)

    return maybe


def _count_real(chunks: _Batch) -> jax.Array:
    """[shards]: how many chunks there are up to the last one with a real row."""
    real = (chunks.weight > 0).any(2)
    return jnp.max(jnp.where(real, jnp.arange(1, real.shape[1] + 1), 0), 1)


def _weighted_sums(tree: Any, weight: jax.Array) -> Any:
    """Sum of weight * leaf over the real rows of a chunk, for each leaf [chunk_size]."""
    leaves, treedef = jax.tree.flatten(tree)
    weighted = jnp.where((weight > 0)[:, None], weight[:, None] * jnp.stack(leaves, -1), 0.0)
    total = weighted.sum(0)
    return jax.tree.unflatten(treedef, [total[i] for i in range(len(leaves))])


def _values(objective: _Objective, params: Params, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
    """V(obs) and V(next_obs), both [T, B], chunk by chunk so that padding changes no bit."""
    critic: Any = objective.critic
    variables, shape = _critic_params(params), rollout.reward.shape

    shards = objective.sharding.num_shards // objective.sharding.num_devices()

    def apply(obs: jax.Array) -> Any:
        chunks = split_rows(obs, objective.chunk_size, shards)
        value = lax.map(lambda shard: lax.map(lambda x: critic.apply(variables, x), shard), chunks)
        return join_rows(value, shape)

    return apply(rollout.obs), apply(rollout.next_obs)
