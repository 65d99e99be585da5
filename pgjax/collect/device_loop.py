"""One iteration of training as a pure function: collect on the device, and update."""

from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp

from pgjax.algorithms import actor_critic
from pgjax.collect.device_streams import (
    DeviceStream,
    check_stream,
    collect_steps_on_device,
    finished_info,
)
from pgjax.collect.on_device import collect_episodes_on_device
from pgjax.envs import base, wrappers
from pgjax.errors import ConfigError, check_count, counted
from pgjax.numerics.sums import Sharding
from pgjax.types import Algorithm, Info, Rollout, TrainState, check_type


@overload
def training_step(
    algorithm: Algorithm,
    env: base.Env,
    num_episodes: int,
    *,
    squash: bool = False,
    sharding: Sharding | None = None,
) -> Callable[[TrainState], tuple[TrainState, Info]]: ...
@overload
def training_step(
    algorithm: Algorithm,
    env: base.Env,
    *,
    num_envs: int,
    num_steps: int,
    squash: bool = False,
    sharding: Sharding | None = None,
) -> Callable[[TrainState, DeviceStream], tuple[TrainState, DeviceStream, Info]]: ...
def training_step(
    algorithm: Algorithm,
    env: base.Env,
    num_episodes: int | None = None,
    *,
    num_envs: int | None = None,
    num_steps: int | None = None,
    squash: bool = False,
    sharding: Sharding | None = None,
) -> Any:
    """Return one update, collecting included, as a pure function of a TrainState.

    Give num_episodes for whole episodes; num_envs and num_steps for a stream of steps, which the
    function then takes and returns too.

    Use it to write a training loop in JAX: jit it, scan it to make many updates per dispatch, map
    it over seeds, or shard it. `lax.map` over seeds gives the bits of a single run if there are two
    shards or more; `vmap` is faster but rounds differently. To shard it, make the algorithm with
    the same `sharding`, and call it under jax.shard_map with a replicated state and a stream that
    is divided along its first axis.

    Args:
      algorithm: `act` and `update` are used.
      env: a functional environment; with num_episodes, one with a time limit.
      num_episodes: episodes per update, at least 1.
      num_envs: environments of the stream, at least 1.
      num_steps: steps of each environment per update, at least 1.
      squash: as in `collect_episodes_on_device`.
      sharding: as in `collect_episodes_on_device`; by default that of the algorithm, and no other
        is accepted. For an algorithm that pgjax did not make, the default is one shard.

    Returns:
      step: (TrainState) -> (TrainState, Info). It raises what `collect_episodes_on_device` raises,
        and a ConfigError if the estimator needs more episodes than num_episodes.
      With num_envs and num_steps it is (TrainState, DeviceStream) -> (TrainState, DeviceStream,
        Info), and raises what `collect_steps_on_device` raises. The stream comes from
        `init_stream`. Metrics of episodes are of those that ended in the update; if none ended,
        of those that ended last; before the first end, of the running ones so far.

    Raises:
      ConfigError: an argument has the wrong type, a number is not an integer of at least 1, both
        episodes and a stream or neither are given, or the sharding is not that of the algorithm.

    Example:
      >>> import jax, optax, pgjax
      >>> env = pgjax.envs.make("Pendulum-v1", max_episode_steps=8)
      >>> algorithm = pgjax.reinforce(pgjax.GaussianPolicy(1, (4,)), optax.adam(0.01))
      >>> step = jax.jit(pgjax.training_step(algorithm, env, num_episodes=3))
      >>> state, info = step(pgjax.init_on_device(algorithm, env, jax.random.key(0)))
      >>> int(state.step), int(info["env_steps"])
      (1, 24)
      >>> step = jax.jit(pgjax.training_step(algorithm, env, num_envs=2, num_steps=5))
      >>> stream = pgjax.init_stream(env, state.key, num_envs=2)
      >>> state, stream, info = step(state, stream)
      >>> int(state.step), int(info["env_steps"])
      (2, 10)
    """
    base.check_env(env)
    check_type(algorithm, Algorithm)
    objective = actor_critic.objective_of(algorithm)
    own = Sharding() if objective is None else objective.sharding
    if objective is not None and sharding not in (None, own):
        raise ConfigError(
            f"the algorithm was made with {own}, not {sharding}: leave out sharding here, or give "
            "the algorithm the same"
        )
    shards = own if sharding is None else sharding
    if (num_episodes is None) == (num_envs is None) or (num_envs is None) != (num_steps is None):
        raise ConfigError(
            "training_step takes num_episodes for whole episodes, or num_envs and num_steps for a "
            "stream of steps"
        )
    if num_episodes is None:
        return _on_streams(
            algorithm,
            env,
            check_count("num_envs", num_envs),
            check_count("num_steps", num_steps),
            squash,
            shards,
        )
    return _on_episodes(
        algorithm, env, check_count("num_episodes", num_episodes), squash, shards, objective
    )


def _on_episodes(
    algorithm: Algorithm,
    env: base.Env,
    num_episodes: int,
    squash: bool,
    sharding: Sharding,
    objective: actor_critic.Objective | None,
) -> Callable[[TrainState], tuple[TrainState, Info]]:
    def step(state: TrainState) -> tuple[TrainState, Info]:
        rollout = collect_episodes_on_device(
            env, algorithm, state, num_episodes, squash=squash, sharding=sharding
        )
        if objective is not None:  # on the episodes of all devices, without the padding
            actor_critic.check_estimates(objective, _with_columns(rollout, num_episodes))
        return algorithm.update(state, rollout)

    return step


def _on_streams(
    algorithm: Algorithm,
    env: base.Env,
    num_envs: int,
    num_steps: int,
    squash: bool,
    sharding: Sharding,
) -> Callable[[TrainState, DeviceStream], tuple[TrainState, DeviceStream, Info]]:
    def step(state: TrainState, stream: DeviceStream) -> tuple[TrainState, DeviceStream, Info]:
        check_stream(stream)
        found = len(stream.length) * sharding.num_devices()
        if found != num_envs:
            raise ConfigError(
                f"the stream has {counted(found, 'environment')}, not num_envs={num_envs}: make it "
                "with pgjax.init_stream"
            )
        rollout, stream = collect_steps_on_device(
            env, algorithm, state, stream, num_steps, squash=squash, sharding=sharding
        )
        state, info = algorithm.update(state, rollout)
        return state, stream, info | finished_info(stream, sharding)

    return step


def _with_columns(rollout: Rollout, columns: int) -> Any:
    """Return the shapes and dtypes of a rollout with another number of columns."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0], columns, *x.shape[2:]), x.dtype), rollout
    )


def init_on_device(algorithm: Algorithm, env: base.Env, key: jax.Array) -> TrainState:
    """Return the initial TrainState for the observations of a functional environment.

    Use it in place of `algorithm.init`, which needs an example of a flattened observation.

    Args:
      algorithm: `init` is used.
      env: a functional environment.
      key: a typed key [], the root of all randomness of the run. It is kept as `state.key`.

    Returns:
      TrainState with step 0.

    Raises:
      ConfigError: an argument has the wrong type. Otherwise as `algorithm.init`.

    Example:
      >>> import jax, optax, pgjax
      >>> env = pgjax.envs.make("CartPole-v1")
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
      >>> int(pgjax.init_on_device(algorithm, env, jax.random.key(0)).step)
      0
    """
    base.check_env(env)
    check_type(algorithm, Algorithm)
    space = wrappers.flatten_observations(env).observation_space
    return algorithm.init(key, jnp.zeros(space.shape, space.dtype))
