"""Collect whole episodes of a functional environment inside one compiled program.

The episodes are those of the Python loop, with the same numbers, seeds and noise. All episodes of
an update start together, and blocks of steps run until the last episode has ended, so that short
episodes early in training cost less than the longest possible ones. The noise of a block is drawn
in one operation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.collect.noise import Noise, episode_keys, noise_at, reset_seeds, split_noise
from pgjax.collect.policy_fit import check_action, choices_of, raw_actions
from pgjax.envs import base, wrappers
from pgjax.errors import ConfigError, check_count
from pgjax.numerics.dtypes import standard_promotion
from pgjax.numerics.sums import Sharding, check_sharding, max_over_vmap
from pgjax.types import (
    Algorithm,
    Params,
    Rollout,
    TrainState,
    check_type,
)

# The carry of a step: states of n environments, observations [n, d], whether they have ended [n].
_Carry = tuple[Any, jax.Array, jax.Array]

_BLOCK = 64  # at most this many steps between two checks of whether all episodes have ended
# The policy acts on this many rows at a time, since a batch of another size may be computed, and so
# rounded, differently. In all tests, blocks of 8 to 40 rows gave the same bits as each other and as
# the Python loop.
_ROWS = 32


def collect_episodes_on_device(
    env: base.Env,
    algorithm: Algorithm,
    state: TrainState,
    num_episodes: int,
    *,
    squash: bool = False,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Rollout:
    """Collect whole episodes of a functional environment, each until terminated or truncated.

    Use it for environments written in JAX: nothing leaves the device between two steps. It is pure
    and jittable, and compiles itself if it is called outside jit.

    Column b of the rollout is episode e = state.step * num_episodes + b of the run. Its environment
    is reset with a key made from a seed hashed from (state.key, e), and its action at time t is
    drawn with the key fold_in(fold_in(state.key, e), t). `collect_episodes` does the same, and
    returns the same rollout for `pgjax.envs.as_gymnasium(env)` (with `squash`, up to rounding).
    state.key is not consumed.

    Args:
      env: an environment with a time limit.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      num_episodes: number of columns, at least 1.
      squash: give the environment tanh of the raw action, scaled to the bounds of a Box, instead of
        clipping it.
      sharding: with the axis_name of a mapped axis (jax.shard_map), the columns are divided among
        its devices.

    Returns:
      Rollout [T, num_episodes, ...], with T at least the time limit and observations flattened.
      Padding holds arbitrary values. With an axis_name, each device returns its own columns, all of
      them equally many; the last ones are all padding if the episodes do not fill the shards.

    Raises:
      ConfigError: an argument has the wrong type; there is no time limit; reset and step do not fit
        each other; num_episodes is not an integer of at least 1; or the number of devices does not
        divide that of the shards.
      SpaceError: the policy does not fit the action space.

    Example:
      >>> import jax, optax, pgjax
      >>> env = pgjax.envs.make("Pendulum-v1", max_episode_steps=8)
      >>> algorithm = pgjax.reinforce(pgjax.GaussianPolicy(1, (4,)), optax.adam(0.01))
      >>> state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
      >>> rollout = pgjax.collect_episodes_on_device(env, algorithm, state, num_episodes=3)
      >>> rollout.obs.shape  # [T, B, d]
      (8, 3, 3)
      >>> rollout.weight.sum(0).tolist()  # length of each episode
      [8.0, 8.0, 8.0]
    """
    num_episodes = check_count("num_episodes", num_episodes)
    base.check_env(env)
    check_type(algorithm, Algorithm)
    check_type(state, TrainState)
    check_sharding(sharding)
    if env.max_episode_steps is None:
        raise ConfigError(
            "the environment has no time limit, and the compiled loop needs one: "
            "pgjax.envs.time_limit(env, max_episode_steps)"
        )
    base.check(env)
    return _collect(env, algorithm.act, state, num_episodes, squash, sharding)


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 4, 5))
@standard_promotion
def _collect(
    env: base.Env,
    act: Callable[[Params, jax.Array, jax.Array], jax.Array],
    state: TrainState,
    num_episodes: int,
    squash: bool,
    sharding: Sharding,
) -> Rollout:
    env = wrappers.bound_actions(wrappers.flatten_observations(env), squash)
    column, columns = share(num_episodes, sharding)
    width = width_of(columns)  # extra episodes count as ended from the start
    numbers = column + jnp.arange(width, dtype=jnp.uint32)
    over = (jnp.arange(width) >= columns) | (numbers >= num_episodes)
    first = jnp.asarray(state.step).astype(jnp.uint32) * num_episodes
    keys = episode_keys(state.key, first + numbers)
    reset_keys, step_keys = jax.vmap(base.environment_keys)(reset_seeds(keys))
    env_state, obs = jax.vmap(env.reset)(reset_keys)
    check_policy(env, act, state, obs[0])
    draw, act_on = split_noise(act, state.params, state.key, obs[0])
    step = _vector_step(env, act_in_blocks(act_on, state.params, width), step_keys)

    def noise(times: jax.Array) -> Noise:
        return noise_at(draw, keys, times, time_axis=0)

    log = _run(step, noise, (env_state, obs, over), env.max_episode_steps)
    return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:])[:, :columns], log)


def _vector_step(
    env: base.Env, act: Callable[[Noise, jax.Array], jax.Array], step_keys: jax.Array
) -> Callable[[_Carry, tuple[jax.Array, Noise]], tuple[_Carry, Rollout]]:
    """Return one step of all environments, for lax.scan: its row of the rollout is [n, ...]."""
    limit: Any = env.max_episode_steps

    def step(carry: _Carry, x: tuple[jax.Array, Noise]) -> tuple[_Carry, Rollout]:
        env_state, obs, over = carry
        time, noise = x
        action = act(noise, obs)
        now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(step_keys, time)
        result = jax.vmap(env.step)(now, env_state, action)
        env_state, next_obs, reward, terminated, truncated = result
        truncated = truncated | (time + 1 >= limit)
        weight, reward = (~over).astype(jnp.float32), reward.astype(jnp.float32)
        row = Rollout(obs, action, reward, terminated, truncated, next_obs, weight)
        return (env_state, next_obs, over | terminated | truncated), row

    return step


def _run(
    step: Callable[[_Carry, tuple[jax.Array, Noise]], tuple[_Carry, Rollout]],
    noise: Callable[[jax.Array], Noise],
    begin: _Carry,
    limit: Any,
) -> Rollout:
    """Step in blocks until all episodes have ended.

    Args:
      step: one step of all environments.
      noise: times [T] -> noise [T, n, ...].
      begin: the carry before the first step.
      limit: the longest possible episode, in steps.

    Returns:
      Rollout [blocks, steps of a block, n, ...], zero after the last block that was run.
    """
    num_blocks = -(-limit // _BLOCK)
    size = -(-limit // num_blocks)

    def block(carry: Any) -> Any:
        i, inner, log = carry
        times = i * size + jnp.arange(size, dtype=jnp.uint32)
        inner, rows = lax.scan(step, inner, (times, noise(times)))
        put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
        return i + 1, inner, jax.tree.map(put, log, rows)

    def unfinished(carry: Any) -> jax.Array:
        i, (_, _, over), _ = carry
        return (i < num_blocks) & max_over_vmap(~over.all())

    some_noise = noise(jnp.zeros(1, jnp.uint32))
    xs = (jnp.zeros(1, jnp.uint32), some_noise)
    _, like = jax.eval_shape(lambda carry, xs: lax.scan(step, carry, xs), begin, xs)
    log = jax.tree.map(lambda x: jnp.zeros((num_blocks, size, *x.shape[1:]), x.dtype), like)
    return lax.while_loop(unfinished, block, (jnp.uint32(0), begin, log))[2]


def check_policy(env: base.Env, act: Callable[..., Any], state: TrainState, obs: Any) -> None:
    """Raise SpaceError unless the actions for an observation [d] fit those that an env accepts."""
    like, choices = choices_of(act, state.params, state.key, obs)
    check_action(raw_actions(env.action_space), like, choices)


def width_of(columns: int) -> int:
    """Return how many rows the policy acts on for so many columns: whole blocks of rows."""
    return -(-columns // 8) * 8 if columns <= _ROWS else -(-columns // _ROWS) * _ROWS


def share(num_episodes: int, sharding: Sharding) -> tuple[jax.Array, int]:
    """Return the first of this device's columns, and how many columns it has."""
    if sharding.axis_name is None:
        return jnp.uint32(0), num_episodes
    columns = sharding.pad(num_episodes) // sharding.num_devices()
    return lax.axis_index(sharding.axis_name).astype(jnp.uint32) * columns, columns


def act_in_blocks(
    act_on: Callable[[Params, Any, jax.Array], jax.Array], params: Params, width: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """Return (noise, obs [width, d]) -> actions [width, ...], which acts on blocks of rows.

    Every block has its own copy of the parameters, so that XLA computes one product per block
    instead of one for all rows.
    """
    on_rows = jax.vmap(act_on, in_axes=(None, 0, 0))
    if width <= _ROWS:
        return functools.partial(on_rows, params)
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (width // _ROWS, *x.shape)), params)

    def act(noise: Any, obs: jax.Array) -> jax.Array:
        blocks = jax.tree.map(lambda x: x.reshape((-1, _ROWS) + x.shape[1:]), (noise, obs))
        action = jax.vmap(on_rows)(copies, *blocks)
        return action.reshape((width,) + action.shape[2:])

    return act
