"""What makes the updates of a run: the Python loop over Gymnasium, or a program on the device."""

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
from pgjax.collect.dispatch import updater
from pgjax.collect.episodes import collect_episodes
from pgjax.collect.on_device import init_on_device, training_step
from pgjax.collect.packing import pack, unpack
from pgjax.collect.steps import Stream
from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import make_functional_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError
from pgjax.numerics.sums import Sharding
from pgjax.numerics.xla import compile_in_background, fast_compile
from pgjax.runs.digests import params_digest, to_hex
from pgjax.types import Algorithm, Rollout, TrainState

AXIS = "devices"
_MOST = 256  # updates in one dispatch


class UpdateRecords(NamedTuple):
    """What is known of updates that were made."""

    infos: list[list[dict[str, Any]]]  # of each seed, of each update
    digests: list[list[str]]  # of the parameters after it
    timings: list[dict[str, float]]  # of each update, of all seeds together


class Engine(NamedTuple):
    """Makes updates of one or several seeds, one or several in a call."""

    begin: Callable[[list[TrainState]], Any]  # what `advance` takes, of a state for each seed
    advance: Callable[
        [Any, int], tuple[Any, UpdateRecords]
    ]  # (all states, how many) -> (all states, ...)
    end: Callable[[Any], list[TrainState]]  # the inverse of `begin`
    most: int  # updates in one call


def python_engine(config: TrainConfig, env: gym.Env | VectorEnv, algorithm: Algorithm) -> Engine:
    """The Python loop: one seed, an update at a time."""
    update, digest = updater(algorithm.update), jax.jit(params_digest)
    options: dict[str, Any] = {"squash": config.squash, "step_timeout": config.step_timeout}
    stream = Stream(env, **options) if config.collect == "steps" else None

    def collect(state: TrainState) -> Rollout:
        if stream is not None:
            return stream.collect(algorithm, state, config.num_steps)
        return collect_episodes(env, algorithm, state, config.episodes_per_update, **options)

    def advance(states: list[TrainState], count: int) -> tuple[list[TrainState], UpdateRecords]:
        begun = time.perf_counter()
        rollout = collect(states[0])
        collected = time.perf_counter()
        state, info = update(states[0], rollout)
        updated = time.perf_counter()
        if stream is not None:
            info |= stream.episode_info()
        timing = {
            "seconds_collecting": collected - begun,
            "seconds_updating": updated - collected,
            "steps_per_second": info["env_steps"] / (updated - begun),
        }
        return [state], UpdateRecords(
            [[info]], [[to_hex(np.asarray(digest(state.params)))]], [timing]
        )

    return Engine(list, advance, list, 1)


def device_engine(
    config: TrainConfig,
    env: envs.Env,
    algorithm: Algorithm,
    sharding: Sharding,
    mesh: Mesh,
    num_seeds: int = 1,
) -> Engine:
    """Environment and learner in one compiled program, which makes many updates in a dispatch.

    The devices of the mesh share the episodes of an update where `sharding`, which is the
    algorithm's, names its axis; else the seeds, each of which keeps the bits it has alone.
    """
    step = training_step(
        algorithm, env, config.episodes_per_update, squash=config.squash, sharding=sharding
    )

    def packed(state: TrainState) -> tuple[TrainState, Any]:
        state, info = step(state)
        return state, (pack(info), params_digest(state.params))

    def run(state: TrainState, count: jax.Array) -> tuple[TrainState, Any]:
        def one_more(i: jax.Array, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            state, info = packed(carry[0])
            put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
            return state, jax.tree.map(put, carry[1], info)

        like = jax.eval_shape(packed, state)[1]
        infos = jax.tree.map(lambda x: jnp.zeros((_MOST, *x.shape), x.dtype), like)
        return lax.fori_loop(0, count, one_more, (state, infos))

    def run_seeds(states: TrainState, count: jax.Array) -> tuple[TrainState, Any]:
        return lax.map(functools.partial(run, count=count), states)

    everywhere = NamedSharding(mesh, PartitionSpec())
    share = PartitionSpec() if sharding.axis_name else PartitionSpec(AXIS)
    mapped = jax.shard_map(
        run_seeds, mesh=mesh, in_specs=(share, PartitionSpec()), out_specs=share, check_vma=False
    )
    jit = functools.partial(jax.jit, in_shardings=everywhere, out_shardings=everywhere)
    # device_put takes no keys to the devices of other processes
    send = jit(lambda states: jax.tree.map(lambda *x: jnp.stack(x), *states))
    take = jax.jit(lambda here: [jax.tree.map(lambda x, i=i: x[i], here) for i in range(num_seeds)])

    # As many for every device: some may be trained twice, and are left out of what comes back.
    surplus = 0 if sharding.axis_name else -num_seeds % mesh.size

    def begin(states: list[TrainState]) -> TrainState:
        return send(states + states[-1:] * surplus)

    def compile_() -> Callable[[TrainState, np.int32], Any]:
        state = jax.eval_shape(functools.partial(init_on_device, algorithm, env), jax.random.key(0))
        states = jax.eval_shape(send, [state] * (num_seeds + surplus))
        options = fast_compile()
        return jit(mapped, compiler_options=options).lower(states, np.int32(0)).compile()

    compiled = compile_in_background(compile_)

    def advance(states: TrainState, count: int) -> tuple[TrainState, UpdateRecords]:
        begun = time.perf_counter()
        states, log = compiled.result()(states, np.int32(count))
        log, digests = jax.tree.map(lambda x: np.asarray(x)[:num_seeds, :count], log)
        rows = unpack(log)
        infos = [
            [dict(zip(rows, row, strict=True)) for row in zip(*of_seed, strict=True)]
            for of_seed in zip(*rows.values(), strict=True)
        ]
        seconds = (time.perf_counter() - begun) / count
        steps = [sum(info["env_steps"] for info in of_all) for of_all in zip(*infos, strict=True)]
        timings = [{"seconds": seconds, "steps_per_second": n / seconds} for n in steps]
        return states, UpdateRecords(
            infos, [[*map(to_hex, of_seed)] for of_seed in digests], timings
        )

    def end(states: TrainState) -> list[TrainState]:
        return take(jax.tree.map(lambda x: x.addressable_data(0), states))

    return Engine(begin, advance, end, _MOST)


def make_engine(
    config: TrainConfig,
    env: gym.Env | VectorEnv,
    agent: Agent,
    num_seeds: int,
    num_devices: int | None,
) -> Engine:
    """What makes the updates of a config.

    Raises:
      ConfigError: for devices that are not there, or of no use.
    """
    mesh = _mesh(num_devices, num_seeds)
    if not config.on_device:
        if mesh.size > 1:
            raise ConfigError("devices share what is compiled as a whole: add --on-device")
        return python_engine(config, env, agent.algorithm)
    share_episodes = num_seeds == 1 and mesh.size > 1
    sharding = Sharding(config.num_shards, AXIS if share_episodes else None)
    algorithm = make_agent(config, env, sharding.axis_name).algorithm
    functional = make_functional_env(config)
    return device_engine(config, functional, algorithm, sharding, mesh, num_seeds)


def _mesh(num_devices: int | None, num_seeds: int) -> Mesh:
    """The devices that share a run: so many, or one for a seed, or those of several processes."""
    devices, processes = jax.devices(), jax.process_count()
    asked = len(devices) if processes > 1 else min(len(devices), num_seeds)
    if num_devices is not None:
        asked = num_devices
    if asked < 1:
        raise ConfigError(f"--num-devices must be at least 1, got {asked}")
    if asked > len(devices):
        raise ConfigError(
            f"--num-devices {asked}, but there are {len(devices)} (on CPU "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={asked} makes them)"
        )
    if processes > 1 and asked < len(devices):
        raise ConfigError(
            f"{processes} processes share all {len(devices)} devices: leave out --num-devices"
        )
    return Mesh(np.array(devices[:asked]), (AXIS,))
