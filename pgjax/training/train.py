"""Start or resume a run and write its folder."""

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pgjax.config.agent import Agent, doubts, make_agent
from pgjax.config.env import open_env
from pgjax.config.probe import why_not_reproducible
from pgjax.config.settings import EnvSource, TrainConfig
from pgjax.errors import (
    ConfigError,
    PgjaxError,
    RolloutError,
    RunWarning,
    check_count,
    counted,
    short_repr,
)
from pgjax.numerics.xla import fastest_compile, translate_xla_errors
from pgjax.runs import checkpoints, folder
from pgjax.runs.checkpoints import CheckpointName
from pgjax.runs.recorder import Recorder, SeedRecorders, new_manifest, zero_totals
from pgjax.runs.run import RunData, RunLike, given_env, is_complete, load, run_path
from pgjax.runs.states import RunState, train_state, with_stream
from pgjax.runs.store import Checkpoint
from pgjax.training.engines import Engine, make_engine
from pgjax.training.loop import Observer, RunInfo, observing, run_updates, watcher
from pgjax.training.processes import train_in_processes
from pgjax.types import TrainState

# (run as it is after an update, metrics of the update) -> mean return: evaluates it, for
# --eval-every.
Evaluator = Callable[[RunData, dict[str, Any]], float]


def train(
    config: TrainConfig,
    observers: Sequence[Observer] = (),
    *,
    num_devices: int | None = None,
    evaluator: Evaluator | None = None,
) -> RunData:
    """Train one seed and write its run folder; see `pgjax.train`."""
    _check_config(config)
    path = _new_run_dir(config)
    return _train([config], path, [path], observers, num_devices, evaluator)[0]


def train_seeds(
    config: TrainConfig,
    num_seeds: int,
    observers: Sequence[Observer] = (),
    *,
    num_devices: int | None = None,
    evaluator: Evaluator | None = None,
) -> list[RunData]:
    """Train several seeds in one program; see `pgjax.train_seeds`."""
    _check_config(config)
    num_seeds = check_count("--seeds", num_seeds, folder.MOST_SEEDS)
    root = _new_run_dir(config)
    seeds = range(config.seed, config.seed + num_seeds)
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    paths = [folder.seed_folder(root, seed) for seed in seeds]
    if config.on_device:
        return _train(configs, root, paths, observers, num_devices, evaluator)
    _refuse_devices(num_devices)
    train_in_processes(configs, root, paths, observers)
    return _saved(paths)


def _refuse_devices(num_devices: int | None) -> None:
    if num_devices not in (None, 1) or jax.process_count() > 1:
        raise ConfigError(
            "seeds of the Python loop are trained in processes of their own on this machine: leave "
            "out --num-devices and --coordinator, or add --on-device"
        )


def _saved(paths: list[Path]) -> list[RunData]:
    """Load the seeds that have saved a state."""
    there = [path for path in paths if (path / "config.json").exists()]
    return [load(path, allow_env_import=True) for path in there]


def resume(
    run: RunLike,
    observers: Sequence[Observer] = (),
    *,
    updates: int | None = None,
    checkpoint: CheckpointName | str = "last",
    num_devices: int | None = None,
    allow_env_import: bool = False,
    env: EnvSource | None = None,
    evaluator: Evaluator | None = None,
) -> list[RunData]:
    """Resume a run, or the seeds of a folder; see `pgjax.resume`."""
    path = run_path(run)
    paths = [folder.seed_folder(path, seed) for seed in folder.seeds_in(path)] or [path]
    if checkpoint != "last" and paths != [path]:
        raise ConfigError(
            f"--checkpoint {checkpoint}: choose it for each seed, as in "
            f"{folder.resume_command(paths[0])} --checkpoint {checkpoint}"
        )
    ended = [p for p in paths if p != path and folder.diverged(p)]
    paths = [p for p in paths if p not in ended]
    # A run that was killed early may lack the folders of some seeds.
    there = [p for p in paths if (p / "config.json").exists()] or paths[:1]
    options: Any = {"allow_env_import": allow_env_import, "env": given_env(run, env)}
    known = [folder.read_config(p, **options) for p in there]
    most = max(config.updates for config in known)
    if updates is not None and known[0].length_matters and updates != most:
        raise ConfigError(
            f"--updates {updates}: the learning rate or entropy bonus is annealed over "
            f"{counted(most, 'update')}, so the number of updates cannot change"
        )
    config = dataclasses.replace(known[0], updates=most if updates is None else updates)
    seeds = [seed for seed in folder.seeds_in(path) if folder.seed_folder(path, seed) in paths]
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds or [config.seed]]
    if seeds and not config.on_device:
        _refuse_devices(num_devices)
        train_in_processes(configs, path, paths, observers, resuming=True)
        return _saved([folder.seed_folder(path, seed) for seed in folder.seeds_in(path)])
    runs = _train(
        configs,
        path,
        paths,
        observers,
        num_devices,
        evaluator,
        resuming=True,
        checkpoint=checkpoint,
    )
    for of_seed in ended:
        config = folder.read_config(of_seed, **options)
        agent = runs[0].agent
        runs.append(RunData(of_seed, config, agent, _last_state(of_seed, config, agent)))
    return sorted(runs, key=lambda run: run.config.seed)


def _check_config(config: TrainConfig) -> None:
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"training takes a TrainConfig, got {short_repr(config)}: pass "
            "pgjax.TrainConfig.preset(env_id)"
        )


def _new_run_dir(config: TrainConfig) -> Path:
    """The new run folder; only the first process checks it."""
    if config.run_dir is not None and jax.process_index() > 0:
        return folder.absolute(config.run_dir)
    return folder.new_run_dir(config)


def _train(
    configs: list[TrainConfig],
    run_dir: Path,
    paths: list[Path],
    observers: Sequence[Observer],
    num_devices: int | None,
    evaluator: Evaluator | None,
    *,
    resuming: bool = False,
    checkpoint: CheckpointName | str = "last",
) -> list[RunData]:
    """Train runs that differ only in their seed."""
    config, writes = configs[0], jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if writes:
            stack.enter_context(folder.locked_folder(run_dir, new=not resuming))
        # Before the environments of the training are opened: there may be only one at a time.
        why_not = why_not_reproducible(config) if writes else None
        env = stack.enter_context(open_env(config))
        agent = make_agent(config, env)
        for doubt in doubts(config, env) if writes and not resuming else []:
            warnings.warn(doubt, RunWarning, stacklevel=3)
        watch = watcher(observers)
        engine = make_engine(config, env.env, agent, len(configs), num_devices, watch)
        spaces = env.observation_space, env.action_space
        info = RunInfo(configs, paths, *spaces, agent.policy, env.time_limit, engine.devices)
        stack.enter_context(observing(observers, info))
        resumed_from: list[Checkpoint | None] = [None] * len(paths)
        if resuming and writes:
            resumed_from = _common_checkpoints(paths, configs, checkpoint)
        states = states_at(configs, env.env, agent, resumed_from)
        done = int(states[0].step)
        if done > config.updates:
            raise ConfigError(
                f"--updates {config.updates}, but the run already has {done}: choose more"
            )

        def evaluate(states: list[RunState], metrics: list[dict[str, Any]]) -> list[float | None]:
            if not writes or evaluator is None:
                return [None] * len(states)
            of_seeds = zip(paths, configs, states, metrics, strict=True)
            return [
                evaluator(RunData(path, config, agent, train_state(state)), row)
                if row["update"] == int(state.step)  # else it has diverged
                else None
                for path, config, state, row in of_seeds
            ]

        complete = checkpoint == "last" and all(map(is_complete, paths, configs))
        if not (resuming and writes and complete):
            recorders = list(map(Recorder, paths, configs, resumed_from)) if writes else []
            folders = SeedRecorders(run_dir, recorders, new_manifest(config), why_not)
            if done:
                folders.begin()
            last = [of.last for of in recorders] or [zero_totals(done)] * len(configs)
            states = _record_updates(
                engine, configs, states, last, folders, observers, run_dir, evaluate
            )
    runs = zip(paths, configs, states, strict=True)
    return [RunData(path, config, agent, train_state(state)) for path, config, state in runs]


def _record_updates(
    engine: Engine,
    configs: list[TrainConfig],
    states: list[RunState],
    last: list[dict[str, Any]],
    folders: SeedRecorders,
    observers: Sequence[Observer],
    run_dir: Path,
    evaluate: Callable[[list[RunState], list[dict[str, Any]]], list[float | None]],
) -> list[RunState]:
    """Run the remaining updates and record them; always save the progress."""
    config, seeds = configs[0], [config.seed for config in configs]
    current, saved, recorded = None, float("-inf"), last[0]["update"] > 0
    ended: dict[int, RunState] = {}

    def end_seed(i: int, state: RunState, reason: str) -> None:
        ended[i] = state
        folders.end_seed(i, state, reason)

    def finish() -> list[RunState]:
        final = states if current is None else engine.end(current)
        final = [ended.get(i, state) for i, state in enumerate(final)]
        folders.save(final)
        folders.finish(final)
        return final

    try:
        with translate_xla_errors():
            most, every = config.updates, config.eval_every
            for records, after in run_updates(engine, seeds, states, last, most, end_seed, every):
                folders.record(*records)
                current, recorded = after, True
                for *of_seeds, timings in zip(*records.metrics, records.timings, strict=True):
                    for observer in observers:
                        observer.update(of_seeds, timings)
                newest = [of_seed[-1] for of_seed in records.metrics]
                evaluating = every and max(of["update"] for of in newest) % every == 0
                if evaluating or time.monotonic() - saved >= config.checkpoint_seconds:
                    now = engine.end(current)
                    folders.save(now, evaluate(now, newest) if evaluating else None)
                    saved = time.monotonic()
    except BaseException as e:
        if not recorded:
            raise
        updates = max(int(state.step) for state in finish())
        if not isinstance(e, KeyboardInterrupt | PgjaxError):
            raise
        raise _with_saved(e, updates, run_dir) from e
    return finish()


def _with_saved(
    error: KeyboardInterrupt | PgjaxError, updates: int, run_dir: Path
) -> KeyboardInterrupt | PgjaxError:
    """The error that ended a run, with a note on what is saved."""
    saved = f"after {counted(updates, 'update')}; saved in {run_dir}"
    if isinstance(error, KeyboardInterrupt):
        saved += f"; to continue: {folder.resume_command(run_dir)}"
    replay = error.replay if isinstance(error, RolloutError) else None
    if replay is not None:
        folder.write_json(run_dir / "failure.json", replay)
        saved += ", where failure.json holds the actions that led to it"
    noted = type(error)(f"{error} ({saved})".lstrip())
    if isinstance(noted, RolloutError):
        noted.replay = replay
    return noted


def _common_checkpoints(
    paths: list[Path], configs: list[TrainConfig], name: CheckpointName | str
) -> list[Checkpoint | None]:
    """For each seed, the latest checkpoint at an update that all seeds have, or None.

    With another name than "last", which only a single run may have, that checkpoint.
    """
    if name != "last":
        return [checkpoints.choose(checkpoints.valid_checkpoints(paths[0], configs[0]), name)]
    found = [
        {at.update: at for at in checkpoints.valid_checkpoints(path, config)}
        for path, config in zip(paths, configs, strict=True)
    ]
    for path, of_seed in zip(paths, found, strict=True):
        if not of_seed:
            checkpoints.refuse_changed_logs(path)
    update = max(set[int].intersection(*map(set, found)), default=0)
    return [of_seed.get(update) for of_seed in found]


def _last_state(path: Path, config: TrainConfig, agent: Agent) -> TrainState:
    """The state of a run's last valid checkpoint, or the initial one, the same in all processes."""
    found = next(checkpoints.valid_checkpoints(path, config), None)
    with open_env(config, 1) as env:
        first = found if jax.process_index() == 0 else None
        return train_state(states_at([config], env.env, agent, [first])[0])


def states_at(
    configs: list[TrainConfig], env: Any, agent: Agent, resumed_from: Sequence[Checkpoint | None]
) -> list[RunState]:
    """Restore or initialise the state of each seed, the same in all processes."""

    def init(seed: Any) -> RunState:
        return with_stream(configs[0], env, agent.init(seed))

    if resumed_from[0] is not None:
        like = functools.partial(init, configs[0].seed)
        states = [checkpoints.restore(at, like) for at in resumed_from if at is not None]
    else:
        # Runs once and mostly draws random numbers, whose bits did not depend on compiler options
        # in any test.
        fresh = jax.jit(init, compiler_options=fastest_compile())
        with translate_xla_errors():
            states = [fresh(np.uint32(config.seed)) for config in configs]
    if jax.process_count() > 1:
        plain = [checkpoints.with_key_data(state) for state in states]
        plain = multihost_utils.broadcast_one_to_all(plain)
        pairs = zip(plain, states, strict=True)
        states = [checkpoints.with_typed_keys(state, like) for state, like in pairs]
    return states
