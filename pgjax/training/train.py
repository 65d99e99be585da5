"""Start or resume a run and write its folder."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env, why_not_reproducible
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RolloutError
from pgjax.numerics.xla import fastest_compile, translate_xla_error
from pgjax.runs import checkpoints, folder
from pgjax.runs.provenance import git_commit
from pgjax.runs.recorder import Recorder, SeedRecorders, new_manifest, zero_totals
from pgjax.runs.run import Run, RunLike, run_path
from pgjax.runs.store import Checkpoint
from pgjax.training.engines import Engine, make_engine
from pgjax.training.loop import Observer, RunInfo, observing, run_updates
from pgjax.types import TrainState


def train(
    config: TrainConfig, observers: Sequence[Observer] = (), *, num_devices: int | None = None
) -> Run:
    """Train an agent and write its run folder (see pgjax.runs.folder).

    Nothing is written before the first update has succeeded. After that, Ctrl-C or an error saves
    the state and raises the exception again. After jax.distributed.initialize, call this in every
    process with the same config; only the first process writes.

    Args:
      config: the settings.
      observers: follow the run; see `pgjax.training.loop.Observer`.
      num_devices: number of devices that share the episodes of an update; by default one, or with
        several processes all. It never changes the result.

    Returns:
      The run, with its final TrainState.

    Raises:
      ConfigError, SpaceError: if the config or a space of the environment cannot be used.
      RolloutError: if the environment raises, hangs, or returns something invalid.
      DivergedError: if a loss, a gradient or a parameter is not finite.
      RunError: if the run folder is in use, memory runs out, or another process is lost.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> [row["total_episodes"] for row in run.metrics]
      [2, 4]
    """
    path = _new_run_dir(config)
    return _train([config], path, [path], observers, num_devices)[0]


def train_seeds(
    config: TrainConfig,
    num_seeds: int,
    observers: Sequence[Observer] = (),
    *,
    num_devices: int | None = None,
) -> list[Run]:
    """Train the seeds config.seed, config.seed + 1, ... on the device, in one program.

    Use it to compare seeds. The run folder holds a run folder seed-N for each, with the same bits
    that `train` writes for that seed.

    Args:
      config: the settings, with on_device=True.
      num_seeds: number of seeds, 1 to 100,000.
      observers: as for `train`.
      num_devices: number of devices that share the seeds; by default all, but at most num_seeds.

    Returns:
      A run per seed.

    Raises:
      ConfigError: for num_seeds out of range, or a config without on_device.
      Other errors as for `train`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, num_shards=2,
      ...                            on_device=True, run_dir=pathlib.Path(tempfile.mkdtemp()))
      >>> [run.path.name for run in pgjax.train_seeds(config, 2)]
      ['seed-0', 'seed-1']
    """
    integer = isinstance(num_seeds, int) and not isinstance(num_seeds, bool)
    if not integer or not 1 <= num_seeds <= folder.MOST_SEEDS:
        raise ConfigError(
            f"--seeds must be an integer from 1 to {folder.MOST_SEEDS}, got {num_seeds!r}"
        )
    if not config.on_device:
        raise ConfigError("--seeds needs a run on the device: add --on-device")
    root = _new_run_dir(config)
    seeds = range(config.seed, config.seed + num_seeds)
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    paths = [folder.seed_folder(root, seed) for seed in seeds]
    return _train(configs, root, paths, observers, num_devices)


def resume(
    run: RunLike,
    observers: Sequence[Observer] = (),
    *,
    updates: int | None = None,
    num_devices: int | None = None,
    allow_env_import: bool = False,
) -> list[Run]:
    """Resume an interrupted run, or extend a finished one.

    The result is identical, byte for byte, to that of a run without interruption; with
    collect="steps" it is not, since the streams restart.

    Args:
      run: a run folder, the folder of several seeds, or a Run.
      observers: as for `train`.
      updates: the new total number of updates; by default that of the run's config.
      num_devices: as for `train`; it may differ from before.
      allow_env_import: as for `pgjax.load`.

    Returns:
      A list with the run, or with one run per seed.

    Raises:
      ConfigError: for fewer updates than the run already has, or another number of updates if a
        coefficient anneals over them.
      RunError: if the folder holds no run, or is in use.
      Other errors as for `train`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> [longer] = pgjax.resume(path, updates=2)
      >>> int(longer.state.step)
      2
    """
    path = run_path(run)
    paths = folder.seed_folders(path) or [path]
    # If a run was killed early, some of its seeds may have no folder yet.
    there = [p for p in paths if (p / "config.json").exists()] or paths[:1]
    known = [folder.read_config(p, allow_env_import=allow_env_import) for p in there]
    most = max(config.updates for config in known)
    if updates is not None and known[0].length_matters and updates != most:
        raise ConfigError(
            f"--updates {updates}: this run anneals its learning rate or entropy bonus over {most} "
            "updates, and cannot be extended: train a new run"
        )
    config = dataclasses.replace(known[0], updates=most if updates is None else updates)
    seeds = folder.seeds_in(path) or [config.seed]
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    return _train(configs, path, paths, observers, num_devices, resuming=True)


def _new_run_dir(config: TrainConfig) -> Path:
    """Return the new run folder; only the process that writes it checks that it can be made."""
    if config.run_dir is not None and jax.process_index() > 0:
        return Path(config.run_dir)
    return folder.new_run_dir(config)


def _train(
    configs: list[TrainConfig],
    run_dir: Path,
    paths: list[Path],
    observers: Sequence[Observer],
    num_devices: int | None,
    *,
    resuming: bool = False,
) -> list[Run]:
    """Train runs that differ only in their seed."""
    config, writes = configs[0], jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if writes:
            stack.enter_context(folder.locked_folder(run_dir, new=not resuming))
        env = stack.enter_context(open_env(config))
        agent = make_agent(config, env)
        engine = make_engine(config, env.env, agent, len(configs), num_devices)
        info = RunInfo(configs, paths, env.observation_space, env.action_space, agent.policy)
        stack.enter_context(observing(observers, info))
        resumed_from: list[Checkpoint | None] = [None] * len(paths)
        if resuming and writes:
            resumed_from = _last_common_checkpoints(paths, configs)
        states = states_at(configs, agent, resumed_from)
        done = int(states[0].step)
        if done > config.updates:
            raise ConfigError(
                f"--updates {config.updates}, but the run already has {done}: ask for more"
            )
        recorders = list(map(Recorder, paths, configs, resumed_from)) if writes else []
        manifest = new_manifest(config, None if resuming else git_commit())
        reproducible = functools.partial(why_not_reproducible, config)
        recorder = SeedRecorders(run_dir, recorders, manifest, reproducible)
        if done:
            recorder.begin()
        last = [of.last for of in recorders] or [zero_totals(done)] * len(configs)
        states = _record_updates(engine, configs, states, last, recorder, observers, run_dir)
    return [Run(p, c, agent, s) for p, c, s in zip(paths, configs, states, strict=True)]


def _record_updates(
    engine: Engine,
    configs: list[TrainConfig],
    states: list[TrainState],
    last: list[dict[str, Any]],
    recorder: SeedRecorders,
    observers: Sequence[Observer],
    run_dir: Path,
) -> list[TrainState]:
    """Run and record the remaining updates; save the state also after an error."""
    config, seeds = configs[0], [config.seed for config in configs]
    current, saved, recorded = None, float("-inf"), bool(last[0]["update"])
    stopped_by: BaseException | None = None
    try:
        for records, current_states in run_updates(engine, seeds, states, last, config.updates):
            recorder.record(*records)
            current, recorded = current_states, True
            for *of_seeds, timings in zip(*records.metrics, records.timings, strict=True):
                for observer in observers:
                    observer.update(of_seeds, timings)
            if time.monotonic() - saved >= config.checkpoint_seconds:
                recorder.save(engine.end(current))
                saved = time.monotonic()
    except BaseException as e:
        if not recorded:
            raise
        stopped_by = translate_xla_error(e)
    if current is not None:
        states = engine.end(current)
    recorder.save(states)
    recorder.finish(states)
    if stopped_by is not None:
        raise _with_saved(stopped_by, int(states[0].step), run_dir)
    return states


def _with_saved(error: BaseException, updates: int, run_dir: Path) -> BaseException:
    """Return the error that ended a run, with a note on what is saved if pgjax raised it."""
    if not isinstance(error, KeyboardInterrupt | PgjaxError):
        return error
    saved = f"after {updates} updates; saved in {run_dir}"
    replay = error.replay if isinstance(error, RolloutError) else None
    if replay is not None:
        folder.write_json(run_dir / "failure.json", replay)
        saved += ", with the actions that led to it in failure.json"
    again = type(error)(f"{error} ({saved})".lstrip())
    again.__cause__ = error
    if isinstance(again, RolloutError):
        again.replay = replay
    return again


def _last_common_checkpoints(
    paths: list[Path], configs: list[TrainConfig]
) -> list[Checkpoint | None]:
    """Return each seed's checkpoint of the last update for which all seeds have one, if any."""
    found = [
        {at.update: at for at in checkpoints.valid_checkpoints(path, config)}
        for path, config in zip(paths, configs, strict=True)
    ]
    update = max(set[int].intersection(*map(set, found)), default=0)
    return [of_seed.get(update) for of_seed in found]


def states_at(
    configs: list[TrainConfig], agent: Agent, resumed_from: Sequence[Checkpoint | None]
) -> list[TrainState]:
    """Restore or initialise the state of each seed, the same in all processes."""
    if resumed_from[0] is not None:
        init = functools.partial(agent.init, configs[0].seed)
        states = [checkpoints.restore(at, init) for at in resumed_from if at is not None]
    else:
        # Compile as fast as possible: it runs once, and only draws random numbers, whose bits were
        # the same for all compiler options tried.
        fresh = jax.jit(agent.init, compiler_options=fastest_compile())
        try:
            states = [fresh(np.uint32(config.seed)) for config in configs]
        except jax.errors.JaxRuntimeError as e:
            raise translate_xla_error(e) from e
    if jax.process_count() > 1:
        plain = [checkpoints.with_key_data(state) for state in states]
        plain = multihost_utils.broadcast_one_to_all(plain)
        states = [checkpoints.with_typed_key(jax.tree.map(jnp.asarray, state)) for state in plain]
    return states
