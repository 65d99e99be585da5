"""The on-device engine: whole episodes of a functional environment inside one compiled program.

The episodes are the Python loop's: by number, with its seeds, its noise and its way of acting on
rows. All of an update start together, and steps are taken in blocks until the last is over, so that
short episodes early in training do not cost what the longest possible would. The noise of a block
is drawn at once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pgjax.collect.noise import episode_keys, noise_at, reset_seeds, split_noise
from pgjax.collect.policy_fit import check_action, choices_of, raw_actions
from pgjax.envs import base, wrappers
from pgjax.errors import ConfigError
from pgjax.numerics.sums import Sharding, max_over_vmap
from pgjax.types import Algorithm, Info, Params, Rollout, TrainState

_BLOCK = 64  # steps at most between two looks at whether all episodes are over
# The policy acts on this many rows at a time: a batch of another size may be computed, and so
# rounded, another way. Blocks of 8 to 40 rows were seen to agree, with each other and with the
# Python loop's.
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
    """Run whole episodes of a functional environment, each until it is terminated or truncated.

    Pure and jittable; compiled as it is. Episode e of a run, e = state.step * num_episodes + b, is
    column b. Its environment is reset with a key made of a seed hashed from (state.key, e), and it
    acts at time t with fold_in(fold_in(state.key, e), t): as in `collect_episodes`, which gives the
    same for `pgjax.envs.as_gymnasium(env)` (with `squash`, to rounding). state.key is not consumed.

    Args:
      env: with a time limit.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      num_episodes: columns of the rollout, at least 1.
      squash: give the environment tanh of the raw action, scaled to the bounds of a Box, instead of
        clipping it.
      sharding: with an axis_name of a mapped axis (jax.shard_map) the columns are divided among its
        devices.

    Returns:
      Rollout [T, num_episodes, ...], T at least the time limit, with observations flattened. What
      stands in padded slots is arbitrary. With an axis_name, this device's columns: equally many
      on each, the last ones all padding where the episodes do not fill the shards.

    Raises:
      ConfigError: no time limit; reset and step that do not fit; num_episodes below 1; devices
        that do not divide the shards.
      SpaceError: a policy that does not fit the action space.
    """
    if not isinstance(num_episodes, int) or num_episodes < 1:
        raise ConfigError(f"num_episodes must be an integer of at least 1, got {num_episodes!r}")
    if env.max_episode_steps is None:
        raise ConfigError(
            "the environment has no time limit, and the compiled loop needs one: "
            "pgjax.envs.time_limit(env, max_episode_steps)"
        )
    base.check(env)
    return _collect(env, algorithm.act, state, num_episodes, squash, sharding)


def training_step(
    algorithm: Algorithm,
    env: base.Env,
    num_episodes: int,
    *,
    squash: bool = False,
    sharding: Sharding = Sharding(),  # noqa: B008  (immutable)
) -> Callable[[TrainState], tuple[TrainState, Info]]:
    """Collecting and updating as one pure function, (TrainState) -> (TrainState, Info).

    Jit it, scan it for many updates in one dispatch, `lax.map` or `vmap` it over seeds (the first
    keeps the bits of a single run if there are two shards or more, the second rounds otherwise and
    is quicker), or shard it: with the `sharding` that `reinforce` was given, under jax.shard_map
    with a replicated state.

    Args: as of `collect_episodes_on_device`.
    """

    def step(state: TrainState) -> tuple[TrainState, Info]:
        rollout = collect_episodes_on_device(
            env, algorithm, state, num_episodes, squash=squash, sharding=sharding
        )
        return algorithm.update(state, rollout)

    return step


def init_on_device(algorithm: Algorithm, env: base.Env, key: jax.Array) -> TrainState:
    """The TrainState to begin with, for the environment's observations."""
    space = wrappers.flatten_observations(env).observation_space
    return algorithm.init(key, jnp.zeros(space.shape, space.dtype))


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 4, 5))
def _collect(
    env: base.Env,
    act: Callable[[Params, jax.Array, jax.Array], jax.Array],
    state: TrainState,
    num_episodes: int,
    squash: bool,
    sharding: Sharding,
) -> Rollout:
    limit: Any = env.max_episode_steps
    env = wrappers.bound_actions(wrappers.flatten_observations(env), squash)
    num_blocks = -(-limit // _BLOCK)
    size = -(-limit // num_blocks)

    column, columns = _share(num_episodes, sharding)
    # More than are asked for are simulated, to fill the policy's rows; those are over already.
    width = -(-columns // 8) * 8 if columns <= _ROWS else -(-columns // _ROWS) * _ROWS
    numbers = column + jnp.arange(width, dtype=jnp.uint32)
    over = (jnp.arange(width) >= columns) | (numbers >= num_episodes)
    first = jnp.asarray(state.step).astype(jnp.uint32) * num_episodes
    keys = episode_keys(state.key, first + numbers)
    reset_keys, step_keys = jax.vmap(base.environment_keys)(reset_seeds(keys))
    env_state, obs = jax.vmap(env.reset)(reset_keys)
    like, choices = choices_of(act, state.params, state.key, obs[0])
    check_action(raw_actions(env.action_space), like, choices)
    draw, act_on = split_noise(act, state.params, state.key, obs[0])
    act_on_rows = _in_blocks(act_on, state.params, width)

    def step(carry: Any, x: Any) -> tuple[Any, Rollout]:
        env_state, obs, over = carry
        time, noise = x
        action = act_on_rows(noise, obs)
        now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(step_keys, time)
        result = jax.vmap(env.step)(now, env_state, action)
        env_state, next_obs, reward, terminated, truncated = result
        truncated = truncated | (time + 1 >= limit)
        weight, reward = (~over).astype(jnp.float32), reward.astype(jnp.float32)
        row = Rollout(obs, action, reward, terminated, truncated, next_obs, weight)
        return (env_state, next_obs, over | terminated | truncated), row

    def block(carry: Any) -> Any:
        i, inner, log = carry
        times = i * size + jnp.arange(size, dtype=jnp.uint32)
        noise = noise_at(draw, keys, times, time_axis=0)
        inner, rows = lax.scan(step, inner, (times, noise))
        put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
        return i + 1, inner, jax.tree.map(put, log, rows)

    def unfinished(carry: Any) -> jax.Array:
        i, (_, _, over), _ = carry
        return (i < num_blocks) & max_over_vmap(~over.all())

    begin = (env_state, obs, over)
    some_noise = noise_at(draw, keys, jnp.zeros(1, jnp.uint32), time_axis=0)
    xs = (jnp.zeros(1, jnp.uint32), some_noise)
    _, like = jax.eval_shape(lambda carry, xs: lax.scan(step, carry, xs), begin, xs)
    log = jax.tree.map(lambda x: jnp.zeros((num_blocks, size, *x.shape[1:]), x.dtype), like)
    log = lax.while_loop(unfinished, block, (jnp.uint32(0), begin, log))[2]
    return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:])[:, :columns], log)


def _share(num_episodes: int, sharding: Sharding) -> tuple[jax.Array, int]:
    """(the first of this device's columns, how many there are)."""
    if sharding.axis_name is None:
        return jnp.uint32(0), num_episodes
    columns = sharding.pad(num_episodes) // sharding.num_devices()
    return lax.axis_index(sharding.axis_name).astype(jnp.uint32) * columns, columns


def _in_blocks(
    act_on: Callable[[Params, Any, jax.Array], jax.Array], params: Params, width: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """(noise, obs [width, d]) -> actions [width, ...], in blocks of rows.

    Every block has a copy of the parameters, so that XLA makes a product for each, not one of all.
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
