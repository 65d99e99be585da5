"""A functional environment: two pure functions, what they take and give, and combinators.

  reset(key) -> (state, obs)
  step(key, state, action) -> (state, obs, reward, terminated, truncated)

`state` is any pytree, and the same in shapes and dtypes from both. A combinator takes an
environment and gives one. Nothing resets by itself: who steps an environment beyond its end gets
what its functions give.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.errors import ConfigError, SpaceError

State = Any
Step = tuple[State, jax.Array, jax.Array, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers start, ..., start + n - 1."""

    n: int
    start: int = 0
    shape: tuple[int, ...] = ()
    dtype: Any = np.int32


@dataclasses.dataclass(frozen=True, eq=False)  # hashable, whatever the bounds are
class Box:
    """Arrays of a shape, each number between two bounds, which may be infinite."""

    low: Any  # a number, or an array [*shape]
    high: Any
    shape: tuple[int, ...]
    dtype: Any = np.float32


Space = Discrete | Box


class Env(NamedTuple):
    """Two pure functions and their spaces."""

    reset: Callable[[jax.Array], tuple[State, jax.Array]]
    step: Callable[[jax.Array, State, jax.Array], Step]  # (key, state, action)
    observation_space: Space
    action_space: Space
    max_episode_steps: int | None = None  # its time limit; see time_limit


def time_limit(env: Env, max_episode_steps: int) -> Env:
    """Truncate episodes after so many steps."""
    if not 1 <= max_episode_steps < 2**31:
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
    """Observations as `fn` gives them, which are of `space`."""

    def reset(key: jax.Array) -> tuple[State, jax.Array]:
        state, obs = env.reset(key)
        return state, fn(obs)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        state, obs, reward, terminated, truncated = env.step(key, state, action)
        return state, fn(obs), reward, terminated, truncated

    return env._replace(reset=reset, step=step, observation_space=space)


def scale_observations(env: Env, scale: Any, offset: Any = 0.0) -> Env:
    """Observations of a Box as scale * (obs - offset), each a number or an array of its shape.

    Raises:
      SpaceError: if the observations are not a Box.
    """
    space = env.observation_space
    if not isinstance(space, Box):
        raise SpaceError(f"only the observations of a Box can be scaled, not of {space}")
    ends = [scale * (np.asarray(x, float) - offset) for x in (space.low, space.high)]
    dtype = np.float32 if np.issubdtype(space.dtype, np.integer) else space.dtype
    scaled = Box(np.minimum(*ends), np.maximum(*ends), space.shape, dtype)
    return map_observations(env, lambda obs: scale * (obs.astype(dtype) - offset), scaled)


def flatten_observations(env: Env) -> Env:
    """Observations as rows [d]: a Box flattened, Discrete one-hot."""
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
    """Take the raw actions of a policy: Discrete ones from 0, and any numbers [d] for a Box.

    They are clipped to the bounds of the Box, or with `squash` their tanh is scaled to them.

    Raises:
      SpaceError: to squash without finite bounds.
    """
    space = env.action_space
    if isinstance(space, Discrete):
        takes: Space = Discrete(space.n)
    else:
        takes = Box(-np.inf, np.inf, (math.prod(space.shape),))
        finite = all(np.isfinite(x).all() for x in (space.low, space.high))
        if squash and not finite:
            raise SpaceError(f"tanh needs finite bounds, and the action space is {space}")

    def sent(raw: jax.Array) -> jax.Array:
        if isinstance(space, Discrete):
            return raw + space.start
        raw, low, high = raw.reshape(space.shape), space.low, space.high
        if squash:
            raw = low + (high - low) * ((jnp.tanh(raw) + 1) / 2)
        if jnp.issubdtype(space.dtype, jnp.integer):
            raw = jnp.rint(raw)
        return jnp.clip(raw, low, high).astype(space.dtype)

    def step(key: jax.Array, state: State, action: jax.Array) -> Step:
        return env.step(key, state, sent(action))

    return env._replace(step=step, action_space=takes)


def environment_keys(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(for reset, for steps: fold in the time) of an episode's environment, from its seed."""
    reset_key, step_key = jax.random.split(jax.random.key(seed))
    return reset_key, step_key


def check(env: Env) -> None:
    """Raise ConfigError unless reset and step fit each other; nothing is run."""
    for space in (env.observation_space, env.action_space):
        if not isinstance(space, Box | Discrete):
            raise ConfigError(f"spaces must be pgjax.envs.Box or Discrete, got {space!r}")
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct(env.action_space.shape, env.action_space.dtype)
    begin = jax.eval_shape(env.reset, key)
    if not isinstance(begin, tuple) or len(begin) != 2:
        raise ConfigError("reset must return (state, obs)")
    state, obs = begin
    result = jax.eval_shape(env.step, key, state, action)
    if not isinstance(result, tuple) or len(result) != 5:
        raise ConfigError("step must return (state, obs, reward, terminated, truncated)")
    for name, before, after in (("state", state, result[0]), ("observation", obs, result[1])):
        if _shapes(before) != _shapes(after):
            before, after = (jax.tree.map(_describe, x) for x in (before, after))
            raise ConfigError(
                f"the {name} must keep its shapes and dtypes: reset gives {before}, step {after}"
            )
    dtype = jax.dtypes.canonicalize_dtype(env.observation_space.dtype)
    needed = jax.ShapeDtypeStruct(env.observation_space.shape, dtype)
    if _shapes(obs) != _shapes(needed):
        obs = jax.tree.map(_describe, obs)
        raise ConfigError(f"the observation is {obs}, but its space says {_describe(needed)}")
    for name, leaf in zip(("reward", "terminated", "truncated"), result[2:], strict=True):
        is_scalar = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.shape == ()
        if not is_scalar or (name != "reward" and leaf.dtype != bool):
            wanted = "a scalar" if name == "reward" else "a scalar bool"
            leaf = jax.tree.map(_describe, leaf)
            raise ConfigError(f"step's {name} must be {wanted}, not {leaf}")


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _describe(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}"
