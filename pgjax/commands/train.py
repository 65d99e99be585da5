"""Train and resume runs: the run folder, with its evaluation and learning curve."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from pgjax.commands.run import Run
from pgjax.config.settings import EnvSource, TrainConfig
from pgjax.errors import ConfigError, RunWarning, counted
from pgjax.evaluation.during import record_evaluation
from pgjax.runs.checkpoints import CheckpointName
from pgjax.runs.folder import (
    diverged,
    load_config,
    resume_command,
    seed_folder,
    seeds_in,
)
from pgjax.runs.run import RunData, RunLike, is_complete, run_path
from pgjax.training import train as training
from pgjax.training.loop import Observer

_SHOWING = ("matplotlib", "rich", "scipy")  # the extra `cli` installs them


def train(
    config: TrainConfig,
    observers: Sequence[Observer] = (),
    *,
    num_devices: int | None = None,
    progress: bool | None = None,
) -> Run:
    """Train an agent, evaluate it, and write its run folder, as the command `pgjax train` does.

    Use it to train one seed; `train_seeds` trains several. Nothing is written before the first
    update has succeeded. After that, if an interrupt (Ctrl-C) or an error stops the run, the
    progress is saved and the exception is raised again. After jax.distributed.initialize, every
    process must call this with the same config; only the first one writes.

    Args:
      config: the settings.
      observers: follow the run; see `pgjax.Observer`.
      num_devices: number of devices that share the episodes of an update; by default one, or all
        devices of several processes. It never changes the result.
      progress: show progress and results (True) or nothing (False); by default they are shown in a
        terminal and in a notebook.

    Returns:
      The run, with its final TrainState.

    Raises:
      ConfigError, SpaceError: if the config or the environment cannot be used; raised before the
        first step.
      RolloutError: if the environment raises, hangs, or returns an invalid result.
      DivergedError: if a loss, a gradient or the parameters are not finite.
      RunError: if the run folder is in use, memory runs out, or another process is lost.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> run.metrics["total_episodes"].tolist()
      [2, 4]
    """

    def work(observers: Sequence[Observer]) -> list[RunData]:
        run = training.train(
            config, observers, num_devices=num_devices, evaluator=record_evaluation
        )
        return [run]

    [run] = _with_report(work, observers, progress)
    return run


def train_seeds(
    config: TrainConfig,
    num_seeds: int,
    observers: Sequence[Observer] = (),
    *,
    num_devices: int | None = None,
    progress: bool | None = None,
) -> list[Run]:
    """Train the seeds config.seed, config.seed + 1, ... side by side.

    Use it to measure how much results vary between seeds. The run folder holds a run folder seed-N
    for each seed; its results are bit-identical to those that `train` writes for that seed. With
    on_device=True all seeds are trained in one program, and the devices share them: by default one
    per seed, or as many as there are. Otherwise each is trained in a process of its own, as many at
    a time as there are cores; an environment that a script registers must then be named module:Id,
    so that the processes can import it.

    A seed that diverges or fails ends with a RunWarning, and the others go on. Its run holds the
    last state that was saved.

    Args:
      config: the settings.
      num_seeds: number of seeds, 1 to 100,000.
      observers, num_devices, progress: as for `train`.

    Returns:
      The runs, one per seed, in the order of the seeds, without those that failed before they saved
      anything.

    Raises:
      ConfigError: if num_seeds is out of range, or num_devices is given without on_device.
      DivergedError, RolloutError, RunError: if no seed is left.
      Otherwise as for `train`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "runs"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, num_shards=2,
      ...                            on_device=True, run_dir=path)
      >>> [run.path.name for run in pgjax.train_seeds(config, 2)]
      ['seed-0', 'seed-1']
    """

    def work(observers: Sequence[Observer]) -> list[RunData]:
        return training.train_seeds(
            config, num_seeds, observers, num_devices=num_devices, evaluator=record_evaluation
        )

    return _with_report(work, observers, progress)


def resume(
    run: RunLike,
    observers: Sequence[Observer] = (),
    *,
    updates: int | None = None,
    checkpoint: CheckpointName | str = "last",
    num_devices: int | None = None,
    allow_env_import: bool = False,
    env: EnvSource | None = None,
    progress: bool | None = None,
) -> list[Run]:
    """Resume an interrupted run and return a list of runs, one per seed.

    Use it after an interrupt or a crash, or with `updates` to extend a finished run. On the same
    machine, if the manifest says `bit_exact`, the result is byte-identical to that of an
    uninterrupted run (except for timings). A complete run is returned and not written to. A seed
    that diverged while others went on is left as it is.

    Args:
      run: a run folder, the folder of several seeds, or a Run.
      observers, num_devices, progress: as for `train`; num_devices may differ from before.
      updates: the total number of updates; by default that of the run's settings.
      checkpoint: where to continue, as for `pgjax.load`; for a single run only. The updates after
        it are dropped from the folder and made again, a complete run's too.
      allow_env_import, env: as for `pgjax.load`.

    Returns:
      A list with one run per seed; for the folder of a single run it has one element.

    Raises:
      ConfigError: if the run cannot have this number of updates.
      RunError: if it is not a run folder, is damaged, or is in use, or the checkpoint is missing.
      Otherwise as for `train`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> [longer] = pgjax.resume(path, updates=2)
      >>> int(longer.state.step)
      2
    """

    def work(observers: Sequence[Observer]) -> list[RunData]:
        return training.resume(
            run,
            observers,
            updates=updates,
            checkpoint=checkpoint,
            num_devices=num_devices,
            allow_env_import=allow_env_import,
            env=env,
            evaluator=record_evaluation,
        )

    if checkpoint == "last" and why_complete(run_path(run), updates):
        return [Run(*of_seed) for of_seed in work(observers)]
    return _with_report(work, observers, progress)


def why_complete(path: Path, updates: int | None) -> str | None:
    """Say that nothing is left to do in a run, and how to extend it; None if something is left."""
    paths = [seed_folder(path, seed) for seed in seeds_in(path)] or [path]
    paths = [p for p in paths if not diverged(p)]
    whole = paths and all((p / "config.json").exists() for p in paths)
    if not whole:
        return None
    configs = [load_config(p) for p in paths]
    of = configs[0]
    if of.eval_episodes and not (path / "evaluation.json").exists():
        return None
    if updates not in (None, of.updates) or not all(map(is_complete, paths, configs)):
        return None
    complete = (
        f"{path} is complete, with {counted(of.updates, 'update')}"
        + " and an evaluation" * bool(of.eval_episodes)
    )
    if of.length_matters:
        return (
            f"{complete}; a setting is annealed over its length, so to train longer, train again "
            "with more --updates"
        )
    return f"{complete}; to extend it: {resume_command(path)} --updates N"


def _with_report(
    work: Callable[[Sequence[Observer]], list[RunData]],
    observers: Sequence[Observer],
    progress: bool | None,
) -> list[Run]:
    """Call `work` to train, showing progress; then evaluate, plot, and show the results."""
    if missing := [name for name in _SHOWING if importlib.util.find_spec(name) is None]:
        names = " and ".join(missing)
        if progress:
            raise ConfigError(f'showing progress needs {names}: pip install "pgjax[cli]"')
        runs = work(observers)
        warnings.warn(
            f'the run is not evaluated or plotted without {names}: pip install "pgjax[cli]"',
            RunWarning,
            stacklevel=3,
        )
        return [Run(*run) for run in runs]
    from pgjax.commands.progress import Terminal, interactive, make_console
    from pgjax.commands.results import EvaluationCompiler, show_results

    first = jax.process_index() == 0  # the only process that prints and writes
    shown = interactive() if progress is None else progress
    console = make_console(quiet=not (first and shown))
    mine: list[Observer] = [Terminal(console)]
    if first:
        mine.append(EvaluationCompiler())
    runs = work([*mine, *observers])
    if first:
        try:
            show_results(runs, console)
        except KeyboardInterrupt as e:
            path = runs[0].path if len(runs) == 1 else runs[0].path.parent
            raise type(e)(f"(while evaluating; to continue: {resume_command(path)})") from e
    return [Run(*run) for run in runs]
