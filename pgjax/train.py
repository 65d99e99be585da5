"""The loop: a run from its config, with what it leaves behind, and a run read back."""

import contextlib
import dataclasses
import itertools
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pgjax import runs
from pgjax.agents import Agent, make_agent, make_env, make_functional_env
from pgjax.chunks import Sharding
from pgjax.compiling import soonest
from pgjax.config import TrainConfig
from pgjax.engines import AXIS, Engine, device_engine, python_engine
from pgjax.errors import ConfigError, DivergedError, PgjaxError, RunError
from pgjax.types import TrainState

_SECONDS_A_DISPATCH = 0.25
_SECONDS_A_CHECKPOINT = 30.0
_TOTALS = ("total_episodes", "total_env_steps")


class Run(NamedTuple):
    """A run, finished or read back."""

    path: Path
    config: TrainConfig
    agent: Agent
    state: TrainState


class Progress(Protocol):
    """Whoever watches a run; metrics come as a list, of each seed."""

    def start(
        self, config: TrainConfig, env: gym.Env | VectorEnv, policy: nn.Module, num_seeds: int
    ) -> None: ...
    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None: ...


def train(
    config: TrainConfig, progress: Progress | None = None, *, num_devices: int | None = None
) -> Run:
    """Train, and leave a run folder behind (see pgjax.runs).

    Nothing is written before the first update has succeeded. After that an interrupt (Ctrl-C) or an
    error ends the training early: what was learned is saved, and it is raised again. After
    jax.distributed.initialize each process calls this with the same config, and the first writes.

    Args:
      config: the settings.
      progress: told what was found and how each update went.
      num_devices: how many share the episodes of an update; by default one, or all those of several
        processes. It never changes the result.

    Returns:
      The run, with its final TrainState.

    Raises:
      ConfigError, SpaceError: before the first step.
      RolloutError: if the environment gives something unusable.
      DivergedError: if a loss, a gradient or the parameters are not finite.
      RunError: if the run folder is taken, memory runs out, or another process of the run is lost.
    """
    return _train([config], [_new_run_dir(config)], progress, num_devices)[0]


def train_seeds(
    config: TrainConfig,
    num_seeds: int,
    progress: Progress | None = None,
    *,
    num_devices: int | None = None,
) -> list[Run]:
    """Train the seeds config.seed, config.seed + 1, ... on the device, in one program.

    As `train`, but with a folder seed-N for each, inside the run folder; each holds what `train`
    makes of that seed, to the bit. Devices share the seeds: by default as many as there are.

    Raises:
      ConfigError: also for num_seeds below 1, or a config that is not for the device.
    """
    if isinstance(num_seeds, bool) or not isinstance(num_seeds, int) or num_seeds < 1:
        raise ConfigError(f"--seeds must be an integer of at least 1, got {num_seeds!r}")
    if not config.on_device:
        raise ConfigError("several seeds train in one program, with the environment: --on-device")
    root = _new_run_dir(config)
    seeds = range(config.seed, config.seed + num_seeds)
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    return _train(configs, [root / f"seed-{seed}" for seed in seeds], progress, num_devices)


def _new_run_dir(config: TrainConfig) -> Path:
    """Looked at by the one of several processes that writes there."""
    if config.run_dir is not None and jax.process_index() > 0:
        return Path(config.run_dir)
    return runs.new_run_dir(config)


def _train(
    configs: list[TrainConfig],
    paths: list[Path],
    progress: Progress | None,
    num_devices: int | None,
) -> list[Run]:
    """Runs that differ in their seeds only."""
    config, folder = configs[0], paths[0] if len(paths) == 1 else paths[0].parent
    env = make_env(config, num_envs=1 if config.on_device else None)
    try:
        agent = make_agent(config, env)
        engine = _engine(config, env, agent, len(configs), num_devices)
        if progress is not None:
            progress.start(config, env, agent.policy, len(configs))
        # Run once, and drawing alone, whose bits were the same under all options tried.
        init = jax.jit(agent.init, compiler_options=soonest())
        states = [init(np.uint32(c.seed)) for c in configs]
        states, totals, stopped_by = _loop(configs, paths, engine, states, progress)
        _save(paths, states)
        if jax.process_index() == 0:
            for path, c, state, total in zip(paths, configs, states, totals, strict=True):
                runs.write_json(path / "manifest.json", runs.manifest(c, state, total))
    finally:
        _close(env)
    if stopped_by is not None:
        if not isinstance(stopped_by, KeyboardInterrupt | PgjaxError):
            raise stopped_by
        saved = f"after {int(states[0].step)} updates; saved in {folder}"
        raise type(stopped_by)(f"{stopped_by} ({saved})".lstrip()) from stopped_by
    return [Run(p, c, agent, s) for p, c, s in zip(paths, configs, states, strict=True)]


def _engine(
    config: TrainConfig,
    env: gym.Env | VectorEnv,
    agent: Agent,
    num_seeds: int,
    num_devices: int | None,
) -> Engine:
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


def _close(env: gym.Env | VectorEnv) -> None:
    """Close an environment whose workers an interrupt may have ended, or who hand it on to us."""
    with warnings.catch_warnings(), contextlib.suppress(OSError, EOFError, KeyboardInterrupt):
        warnings.simplefilter("ignore")
        env.close()


def _loop(
    configs: list[TrainConfig],
    paths: list[Path],
    engine: Engine,
    states: list[TrainState],
    progress: Progress | None,
) -> tuple[list[TrainState], list[dict[str, int]], BaseException | None]:
    """All updates: (states, totals, what cut it short after the first)."""
    current, size, saved = engine.begin(states), 1, float("-inf")
    last: list[dict[str, Any]] = [dict.fromkeys(("update", *_TOTALS), 0) for _ in configs]
    stopped_by: BaseException | None = None
    try:
        while (done := last[0]["update"]) < configs[0].updates:
            size = min(size, engine.most, configs[0].updates - done)
            begun = time.perf_counter()
            new, infos, timings = engine.advance(current, size)
            # After the very last update none follows that would show what its parameters are.
            ending = engine.end(new) if done + size == configs[0].updates else []
            good = _finite_updates(done, configs, infos, ending)
            if good < size:
                size = good  # nothing is kept of what came after
                continue
            metrics = [
                list(itertools.accumulate(of_seed, _add_up, initial=before))[1:]
                for of_seed, before in zip(infos, last, strict=True)
            ]
            _write(configs, paths, metrics, timings)
            current, last = new, [of_seed[-1] for of_seed in metrics]
            if progress is not None:
                for *of_all, timing in zip(*metrics, timings, strict=True):
                    progress.update(of_all, timing)
            if time.monotonic() - saved > _SECONDS_A_CHECKPOINT:
                _save(paths, engine.end(current))
                saved = time.monotonic()
            # Seldom enough to be quick, often enough to look at and to stop.
            seconds = (time.perf_counter() - begun) / size
            size = _agreed(min(2 * size, max(1, round(_SECONDS_A_DISPATCH / seconds))))
    except BaseException as e:
        stopped_by = _explained(e)
        if last[0]["update"] == 0:
            if stopped_by is e:
                raise
            raise stopped_by from e
    return engine.end(current), [{name: of[name] for name in _TOTALS} for of in last], stopped_by


def _finite_updates(
    done: int,
    configs: list[TrainConfig],
    infos: list[list[dict[str, Any]]],
    states: list[TrainState],
) -> int:
    """How many updates come before the first that is not finite for some seed; at least one.

    `done` were made before these; `states`, if there are any, are those after the last one.
    """
    finite = [list(map(_finite, of_seed)) for of_seed in infos]
    for of_seed, state in zip(finite, states, strict=False):
        of_seed[-1] = of_seed[-1] and _finite(state.params)
    bad = [c.seed for c, of_seed in zip(configs, finite, strict=True) if not of_seed[0]]
    if bad:
        raise DivergedError(
            f"update {done + 1} is not finite (seed {', '.join(map(str, bad))}): lower the "
            "learning rate"
        )
    return min((of_seed + [False]).index(False) for of_seed in finite)


def _finite(numbers: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(numbers))


def _write(
    configs: list[TrainConfig],
    paths: list[Path],
    metrics: list[list[dict[str, Any]]],
    timings: list[dict[str, float]],
) -> None:
    """Append updates to the files of every seed; the first of several processes does it."""
    if jax.process_index() > 0:
        return
    for config, path, of_seed in zip(configs, paths, metrics, strict=True):
        if of_seed[0]["update"] == 1:
            path.mkdir(parents=True, exist_ok=True)
            runs.write_json(path / "config.json", config.to_json())
        runs.append_lines(path / "metrics.jsonl", of_seed)
        timed = [{"update": m["update"], **t} for m, t in zip(of_seed, timings, strict=True)]
        runs.append_lines(path / "timings.jsonl", timed)


def _save(paths: list[Path], states: list[TrainState]) -> None:
    if jax.process_index() == 0:
        for path, state in zip(paths, states, strict=True):
            runs.save_state(path, state)


def _agreed(size: int) -> int:
    """What the first of several processes measured: all must make equally many updates."""
    return size if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(size))


def _explained(error: BaseException) -> BaseException:
    """What XLA says of memory, and of another process, in our words; other errors as they are."""
    reason = str(error).partition("\n")[0]
    from_xla = isinstance(error, jax.errors.JaxRuntimeError)
    if from_xla and "RESOURCE_EXHAUSTED" in reason:
        return RunError(
            "out of memory: fewer --episodes-per-update or --seeds, or --max-episode-steps "
            f"({reason})"
        )
    if jax.process_count() > 1 and (from_xla or "gloo" in reason.lower()):
        return RunError(f"another process of the run was lost: start all again ({reason})")
    return error


def _add_up(last: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an update, from those of the one before."""
    return {
        "update": last["update"] + 1,
        "total_episodes": last["total_episodes"] + info["episodes"],
        "total_env_steps": last["total_env_steps"] + info["env_steps"],
        **info,
    }


def load(path: Path | str, *, allow_env_import: bool = False) -> Run:
    """Read a run back from its folder.

    Args:
      path: the folder.
      allow_env_import: let an env id of the form module:Name import that module, which runs its
        code: only for a folder whose writer you trust.

    Raises:
      RunError, ConfigError: if it is not one, or not whole.
    """
    path = Path(path)
    config = runs.load_config(path)
    if ":" in config.env_id and not allow_env_import:
        raise ConfigError(
            f"{path} names an environment in a module to import, {config.env_id!r}: if you trust "
            "it, say so with --allow-env-import"
        )
    env = make_env(config, num_envs=1)
    try:
        agent = make_agent(config, env)
    finally:
        env.close()
    return Run(path, config, agent, runs.load_state(path, lambda: agent.init(config.seed)))
