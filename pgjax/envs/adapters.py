"""Adapters between functional environments and those of Gymnasium, Brax and gymnax.

This is the only module of `pgjax.envs` that imports Gymnasium.
"""

import dataclasses
import functools
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.experimental.functional import FuncEnv

from pgjax.envs.base import Box, Discrete, Env, Space, State, Step, check, environment_keys
from pgjax.envs.wrappers import time_limit
from pgjax.errors import ConfigError, SpaceError


class FunctionalEnv(gym.Env):
    """A functional environment with Gymnasium's interface.

    Use `as_gymnasium` to make one.

    Args:
      env: a functional environment.

    Raises:
      ConfigError: if the functions of the environment do not fit each other; see `check`.

    Example:
      >>> import pgjax
      >>> from pgjax.envs.adapters import FunctionalEnv
      >>> env = FunctionalEnv(pgjax.envs.make("Pendulum-v1"))
      >>> env.action_space
      Box(-2.0, 2.0, (1,), float32)
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (an attribute of gym.Env)

    def __init__(self, env: Env):
        self.observation_space = gymnasium_space(env.observation_space)
        self.action_space = gymnasium_space(env.action_space)
        self._max_episode_steps = env.max_episode_steps  # named as in gymnasium's TimeLimit
        self._reset, self._step = _compiled(env)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `seed` is from 0 to 2**32 - 1, and drawn at random if None."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        self._state, self._key, obs = self._reset(np.uint32(seed))
        self._time = 0
        return np.asarray(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; its randomness follows from the reset seed and the time step."""
        time, self._time = np.uint32(self._time), self._time + 1
        action = np.asarray(action, self.action_space.dtype)
        self._state, obs, reward, *ends = self._step(self._key, time, self._state, action)
        truncated = bool(ends[1]) or self._time == self._max_episode_steps
        return np.asarray(obs), float(reward), bool(ends[0]), truncated, {}


@functools.lru_cache(maxsize=16)  # a vector of equal environments compiles once
def _compiled(env: Env) -> Any:
    """Check an environment and return its jitted functions: reset by seed, step by time."""
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


def as_gymnasium(env: Env) -> FunctionalEnv:
    """Convert a functional environment to a gymnasium.Env.

    Use it for the Python loop and for Gymnasium's own tools. `collect_episodes` collects the same
    episodes from it as `collect_episodes_on_device` does from `env` (with `squash`, to rounding).

    Args:
      env: a functional environment.

    Returns:
      A gymnasium.Env that truncates after `env.max_episode_steps`.

    Raises:
      ConfigError: if the functions of the environment do not fit each other; see `check`.

    Example:
      >>> import pgjax
      >>> env = pgjax.envs.as_gymnasium(pgjax.envs.make("CartPole-v1"))
      >>> obs, info = env.reset(seed=0)
      >>> obs, reward, terminated, truncated, info = env.step(1)
      >>> obs.shape, reward, terminated, truncated
      ((4,), 1.0, False, False)
    """
    return FunctionalEnv(env)


def from_func_env(func_env: FuncEnv, max_episode_steps: int, params: Any = None) -> Env:
    """Convert a Gymnasium FuncEnv (gymnasium.experimental.functional) to a functional environment.

    Use it for Gymnasium's `phys2d` environments, or for your own FuncEnv.

    Args:
      func_env: an environment whose methods JAX can trace.
      max_episode_steps: the time limit in steps, at least 1; a FuncEnv has none.
      params: passed to its methods; by default func_env.get_default_params().

    Returns:
      A functional environment.

    Raises:
      SpaceError: for spaces other than Box and Discrete.
      ConfigError: if the limit is out of range.

    Example:
      >>> import pgjax
      >>> from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
      >>> env = pgjax.envs.from_func_env(CartPoleFunctional(), max_episode_steps=500)
      >>> pgjax.envs.check(env)
      >>> env.observation_space.shape, env.action_space.n
      ((4,), 2)
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
    """Convert a Brax environment to a functional environment.

    Use it for rigid-body physics on an accelerator; `pip install "pgjax[brax]"` installs Brax.

    Args:
      env: a brax.envs.Env without wrappers, or a name such as "ant".
      max_episode_steps: the time limit in steps, at least 1; an unwrapped Brax environment has
        none.

    Returns:
      A functional environment with actions from -1 to 1.

    Raises:
      ConfigError: if Brax is not installed or has no environment of this name, or if the limit is
        out of range.
      SpaceError: if observations are not a single array.

    Example:
      >>> import pgjax
      >>> env = pgjax.envs.from_brax("ant")  # doctest: +SKIP
      >>> env.action_space.shape  # doctest: +SKIP
      (8,)
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
        raise SpaceError(f"observations must be one array, got sizes {env.observation_size}")

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state = jax.tree.map(jnp.asarray, env.reset(key))
        return state, state.obs

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        after = _like(state, env.step(state, action))
        return after, after.obs, after.reward, after.done > 0, jnp.zeros((), bool)

    observations = Box(-np.inf, np.inf, (env.observation_size,))
    actions = Box(-1.0, 1.0, (env.action_size,))
    return time_limit(Env(reset, step, observations, actions), max_episode_steps)


def from_gymnax(env: Any, params: Any = None, max_episode_steps: int | None = None) -> Env:
    """Convert a gymnax environment to a functional environment.

    Use it for gymnax's own tasks, such as bsuite and MinAtar. gymnax does not distinguish its time
    limit from termination. Observations, rewards and states are those of the given parameters; a
    step that ends an episode only because of the limit is truncated.

    Args:
      env: a gymnax environment.
      params: its parameters; by default env.default_params.
      max_episode_steps: a time limit in steps; by default params.max_steps_in_episode.

    Returns:
      A functional environment.

    Raises:
      ConfigError: if there is no time limit.
      SpaceError: for spaces other than gymnax's Box and Discrete.

    Example:
      >>> import gymnax  # doctest: +SKIP
      >>> import pgjax
      >>> env = pgjax.envs.from_gymnax(*gymnax.make("Catch-bsuite"))  # doctest: +SKIP
      >>> env.action_space.n  # doctest: +SKIP
      3
    """
    params = env.default_params if params is None else params
    own_limit = getattr(params, "max_steps_in_episode", None)
    limit = own_limit if max_episode_steps is None else max_episode_steps
    if limit is None:
        raise ConfigError(
            f"the parameters of {type(env).__name__} have no max_steps_in_episode: pass "
            "max_episode_steps="
        )
    limit = int(limit)
    without = None if own_limit is None else params.replace(max_steps_in_episode=2**31 - 1)

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        obs, state = env.reset_env(key, params)
        return jax.tree.map(jnp.asarray, state), obs

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        obs, after, reward, done, _ = env.step_env(key, state, action, params)
        terminated = done = jnp.asarray(done, bool)
        if without is not None:  # only the end is taken apart
            terminated = jnp.asarray(env.step_env(key, state, action, without)[3], bool)
        return _like(state, after), obs, jnp.asarray(reward), terminated, done & ~terminated

    observations, actions = map(
        _from_gymnax, (env.observation_space(params), env.action_space(params))
    )
    if isinstance(observations, Box):  # some declare a dtype that differs from the one returned
        obs = jax.eval_shape(lambda: reset(jax.random.key(0))[1])
        observations = dataclasses.replace(observations, dtype=obs.dtype)
    return time_limit(Env(reset, step, observations, actions), limit)


def _like(before: State, after: State) -> State:
    """Cast the new state to the dtypes of the old one: a counter may become a float."""
    return jax.tree.map(lambda x, y: jnp.asarray(y, jnp.asarray(x).dtype), before, after)


def gymnasium_space(space: Space) -> gym.Space:
    """Convert the space of a functional environment to Gymnasium's.

    Use it to pass a functional environment's space to code for Gymnasium.

    Args:
      space: a Box or Discrete of pgjax.envs.

    Returns:
      gymnasium.spaces.Box or gymnasium.spaces.Discrete with the same bounds.

    Example:
      >>> import pgjax
      >>> from pgjax.envs.adapters import gymnasium_space
      >>> gymnasium_space(pgjax.envs.Discrete(3, start=1))
      Discrete(3, start=1)
      >>> gymnasium_space(pgjax.envs.Box(-1.0, 1.0, (2,)))
      Box(-1.0, 1.0, (2,), float32)
    """
    if isinstance(space, Discrete):
        return gym.spaces.Discrete(space.n, start=space.start)
    dtype = np.dtype(space.dtype)
    low, high = (np.broadcast_to(x, space.shape).astype(dtype) for x in (space.low, space.high))
    return gym.spaces.Box(low, high, space.shape, dtype)


def _from_gymnasium(space: gym.Space) -> Space:
    """Convert a space of Gymnasium."""
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, gym.spaces.Box):
        return Box(space.low, space.high, space.shape, space.dtype)
    raise _unsupported(space)


def _from_gymnax(space: Any) -> Space:
    """Convert a space of gymnax, recognised by class name, so that gymnax need not be installed."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Box":
        low, high = np.asarray(space.low), np.asarray(space.high)
        return Box(low, high, tuple(space.shape), space.dtype)
    raise _unsupported(space)


def _unsupported(space: Any) -> SpaceError:
    return SpaceError(f"space {type(space).__name__} is not supported: use Box or Discrete")
