"""Wrappers: functions that take a functional environment and return a new one."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pgjax.envs.base import Box, Discrete, Env, Space, State, Step, check_env
from pgjax.errors import ConfigError, SpaceError, check_count
from pgjax.numerics.bounds import into_bounds


def time_limit(env: Env, max_episode_steps: int) -> Env:
    """Truncate episodes after a number of steps.

    Use it for tasks that may not terminate. When limits are nested, the smallest applies.

    Args:
      env: a functional environment.
      max_episode_steps: the limit, from 1 to 2**31 - 1.

    Returns:
      An environment whose state is (state of `env`, steps taken [] int32).

    Raises:
      ConfigError: if `env` is not a functional environment, or the limit not an integer in range.

    Example:
      >>> import pgjax
      >>> env = pgjax.envs.make("CartPole-v1")
      >>> env.max_episode_steps
      500
      >>> pgjax.envs.time_limit(env, 50).max_episode_steps
      50
    """
    check_env(env)
    max_episode_steps = check_count("max_episode_steps", max_episode_steps)
    if max_episode_steps >= 2**31:
        raise ConfigError(
            f"max_episode_steps must be at least 1 and below 2**31, got {max_episode_steps}"
        )

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state, obs = env.reset(key)
        return (state, jnp.zeros((), jnp.int32)), obs

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        inner, elapsed = state
        inner, obs, reward, terminated, truncated = env.step(key, inner, action)
        elapsed = elapsed + 1
        truncated = truncated | (elapsed >= max_episode_steps)
        return (inner, elapsed), obs, reward, terminated, truncated

    steps = min(max_episode_steps, env.max_episode_steps or max_episode_steps)
    return env._replace(reset=reset, step=step, max_episode_steps=steps)


def map_observations(env: Env, fn: Callable[[jax.Array], jax.Array], space: Space) -> Env:
    """Replace each observation `obs` by `fn(obs)`.

    Use it for your own features; see also `scale_observations` and `flatten_observations`.

    Args:
      env: a functional environment.
      fn: a pure function from an observation of `env` to one of `space`.
      space: the new observation space.

    Returns:
      An environment that differs from `env` in its observations only.

    Example:
      >>> import jax
      >>> import pgjax
      >>> env = pgjax.envs.make("CartPole-v1")
      >>> space = pgjax.envs.Box(-0.42, 0.42, (1,))
      >>> angle_only = pgjax.envs.map_observations(env, lambda obs: obs[2:3], space)
      >>> state, obs = angle_only.reset(jax.random.key(0))
      >>> obs.shape
      (1,)
    """

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state, obs = env.reset(key)
        return state, fn(obs)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        state, obs, reward, terminated, truncated = env.step(key, state, action)
        return state, fn(obs), reward, terminated, truncated

    return env._replace(reset=reset, step=step, observation_space=space)


def scale_observations(env: Env, scale: ArrayLike, offset: ArrayLike = 0.0) -> Env:
    """Replace each observation `obs` by `scale * (obs - offset)`.

    Use it where the components of an observation differ widely in size and the sizes are known.

    Args:
      env: an environment whose observation space is a Box.
      scale: a number, or an array with the shape of an observation.
      offset: a number, or an array with the shape of an observation.

    Returns:
      An environment with scaled observations and bounds. Integer observations become float32.

    Raises:
      SpaceError: if the observation space is not a Box.

    Example:
      >>> import numpy as np
      >>> import pgjax
      >>> env = pgjax.envs.make("Pendulum-v1")  # cosine, sine, speed from -8 to 8
      >>> env = pgjax.envs.scale_observations(env, np.array([1, 1, 1 / 8], np.float32))
      >>> env.observation_space.high.tolist()
      [1.0, 1.0, 1.0]
    """
    space = env.observation_space
    if not isinstance(space, Box):
        raise SpaceError(f"scale_observations needs Box observations, got {space}")
    ends = [np.asarray(scale) * (np.asarray(x, float) - offset) for x in (space.low, space.high)]
    dtype = np.float32 if np.issubdtype(space.dtype, np.integer) else space.dtype
    scaled = Box(np.minimum(*ends), np.maximum(*ends), space.shape, dtype)
    return map_observations(env, lambda obs: (obs.astype(dtype) - offset) * scale, scaled)


def flatten_observations(env: Env) -> Env:
    """Replace each observation by a vector [d]: a Box is flattened, a Discrete one-hot encoded.

    Use it for policies whose torso takes vectors.

    Args:
      env: a functional environment.

    Returns:
      An environment whose observation space is a Box [d]; one-hot vectors are float32.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from pgjax import envs
      >>> env = envs.make("CartPole-v1")
      >>> side = lambda obs: jnp.int32(obs[0] > 0)  # 0: left of the centre, 1: right of it
      >>> env = envs.map_observations(env, side, envs.Discrete(2))
      >>> state, obs = envs.flatten_observations(env).reset(jax.random.key(0))
      >>> obs.shape, float(obs.sum())
      ((2,), 1.0)
    """
    space = env.observation_space
    if isinstance(space, Discrete):
        return map_observations(
            env,
            lambda obs: jax.nn.one_hot(obs - space.start, space.n, dtype=jnp.float32),
            Box(0.0, 1.0, (space.n,)),
        )
    size = (math.prod(space.shape),)
    low, high = (np.broadcast_to(x, space.shape).reshape(size) for x in (space.low, space.high))
    return map_observations(env, jnp.ravel, Box(low, high, size, space.dtype))


def bound_actions(env: Env, squash: bool = False) -> Env:
    """Accept the raw actions of a policy and map them into the action space.

    For a Discrete space, a raw action counts from 0. For a Box, it is any vector [d], which is
    clipped to the bounds or, with `squash`, mapped into them by tanh; a Box of integers rounds it.
    Use it to step an environment by hand: the functions that collect rollouts apply it themselves.

    Args:
      env: a functional environment.
      squash: use tanh instead of clipping.

    Returns:
      An environment whose action space is Discrete from 0, or an unbounded Box [d].

    Raises:
      SpaceError: if `squash` is set and a bound is infinite.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> env = pgjax.envs.bound_actions(pgjax.envs.make("Pendulum-v1"))
      >>> key = jax.random.key(0)
      >>> state, obs = env.reset(key)
      >>> step = jax.jit(env.step)
      >>> full, clipped = (step(key, state, jnp.array([x]))[1] for x in (2.0, 50.0))
      >>> full.tolist() == clipped.tolist()
      True
    """
    space = env.action_space
    if isinstance(space, Discrete):
        raw_space: Space = Discrete(space.n)
    else:
        raw_space = Box(-np.inf, np.inf, (math.prod(space.shape),))
        finite = all(np.isfinite(x).all() for x in (space.low, space.high))
        if squash and not finite:
            raise SpaceError(f"tanh needs finite bounds, but the action space is {space}")

        low, high = (
            np.broadcast_to(x, space.shape).astype(space.dtype) for x in (space.low, space.high)
        )

    def to_space(raw: jax.Array) -> jax.Array:
        if isinstance(space, Discrete):
            return raw + space.start
        return into_bounds(jnp, raw.reshape(space.shape), low, high, squash=squash)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        return env.step(key, state, to_space(action))

    return env._replace(step=step, action_space=raw_space)
