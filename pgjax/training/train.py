"""A run from its config, begun or gone on with, and what it leaves behind."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv
from jax.experimental import multihost_utils

from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RolloutError
from pgjax.numerics.xla import fastest_compile, translate_xla_error
from pgjax.runs import provenance
from pgjax.runs.checkpoints import restore, valid_checkpoints, with_key_data, with_typed_key
from pgjax.runs.folder import (
    MOST_SEEDS,
    locked_folder,
    new_run_dir,
    read_config,
    seed_folder,
    seed_folders,
    seeds_in,
    write_json,
)
from pgjax.runs.recorder import Recorder, SeedRecorders, manifest_of, zero_totals
from pgjax.runs.run import Run
from pgjax.runs.store import Checkpoint
from pgjax.training.engines import make_engine
from pgjax.training.loop import Listener, loop
from pgjax.types import TrainState


class Progress(Protocol):
    """Whoever watches a run; settings, folders and metrics come as lists, of each seed."""

    def start(
        self,
        configs: list[TrainConfig],
        paths: list[Path],
        env: gym.Env | VectorEnv,
        policy: nn.Module,
    ) -> None: ...
    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None: ...


def train(
    config: TrainConfig, progress: Progress | None = None, *, num_devices: int | None = None
) -> Run:
    """Train, and leave a run folder behind (see pgjax.runs).

    Nothing is left before the first update has succeeded. After that an interrupt (Ctrl-C) or an
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
    path = _new_run_dir(config)
    return _train([config], path, [path], progress, num_devices)[0]


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
      ConfigError: also for num_seeds out of range, or a config that is not for the device.
    """
    integer = isinstance(num_seeds, int) and not isinstance(num_seeds, bool)
    if not integer or not 1 <= num_seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds must be an integer from 1 to {MOST_SEEDS}, got {num_seeds!r}")
    if not config.on_device:
        raise ConfigError("several seeds train in one program, with the environment: --on-device")
    root = _new_run_dir(config)
    seeds = range(config.seed, config.seed + num_seeds)
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    paths = [seed_folder(root, seed) for seed in seeds]
    return _train(configs, root, paths, progress, num_devices)


def _new_run_dir(config: TrainConfig) -> Path:
    """Looked at by the one of several processes that writes there."""
    if config.run_dir is not None and jax.process_index() > 0:
        return Path(config.run_dir)
    return new_run_dir(config)


def resume(
    path: Path | str,
    progress: Progress | None = None,
    *,
    updates: int | None = None,
    num_devices: int | None = None,
    allow_env_import: bool = False,
) -> list[Run]:
    """Go on with a run that was stopped in any way, to the same bytes as if it never had been.

    Args:
      path: a run folder, or one of several seeds.
      progress: as for `train`.
      updates: how many in all, in place of the run's own: a finished run can so be extended.
      num_devices: as for `train`; it need not be what it was.
      allow_env_import: as for `pgjax.load`.

    Returns:
      The run, or one for each seed.

    Raises:
      ConfigError: for updates that cannot be.
      RunError: if the folder holds no run, or is in use.
    """
    path = Path(path)
    paths = seed_folders(path) or [path]
    # A run that was killed early may not have come to the folders of all its seeds.
    there = [p for p in paths if (p / "config.json").exists()] or paths[:1]
    known = [read_config(p, allow_env_import=allow_env_import) for p in there]
    most = max(config.updates for config in known)
    if updates is not None and known[0].length_matters and updates != most:
        raise ConfigError(
            f"--updates {updates}: this run brings its step size or entropy bonus to zero over "
            f"{most} updates, and one of another length is another run"
        )
    config = dataclasses.replace(known[0], updates=most if updates is None else updates)
    seeds = seeds_in(path) or [config.seed]
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    return _train(configs, path, paths, progress, num_devices, resuming=True)


def _train(
    configs: list[TrainConfig],
    folder: Path,
    paths: list[Path],
    progress: Progress | None,
    num_devices: int | None,
    *,
    resuming: bool = False,
) -> list[Run]:
    """Runs that differ in their seeds only."""
    config, writes = configs[0], jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if writes:
            stack.enter_context(locked_folder(folder, new=not resuming))
        env = stack.enter_context(open_env(config))
        agent = make_agent(config, env)
        engine = make_engine(config, env, agent, len(configs), num_devices)
        if progress is not None:
            progress.start(configs, paths, env, agent.policy)
        begun: list[Checkpoint | None] = [None] * len(paths)
        if resuming and writes:
            begun = _common(paths, configs)
        states = states_at(configs, agent, begun)
        done = int(states[0].step)
        if done > config.updates:
            raise ConfigError(f"--updates {config.updates}, but {done} are made: ask for more")
        recorders = list(map(Recorder, paths, configs, begun)) if writes else []
        last = [of.last for of in recorders] or [zero_totals(done)] * len(configs)
        commit = None if resuming else provenance.git_commit()
        book = SeedRecorders(folder, recorders, config, manifest_of(config, commit))
        if done:
            book.begin()
        show = progress.update if progress else show_nothing
        listener = Listener(
            lambda metrics, made: book.record(metrics, made.digests, made.timings), book.save, show
        )
        seeds = [c.seed for c in configs]
        states, stopped_by = loop(
            engine, seeds, states, last, config.updates, listener, config.checkpoint_seconds
        )
        book.save(states)
        book.finish(states)
        if stopped_by is not None:
            raise _saved(stopped_by, int(states[0].step), folder)
    return [Run(p, c, agent, s) for p, c, s in zip(paths, configs, states, strict=True)]


def _saved(error: BaseException, updates: int, folder: Path) -> BaseException:
    """An error that ended a run, with what is left of the run, where it is one of ours."""
    if not isinstance(error, KeyboardInterrupt | PgjaxError):
        return error
    saved = f"after {updates} updates; saved in {folder}"
    replay = error.replay if isinstance(error, RolloutError) else None
    if replay is not None:
        write_json(folder / "failure.json", replay)
        saved += ", where failure.json has the actions that lead there"
    again = type(error)(f"{error} ({saved})".lstrip())
    again.__cause__ = error
    if isinstance(again, RolloutError):
        again.replay = replay
    return again


def _common(paths: list[Path], configs: list[TrainConfig]) -> list[Checkpoint | None]:
    """The last checkpoints, one for each seed, after the same number of updates."""
    found = [
        {at.update: at for at in valid_checkpoints(path, config)}
        for path, config in zip(paths, configs, strict=True)
    ]
    update = max(set[int].intersection(*map(set, found)), default=0)
    return [of_seed.get(update) for of_seed in found]


def states_at(
    configs: list[TrainConfig], agent: Agent, begun: list[Checkpoint | None]
) -> list[TrainState]:
    """Of each seed: where it stood, or at its beginning; the same in all processes."""
    if begun[0] is not None:
        init = functools.partial(agent.init, configs[0].seed)
        states = [restore(at, init) for at in begun if at is not None]
    else:
        # Run once, and drawing alone, whose bits were the same under all options tried.
        fresh = jax.jit(agent.init, compiler_options=fastest_compile())
        try:
            states = [fresh(np.uint32(config.seed)) for config in configs]
        except jax.errors.JaxRuntimeError as e:
            raise translate_xla_error(e) from e
    if jax.process_count() > 1:
        plain = multihost_utils.broadcast_one_to_all([with_key_data(state) for state in states])
        states = [with_typed_key(jax.tree.map(jnp.asarray, state)) for state in plain]
    return states


def show_nothing(metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
    """What a run without anybody who watches is told to."""
