"""Engines run updates: a Python loop over Gymnasium, or a compiled program on the device."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pgjax import envs
from pgjax.collect.device_loop import init_on_device, training_step
from pgjax.collect.episode_log import EpisodeLog
from pgjax.collect.episodes import run_episodes
from pgjax.collect.steps import Stream
from pgjax.config.agent import Agent
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, check_count, counted
from pgjax.numerics.packing import pack, unpack
from pgjax.numerics.sums import Sharding
from pgjax.numerics.xla import compile_in_background, fast_compile
from pgjax.runs.digests import params_digest, to_hex
from pgjax.runs.states import RunState, StreamState, train_state, with_stream
from pgjax.types import Algorithm, Rollout, TrainState

AXIS = "devices"
_MOST = 256  # updates per dispatch


class UpdateRecords(NamedTuple):
    """Metrics, digests and timings of the updates of one dispatch."""

    metrics: list[list[dict[str, Any]]]  # [seed][update]
    digests: list[list[str]]  # [seed][update], of the parameters after the update
    timings: list[dict[str, float]]  # [update], for all seeds together


class Watch(NamedTuple):
    """Functions that the Python loop calls between updates."""

    collecting: Callable[[int], None]
    """Called every few steps with the number of steps of the longest episode in progress."""

    compiling: Callable[[int], None]
    """Called with the number of steps of a rollout for which the update must be compiled."""


class Engine(NamedTuple):
    """Runs updates of one or more seeds, one or more per call."""

    begin: Callable[[list[Any]], Any]  # one RunState per seed -> the states for `advance`
    advance: Callable[[Any, int], tuple[Any, UpdateRecords]]  # (states, number of updates)
    end: Callable[[Any], list[Any]]  # inverse of `begin`
    most: int  # the largest number of updates per call
    devices: tuple[jax.Device, ...] = ()


def make_engine(
    config: TrainConfig,
    env: Any,
    agent: Agent,
    num_seeds: int,
    num_devices: int | None,
    watch: Watch | None = None,
) -> Engine:
    """Make the engine of a config.

    Args:
      config: the settings.
      env: a Gymnasium environment, or with config.on_device a functional one.
      agent: the agent of the config.
      num_seeds: number of seeds trained in one program.
      num_devices: as for `pgjax.train`.
      watch: called by the Python loop.

    Raises:
      ConfigError: if the devices do not exist or cannot be used.
    """
    mesh = _mesh(num_devices, num_seeds)
    engine = _engine_on(mesh, config, env, agent, num_seeds, watch)
    return engine._replace(devices=tuple(mesh.devices.flat))


def _engine_on(
    mesh: Mesh, config: TrainConfig, env: Any, agent: Agent, num_seeds: int, watch: Watch | None
) -> Engine:
    """Make the engine of a config on given devices."""
    if not config.on_device:
        if mesh.size > 1:
            raise ConfigError("only runs on the device can use several devices: add --on-device")
        return python_engine(config, env, agent.algorithm, watch)
    share_episodes = num_seeds == 1 and mesh.size > 1
    if share_episodes and config.collect == "steps" and config.shards % mesh.size:
        raise ConfigError(
            f"{config.num_envs} environments in {counted(config.shards, 'shard')} cannot be "
            f"divided evenly among {mesh.size} devices: choose --num-envs and --num-shards as "
            "multiples of --num-devices"
        )
    sharding = Sharding(config.shards, AXIS if share_episodes else None)
    return device_engine(config, env, agent.shard(sharding), sharding, mesh, num_seeds)


def _mesh(num_devices: int | None, num_seeds: int) -> Mesh:
    """The devices of a run: `num_devices`, or else one per seed, or all of several processes."""
    devices, processes = jax.devices(), jax.process_count()
    wanted = len(devices) if processes > 1 else min(len(devices), num_seeds)
    if num_devices is not None:
        wanted = num_devices if num_devices < 1 else check_count("--num-devices", num_devices)
    if wanted < 1:
        raise ConfigError(f"--num-devices must be at least 1, got {wanted}")
    if wanted > len(devices):
        raise ConfigError(
            f"--num-devices {wanted}, but there are {len(devices)}: ask for fewer, or on CPU set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        )
    if processes > 1 and wanted < len(devices):
        raise ConfigError(
            f"{processes} processes use all {len(devices)} devices: leave out --num-devices"
        )
    return Mesh(np.array(devices[:wanted]), (AXIS,))


def python_engine(
    config: TrainConfig,
    env: gym.Env | VectorEnv,
    algorithm: Algorithm,
    watch: Watch | None = None,
) -> Engine:
    """Make the engine that steps Gymnasium from Python: one seed, one update per call."""
    digest = jax.jit(params_digest)
    options: dict[str, Any] = {"squash": config.squash, "step_timeout": config.step_timeout}
    stream = Stream(env, **options) if config.collect == "steps" else None
    collecting, shapes = watch and watch.collecting, set()

    def collect(state: TrainState) -> tuple[Rollout, dict[str, float]]:
        """Return a rollout, and metrics of its episodes that do not follow from it."""
        if stream is not None:
            return stream.collect(algorithm, state, config.num_steps), stream.episode_info()
        episodes = config.episodes_per_update
        log = run_episodes(EpisodeLog, env, algorithm, state, episodes, watch=collecting, **options)
        return log.rollout(), log.success_info()

    def advance(states: list[TrainState], count: int) -> tuple[list[TrainState], UpdateRecords]:
        begun = time.perf_counter()
        rollout, of_episodes = collect(states[0])
        collected = time.perf_counter()
        shape = rollout.reward.shape
        if watch is not None and shape not in shapes:
            shapes.add(shape)
            watch.compiling(shape[0])
        state, metrics = algorithm.update(states[0], rollout)
        updated = time.perf_counter()
        info = {name: value.item() for name, value in metrics.items()} | of_episodes
        timing = {
            "seconds_collecting": collected - begun,
            "seconds_updating": updated - collected,
            "steps_per_second": info["env_steps"] / (updated - begun),
        }
        digests = [[to_hex(np.asarray(digest(state.params)))]]
        return [state], UpdateRecords([[info]], digests, [timing])

    return Engine(list, advance, list, 1)


def device_engine(
    config: TrainConfig,
    env: envs.Env,
    algorithm: Algorithm,
    sharding: Sharding,
    mesh: Mesh,
    num_seeds: int = 1,
) -> Engine:
    """Environment and learner in one compiled program, which runs many updates per dispatch.

    `sharding` must be the algorithm's. If it names the axis of the mesh, the devices share the
    episodes of an update. Otherwise they share the seeds, and the results of each seed are
    bit-identical to those of training it alone.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    whole, of_seeds = PartitionSpec(), PartitionSpec(AXIS)
    share: Any = of_seeds
    share_log = of_seeds
    if sharding.axis_name:  # axis 0 is that of the seeds, of which there is one
        share, share_log = whole, whole
        if config.collect == "steps":
            share = StreamState(whole, whole, whole, whole, PartitionSpec(None, AXIS))
    mapped = jax.shard_map(
        _many_updates(config, env, algorithm, sharding),
        mesh=mesh,
        in_specs=(share, PartitionSpec()),
        out_specs=(share, share_log),
        check_vma=False,
    )
    jit = functools.partial(jax.jit, in_shardings=everywhere, out_shardings=everywhere)
    # Jitted, since device_put does not send keys to the devices of other processes.
    send = jit(lambda states: jax.tree.map(lambda *x: jnp.stack(x), *states))
    take = jax.jit(lambda here: [jax.tree.map(lambda x, i=i: x[i], here) for i in range(num_seeds)])
    # Pad to the same number of seeds per device; surplus results are dropped.
    surplus = 0 if sharding.axis_name else -num_seeds % mesh.size

    def begin(states: list[RunState]) -> RunState:
        return send(states + states[-1:] * surplus)

    def init(key: jax.Array) -> RunState:
        return with_stream(config, env, init_on_device(algorithm, env, key))

    def compile_() -> Callable[[RunState, np.int32], Any]:
        state = jax.eval_shape(init, jax.random.key(0))
        states = jax.eval_shape(send, [state] * (num_seeds + surplus))
        options = fast_compile()
        return jit(mapped, compiler_options=options).lower(states, np.int32(0)).compile()

    compiled = compile_in_background(compile_)

    def advance(states: RunState, count: int) -> tuple[RunState, UpdateRecords]:
        begun = time.perf_counter()
        states, log = compiled.result()(states, np.int32(count))
        log, digests = jax.tree.map(lambda x: np.asarray(x)[:num_seeds, :count], log)
        return states, _records(log, digests, (time.perf_counter() - begun) / count)

    def end(states: RunState) -> list[RunState]:
        return take(jax.tree.map(lambda x: x.addressable_data(0), states))

    return Engine(begin, advance, end, _MOST)


def _many_updates(
    config: TrainConfig, env: envs.Env, algorithm: Algorithm, sharding: Sharding
) -> Callable[[RunState, jax.Array], tuple[RunState, Any]]:
    """(states of the seeds, number of updates) -> (states, log of up to _MOST updates per seed)."""
    step = _step(config, env, algorithm, sharding)

    def packed(state: RunState) -> tuple[RunState, Any]:
        state, info = step(state)
        return state, (pack(info), params_digest(state.params))

    def run(state: RunState, count: jax.Array) -> tuple[RunState, Any]:
        def one_more(i: jax.Array, carry: tuple[RunState, Any]) -> tuple[RunState, Any]:
            state, info = packed(carry[0])
            put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
            return state, jax.tree.map(put, carry[1], info)

        like = jax.eval_shape(packed, state)[1]
        infos = jax.tree.map(lambda x: jnp.zeros((_MOST, *x.shape), x.dtype), like)
        return lax.fori_loop(0, count, one_more, (state, infos))

    def run_seeds(states: RunState, count: jax.Array) -> tuple[RunState, Any]:
        return lax.map(functools.partial(run, count=count), states)

    return run_seeds


def _step(
    config: TrainConfig, env: envs.Env, algorithm: Algorithm, sharding: Sharding
) -> Callable[[Any], tuple[Any, dict[str, jax.Array]]]:
    """Return one update of a seed: RunState -> (RunState, metrics)."""
    options: dict[str, Any] = {"squash": config.squash, "sharding": sharding}
    if config.collect == "episodes":
        return training_step(algorithm, env, config.episodes_per_update, **options)
    sizes: dict[str, Any] = {"num_envs": config.num_envs, "num_steps": config.num_steps}
    step = training_step(algorithm, env, **sizes, **options)

    def on_stream(state: StreamState) -> tuple[StreamState, dict[str, jax.Array]]:
        new, stream, info = step(train_state(state), state.stream)
        return StreamState(new.params, new.opt_state, new.key, new.step, stream), info

    return on_stream


def _records(log: Any, digests: np.ndarray, seconds: float) -> UpdateRecords:
    """Make the records of updates that took `seconds` each, from arrays [seed, update, ...]."""
    rows = {name: values.tolist() for name, values in unpack(log).items()}
    metrics = [
        [dict(zip(rows, row, strict=True)) for row in zip(*of_seed, strict=True)]
        for of_seed in zip(*rows.values(), strict=True)
    ]
    steps = [sum(info["env_steps"] for info in of_all) for of_all in zip(*metrics, strict=True)]
    timings = [{"seconds": seconds, "steps_per_second": n / seconds} for n in steps]
    return UpdateRecords(metrics, [[*map(to_hex, of_seed)] for of_seed in digests], timings)
