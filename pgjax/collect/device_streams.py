"""Collect streams of steps of a functional environment inside one compiled program.

Environments run side by side and begin a new episode whenever one ends, so that every rollout has
the same number of steps. What continues from one rollout to the next is a `DeviceStream`, a pytree
that can be saved with the TrainState: a resumed run continues in the middle of its episodes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.collect.noise import Noise, episode_keys, noise_at, reset_seeds, split_noise
from pgjax.collect.on_device import act_in_blocks, check_policy, share, width_of
from pgjax.envs import base, wrappers
from pgjax.errors import ConfigError, check_count
from pgjax.numerics.dtypes import standard_promotion
from pgjax.numerics.sums import Sharding, check_sharding, sum_rows
from pgjax.types import Algorithm, Info, Params, Rollout, TrainState, check_type, type_name

_STREAM = 2**32 - 3  # the keys of a run's episodes fold in smaller numbers


class Finished(NamedTuple):
    """Statistics of the episodes that ended in each column: leaves [N]."""

    episodes: jax.Array  # int32
    total_return: jax.Array  # float32, as the next two: sums of rewards, without a discount
    min_return: jax.Array
    max_return: jax.Array
    total_length: jax.Array  # int32, as the next two: in steps
    min_length: jax.Array
    max_length: jax.Array
    truncated: jax.Array  # int32: how many of them


class DeviceStream(NamedTuple):
    """Environments on the device that begin a new episode whenever one ends.

    `init_stream` returns one, and `collect_steps_on_device` continues it. N is the number of
    environments.

    Example:
      >>> import jax, pgjax
      >>> env = pgjax.envs.make("CartPole-v1")
      >>> stream = pgjax.init_stream(env, jax.random.key(0), num_envs=3)
      >>> stream.obs.shape, stream.length.tolist()
      ((3, 4), [0, 0, 0])
    """

    env_state: Any  # leaves [N, ...]
    obs: jax.Array  # [N, d]: what the policy acts on next
    total: jax.Array  # [N] float32: sum of the rewards of the running episode
    length: jax.Array  # [N] int32: steps of the running episode
    ended: jax.Array  # [N] int32: episodes that ended in the last rollout
    finished: Finished  # of each column's last rollout in which an episode ended


def init_stream(
    env: base.Env,
    key: jax.Array,
    num_envs: int,
    *,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> DeviceStream:
    """Reset environments on the device, for `collect_steps_on_device`.

    Use it once at the beginning of a run. It is pure and jittable, and compiles itself if it is
    called outside jit.

    Args:
      env: a functional environment.
      key: a typed key [], such as `state.key`, which may be used again: the keys of the
        environments differ from all keys that other functions derive from it.
      num_envs: number of environments, at least 1.
      sharding: as in `collect_steps_on_device`.

    Returns:
      DeviceStream; with an axis_name, each device returns its own environments.

    Raises:
      ConfigError: an argument has the wrong type, reset and step do not fit each other, or num_envs
        is not an integer of at least 1, or not a multiple of the number of shards on several
        devices.

    Example:
      >>> import jax, pgjax
      >>> env = pgjax.envs.make("Pendulum-v1")
      >>> pgjax.init_stream(env, jax.random.key(0), num_envs=2).obs.shape
      (2, 3)
    """
    num_envs = check_count("num_envs", num_envs)
    base.check_env(env)
    check_sharding(sharding)
    base.check(env)
    return _begin(env, num_envs, sharding, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(env: base.Env, num_envs: int, sharding: Sharding, key: jax.Array) -> DeviceStream:
    column, columns = _share(num_envs, sharding)
    # On as many rows as `_collect` has: a single one would be computed, and rounded, differently.
    rows = jnp.arange(width_of(columns), dtype=jnp.uint32)
    keys = episode_keys(jax.random.fold_in(key, _STREAM), column + rows)
    reset_keys, _ = jax.vmap(base.environment_keys)(reset_seeds(keys))
    begun = jax.vmap(wrappers.flatten_observations(env).reset)(reset_keys)
    env_state, obs = jax.tree.map(lambda x: x[:columns], begun)
    total, count = jnp.zeros(columns), jnp.zeros(columns, jnp.int32)
    none = Finished(count, total, total, total, count, count, count, count)
    return DeviceStream(env_state, obs, total, count, count, none)


def collect_steps_on_device(
    env: base.Env,
    algorithm: Algorithm,
    state: TrainState,
    stream: DeviceStream,
    num_steps: int,
    *,
    squash: bool = False,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> tuple[Rollout, DeviceStream]:
    """Collect the next `num_steps` steps of each environment of a stream.

    Use it with a critic, for rollouts of a fixed length. It is pure and jittable, and compiles
    itself if it is called outside jit.

    Column b is environment b. Its action at time t of the rollout is drawn with the key
    fold_in(fold_in(state.key, e), t), where e = state.step * num_envs + b; the keys of its steps
    and of the episodes that begin in the rollout follow from the same numbers. So the result
    depends on the number of environments, but not on the history of the stream's keys. A column may
    hold the end of one episode and the beginning of another; where the rollout stops in the middle
    of an episode it is neither terminated nor truncated.

    Args:
      env: a functional environment, with or without a time limit.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      stream: from `init_stream` or the call before, for the same environment.
      num_steps: number of rows, at least 1.
      squash: as in `collect_episodes_on_device`.
      sharding: with the axis_name of a mapped axis (jax.shard_map), the environments are divided
        among its devices, and `stream` holds those of this device.

    Returns:
      (Rollout [num_steps, N, ...], all of weight 1, the stream after it).

    Raises:
      ConfigError: an argument has the wrong type, or num_steps is not an integer of at least 1.
      SpaceError: the policy does not fit the action space.

    Example:
      >>> import jax, optax, pgjax
      >>> env = pgjax.envs.make("Pendulum-v1")
      >>> algorithm = pgjax.reinforce(pgjax.GaussianPolicy(1, (4,)), optax.adam(0.01))
      >>> state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
      >>> stream = pgjax.init_stream(env, state.key, num_envs=2)
      >>> rollout, stream = pgjax.collect_steps_on_device(env, algorithm, state, stream, 5)
      >>> rollout.obs.shape, stream.length.tolist()  # [T, B, d], [B]
      ((5, 2, 3), [5, 5])
    """
    num_steps = check_count("num_steps", num_steps)
    base.check_env(env)
    check_type(algorithm, Algorithm)
    check_type(state, TrainState)
    check_stream(stream)
    check_sharding(sharding)
    base.check(env)
    return _collect(env, algorithm.act, state, stream, num_steps, squash, sharding)


def check_stream(stream: Any) -> None:
    """Raise ConfigError unless the argument is a DeviceStream."""
    if not isinstance(stream, DeviceStream):
        raise ConfigError(
            f"a stream on the device is needed here, from pgjax.init_stream, got "
            f"{type_name(stream)}"
        )


def finished_info(stream: DeviceStream, sharding: Sharding) -> Info:
    """Return metrics of the episodes that ended in the last rollout, of all devices.

    If none ended, the metrics are of the last rollout of each column in which one ended; before the
    first end, of the running episodes so far.
    """
    each, ended, total, length = sharding.gather(
        (stream.finished, stream.ended, stream.total, stream.length)
    )
    no = jnp.zeros_like(ended)
    running = Finished(no + 1, total, total, total, length, length, length, no)
    before = each._replace(episodes=jnp.where((ended > 0).any(), ended, each.episodes))
    each = jax.tree.map(lambda x, y: jnp.where((each.episodes > 0).any(), x, y), before, running)
    some = each.episodes > 0

    def sums(x: jax.Array) -> jax.Array:
        return jnp.where(some, x, 0)[None]

    episodes, total, length, truncated, count = sum_rows(
        (
            sums(each.episodes), sums(each.total_return), sums(each.total_length),
            sums(each.truncated), ended[None],
        )
    )  # fmt: skip
    return {
        "episodes": count.astype(jnp.int32),
        "mean_return": total / episodes,
        "min_return": jnp.min(jnp.where(some, each.min_return, jnp.inf)),
        "max_return": jnp.max(jnp.where(some, each.max_return, -jnp.inf)),
        "mean_length": length / episodes,
        "min_length": jnp.min(jnp.where(some, each.min_length, jnp.iinfo(jnp.int32).max)),
        "max_length": jnp.max(jnp.where(some, each.max_length, 0)),
        "truncated_fraction": truncated / episodes,
    }


def _share(num_envs: int, sharding: Sharding) -> tuple[jax.Array, int]:
    """Return the first of this device's environments, and how many it has."""
    if sharding.axis_name is not None and num_envs % sharding.num_shards:
        raise ConfigError(
            f"{num_envs} environments cannot be divided into {sharding.num_shards} equal shards: "
            "choose num_envs as a multiple of num_shards"
        )
    return share(num_envs, sharding)


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5, 6))
@standard_promotion
def _collect(
    env: base.Env,
    act: Callable[[Params, jax.Array, jax.Array], jax.Array],
    state: TrainState,
    stream: DeviceStream,
    num_steps: int,
    squash: bool,
    sharding: Sharding,
) -> tuple[Rollout, DeviceStream]:
    env = wrappers.bound_actions(wrappers.flatten_observations(env), squash)
    columns = len(stream.length)
    num_envs = columns * sharding.num_devices()
    column, _ = _share(num_envs, sharding)
    first = jnp.asarray(state.step).astype(jnp.uint32) * num_envs
    # Surplus environments fill the last block of rows; what they do is dropped.
    rows = jnp.arange(width_of(columns), dtype=jnp.uint32)
    keys = episode_keys(state.key, first + column + rows)
    given = stream
    stream = jax.tree.map(lambda x: x[jnp.minimum(rows, columns - 1)], given)
    env_keys = jax.vmap(base.environment_keys)(reset_seeds(keys))
    check_policy(env, act, state, stream.obs[0])
    draw, act_on = split_noise(act, state.params, state.key, stream.obs[0])
    times = jnp.arange(num_steps, dtype=jnp.uint32)
    noise = noise_at(draw, keys, times, time_axis=0)
    step = _step(env, act_in_blocks(act_on, state.params, len(rows)), env_keys)
    count, zero = jnp.zeros_like(stream.ended), jnp.zeros_like(stream.total)
    most = jnp.full_like(count, jnp.iinfo(jnp.int32).max)
    none = Finished(count, zero, zero + jnp.inf, zero - jnp.inf, count, most, count, count)
    begin = stream._replace(ended=count, finished=none)
    after, rollout = lax.scan(step, begin, (times, noise))
    after = jax.tree.map(lambda x: x[:columns], after)
    rollout = jax.tree.map(lambda x: x[:, :columns], rollout)
    ended = after.finished.episodes
    finished = jax.tree.map(
        lambda new, old: jnp.where(ended > 0, new, old), after.finished, given.finished
    )
    return rollout, after._replace(ended=ended, finished=finished)


def _step(
    env: base.Env,
    act: Callable[[Noise, jax.Array], jax.Array],
    keys: tuple[jax.Array, jax.Array],
) -> Callable[[DeviceStream, Any], tuple[DeviceStream, Rollout]]:
    """Return one step of all environments, for lax.scan: its row of the rollout is [n, ...]."""
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def step(stream: DeviceStream, x: tuple[jax.Array, Noise]) -> tuple[DeviceStream, Rollout]:
        time, noise = x
        reset_keys, step_keys = (fold_in(key, time) for key in keys)
        action = act(noise, stream.obs)
        result = jax.vmap(env.step)(step_keys, stream.env_state, action)
        env_state, next_obs, reward, terminated, truncated = result
        length, total = stream.length + 1, stream.total + reward.astype(jnp.float32)
        if env.max_episode_steps is not None:
            truncated = truncated | (length >= env.max_episode_steps)
        over, reward = terminated | truncated, reward.astype(jnp.float32)

        def begin(kept: Any) -> Any:
            def fresh(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(over.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

            return jax.tree.map(fresh, jax.vmap(env.reset)(reset_keys), kept)

        env_state, obs = lax.cond(over.any(), begin, lambda kept: kept, (env_state, next_obs))
        row = Rollout(
            stream.obs, action, reward, terminated, truncated, next_obs, jnp.ones_like(reward)
        )
        finished = _count(stream.finished, over, total, length, truncated & ~terminated)
        total, length = (jnp.where(over, 0, x) for x in (total, length))
        return DeviceStream(env_state, obs, total, length, stream.ended, finished), row

    return step


def _count(
    before: Finished, over: jax.Array, total: jax.Array, length: jax.Array, cut: jax.Array
) -> Finished:
    """Add the episodes that are over."""
    return Finished(
        before.episodes + over,
        before.total_return + jnp.where(over, total, 0.0),
        jnp.where(over, jnp.minimum(before.min_return, total), before.min_return),
        jnp.where(over, jnp.maximum(before.max_return, total), before.max_return),
        before.total_length + jnp.where(over, length, 0),
        jnp.where(over, jnp.minimum(before.min_length, length), before.min_length),
        jnp.where(over, jnp.maximum(before.max_length, length), before.max_length),
        before.truncated + (over & cut),
    )
