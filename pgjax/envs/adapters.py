"""Functional environments as Gymnasium's, and those of Gymnasium, Brax and gymnax as ours."""

import dataclasses
import functools
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from pgjax.envs.base import (
    Box,
    Discrete,
    Env,
    Space,
    State,
    Step,
    check,
    environment_keys,
    time_limit,
)
from pgjax.errors import ConfigError, SpaceError


class FunctionalEnv(gym.Env):
    """A functional environment behind Gymnasium's interface; see `as_gymnasium`."""

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own attribute)

    def __init__(self, env: Env):
        self.observation_space = gymnasium_space(env.observation_space)
        self.action_space = gymnasium_space(env.action_space)
        self._limit = env.max_episode_steps
        self._reset, self._step = _compiled(env)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `seed` is 0 to 2**32 - 1."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        self._state, self._key, obs = self._reset(np.uint32(seed))
        self._time = 0
        return np.asarray(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; the time is part of the environment's randomness."""
        time, self._time = np.uint32(self._time), self._time + 1
        action = np.asarray(action, self.action_space.dtype)
        self._state, obs, reward, *ends = self._step(self._key, time, self._state, action)
        truncated = bool(ends[1]) or self._time == self._limit
        return np.asarray(obs), float(reward), bool(ends[0]), truncated, {}


@functools.lru_cache(maxsize=16)  # so that environments side by side are compiled once
def _compiled(env: Env) -> Any:
    check(env)

    @jax.jit
    def reset(seed: jax.Array) -> Any:
        reset_key, step_key = environment_keys(seed)
        state, obs = env.reset(reset_key)
        return state, step_key, obs

    @jax.jit
    def step(key: jax.Array, time: jax.Array, state: State, action: jax.Array) -> Step:
        return env.step(jax.random.fold_in(key, time), state, action)

    return reset, step


def as_gymnasium(env: Env) -> gym.Env:
    """A functional environment as a gymnasium.Env, for the Python loop.

    Reset with the seeds of a run's episodes, it gives what `collect_episodes_on_device` gives.
    """
    return FunctionalEnv(env)


def from_func_env(func_env: Any, max_episode_steps: int, params: Any = None) -> Env:
    """A Gymnasium FuncEnv (gymnasium.experimental.functional) as a functional environment.

    Args:
      func_env: its methods are called as they are, and must be traceable by JAX.
      max_episode_steps: its time limit, which FuncEnv leaves to others.
      params: for its methods; by default func_env.get_default_params().

    Raises:
      SpaceError: for spaces other than Box and Discrete.
    """
    params = func_env.get_default_params() if params is None else params

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state_key, obs_key = jax.random.split(key)
        state = jax.tree.map(jnp.asarray, func_env.initial(state_key, params))
        return state, jnp.asarray(func_env.observation(state, obs_key, params))

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        keys = jax.random.split(key, 4)
        after = func_env.transition(state, action, keys[0], params)
        after = jax.tree.map(jnp.asarray, after)
        obs = jnp.asarray(func_env.observation(after, keys[1], params))
        reward = jnp.asarray(func_env.reward(state, action, after, keys[2], params), jnp.float32)
        terminated = jnp.asarray(func_env.terminal(after, keys[3], params), bool)
        return after, obs, reward, terminated, jnp.zeros((), bool)

    observations, actions = map(
        _from_gymnasium, (func_env.observation_space, func_env.action_space)
    )
    return time_limit(Env(reset, step, observations, actions), max_episode_steps)


def from_brax(env: Any, max_episode_steps: int = 1000) -> Env:
    """A Brax environment as a functional environment; `pip install "pgjax[brax]"` has them.

    Args:
      env: a brax.envs.Env without wrappers, or the name of one, such as "ant".
      max_episode_steps: its time limit, which Brax leaves to a wrapper of its own.

    Raises:
      ConfigError: for a name that Brax does not know, or without Brax.
      SpaceError: for observations that are not one array.
    """
    if isinstance(env, str):
        try:
            from brax import envs

            env = envs.get_environment(env)
        except ImportError:
            raise ConfigError('Brax is not installed: pip install "pgjax[brax]"') from None
        except KeyError:
            raise ConfigError(f"Brax has no environment {env!r}") from None
    if not isinstance(env.observation_size, int):
        raise SpaceError(f"observations must be one array, and are {env.observation_size}")

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state = jax.tree.map(jnp.asarray, env.reset(key))
        return state, state.obs

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        after = _like(state, env.step(state, action))
        no = jnp.zeros((), bool)
        return after, after.obs, after.reward, after.done > 0, no

    observations = Box(-np.inf, np.inf, (env.observation_size,))
    actions = Box(-1.0, 1.0, (env.action_size,))
    return time_limit(Env(reset, step, observations, actions), max_episode_steps)


def from_gymnax(env: Any, params: Any = None) -> Env:
    """A gymnax environment as a functional environment.

    Its own time limit is lifted and becomes ours, so that truncation is told from termination.

    Args:
      env: a gymnax environment.
      params: its parameters; by default env.default_params.

    Raises:
      SpaceError: for spaces other than its Box and Discrete.
    """
    params = env.default_params if params is None else params
    limit = int(params.max_steps_in_episode)
    params = params.replace(max_steps_in_episode=2**31 - 1)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        obs, state = env.reset_env(key, params)
        return jax.tree.map(jnp.asarray, state), obs

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        obs, after, reward, done, _ = env.step_env(key, state, action, params)
        return _like(state, after), obs, jnp.asarray(reward), done, jnp.zeros((), bool)

    observations, actions = map(
        _from_gymnax, (env.observation_space(params), env.action_space(params))
    )
    if isinstance(observations, Box):  # some say another dtype than they give
        given = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
        observations = dataclasses.replace(observations, dtype=given.dtype)
    return time_limit(Env(reset, step, observations, actions), limit)


def _like(before: State, after: State) -> State:
    """The state after a step, in the dtypes of the one before: a counter may come as a float."""
    return jax.tree.map(lambda x, y: jnp.asarray(y, jnp.asarray(x).dtype), before, after)


def gymnasium_space(space: Space) -> gym.Space:
    if isinstance(space, Discrete):
        return gym.spaces.Discrete(space.n, start=space.start)
    low, high = (
        np.broadcast_to(x, space.shape).astype(space.dtype) for x in (space.low, space.high)
    )
    return gym.spaces.Box(low, high, space.shape, space.dtype)


def _from_gymnasium(space: gym.Space) -> Space:
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, gym.spaces.Box):
        return Box(space.low, space.high, space.shape, space.dtype)
    raise SpaceError(f"space {type(space).__name__} is not supported: Box and Discrete are")


def _from_gymnax(space: Any) -> Space:
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Box":
        low, high = np.asarray(space.low), np.asarray(space.high)
        return Box(low, high, tuple(space.shape), space.dtype)
    raise SpaceError(f"space {kind} is not supported: Box and Discrete are")
