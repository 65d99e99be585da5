"""Functional environments: two pure functions and their spaces.

  reset(key) -> (state, obs)
  step(key, state, action) -> (state, obs, reward, terminated, truncated)

`state` is any pytree; reset and step return it with the same structure, shapes and dtypes.
Environments do not reset themselves: a step after the end of an episode returns whatever `step`
computes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from pgjax.errors import ConfigError, check_count, short_repr

State = Any
"""The state of an environment: any pytree of arrays."""

Step = tuple[State, jax.Array, jax.Array, jax.Array, jax.Array]
"""The result of a step: (state, obs, reward, terminated, truncated)."""


@dataclasses.dataclass(frozen=True)
class Discrete:
    """A space of the n integers start, ..., start + n - 1.

    Use it for a finite choice: the actions of CartPole, or the cell of a grid world.

    Raises:
      ConfigError: n is not an integer of at least 1.

    Example:
      >>> import pgjax
      >>> pgjax.envs.Discrete(3, start=1).shape
      ()
    """

    n: int
    """The number of values, at least 1."""

    start: int = 0
    """The smallest value."""

    shape: tuple[int, ...] = ()
    """Always (): a value is a scalar."""

    dtype: DTypeLike = np.int32
    """An integer dtype."""

    def __post_init__(self) -> None:
        check_count("n", self.n)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: bounds may be arrays
class Box:
    """A space of arrays with a fixed shape and bounds, which may be infinite.

    Use it for anything continuous, and for images.

    Example:
      >>> import numpy as np
      >>> import pgjax
      >>> space = pgjax.envs.Box(low=np.array([-1.0, 0.0]), high=np.inf, shape=(2,))
      >>> space.shape
      (2,)
    """

    low: ArrayLike
    """The lower bounds: a number, or an array [*shape]."""

    high: ArrayLike
    """The upper bounds: a number, or an array [*shape]."""

    shape: tuple[int, ...]
    """The shape of a value."""

    dtype: DTypeLike = np.float32
    """A floating or integer dtype."""


Space = Discrete | Box
"""The spaces of functional environments."""


class Env(NamedTuple):
    """A functional environment: two pure functions and their spaces.

    Use it to write your own environment and train on it in one compiled program; see `check`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> def reset(key):
      ...     return jnp.int32(0), jnp.zeros(1, jnp.float32)
      >>> def step(key, state, action):  # three steps; the reward is the action
      ...     state = state + 1
      ...     obs = jnp.full(1, state, jnp.float32)
      ...     return state, obs, jnp.float32(action), state == 3, jnp.zeros((), bool)
      >>> space = pgjax.envs.Box(0.0, 3.0, (1,))
      >>> env = pgjax.envs.Env(reset, step, space, pgjax.envs.Discrete(2))
      >>> pgjax.envs.check(env)
      >>> key = jax.random.key(0)
      >>> state, obs = env.reset(key)
      >>> state, obs, reward, terminated, truncated = env.step(key, state, jnp.int32(1))
      >>> obs.tolist(), float(reward), bool(terminated), bool(truncated)
      ([1.0], 1.0, False, False)
    """

    reset: Callable[[jax.Array], tuple[State, jax.Array]]
    """(key) -> (state, obs): start an episode.

    `obs` has the shape and dtype of `observation_space`.
    """

    step: Callable[[jax.Array, State, jax.Array], Step]
    """(key, state, action) -> (state, obs, reward, terminated, truncated): take one step.

    `key` is new in every step; `action` has the shape and dtype of `action_space`. `reward` [] is a
    number; `terminated` [] bool says that the task has ended, `truncated` [] bool that the episode
    is cut off, for example by a time limit.
    """

    observation_space: Space
    """The space of `obs`."""

    action_space: Space
    """The space of `action`."""

    max_episode_steps: int | None = None
    """The time limit in steps, or None. `time_limit` sets it; every engine truncates here."""


def environment_keys(seed: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the keys of an episode's environment, derived from its seed.

    Use it to replay an episode: step t takes `jax.random.fold_in(step_key, t)`.

    Args:
      seed: the reset seed of the episode, [] uint32.

    Returns:
      (reset_key, step_key), typed keys [].

    Example:
      >>> from pgjax.envs.base import environment_keys
      >>> reset_key, step_key = environment_keys(7)
      >>> reset_key.shape, step_key.shape
      ((), ())
    """
    reset_key, step_key = jax.random.split(jax.random.key(seed))
    return reset_key, step_key


def check_env(env: Env) -> None:
    """Raise ConfigError, with what to call instead, unless the argument is a functional Env."""
    if isinstance(env, str):
        raise ConfigError(f"pass an environment, not its name: pgjax.envs.make({env!r})")
    if not isinstance(env, Env):
        raise ConfigError(
            f"a functional environment (pgjax.envs.Env) is needed here, got {short_repr(env)}: "
            "pgjax.envs.make makes one, and pgjax.collect_episodes takes those of Gymnasium"
        )


def check(env: Env) -> None:
    """Check that the functions of an environment fit each other and its spaces.

    Use it once on your own environment. It traces the functions for shapes and dtypes only.

    Args:
      env: a functional environment.

    Raises:
      ConfigError: if it is not an Env, or if shapes, dtypes or the number of results differ from
        what `Env` says.

    Example:
      >>> import pgjax
      >>> env = pgjax.envs.make("CartPole-v1")
      >>> pgjax.envs.check(env)
      >>> wrong = env._replace(observation_space=pgjax.envs.Box(-1.0, 1.0, (3,)))
      >>> try:
      ...     pgjax.envs.check(wrong)
      ... except pgjax.ConfigError as error:
      ...     print(error)
      the observation is float32[4], but observation_space says float32[3]
    """
    check_env(env)
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
                f"the {name} must keep its shapes and dtypes, but reset returns {before} and "
                f"step returns {after}"
            )
    dtype = jax.dtypes.canonicalize_dtype(env.observation_space.dtype)
    needed = jax.ShapeDtypeStruct(env.observation_space.shape, dtype)
    if _shapes(obs) != _shapes(needed):
        obs = jax.tree.map(_describe, obs)
        raise ConfigError(
            f"the observation is {obs}, but observation_space says {_describe(needed)}"
        )
    for name, leaf in zip(("reward", "terminated", "truncated"), result[2:], strict=True):
        is_scalar = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.shape == ()
        if not is_scalar or (name != "reward" and leaf.dtype != bool):
            wanted = "a scalar" if name == "reward" else "a scalar bool"
            leaf = jax.tree.map(_describe, leaf)
            raise ConfigError(f"step's {name} must be {wanted}, got {leaf}")


def _shapes(tree: Any) -> Any:
    """Return the structure, and the shape and dtype of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _describe(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}"
