"""Training from the command line: devices, progress, signals, trackers, and the report."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import platformdirs
from rich.console import Console

from pgjax import evaluate as evaluation
from pgjax import machine, processes, runs
from pgjax import plot as plotting
from pgjax.config import TrainConfig
from pgjax.errors import ConfigError
from pgjax.progress import Terminal
from pgjax.runs import Run
from pgjax.signals import Signals
from pgjax.statistics import interquartile_mean
from pgjax.trackers import TensorBoard, Trackers, WeightsAndBiases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """Where a run runs, and who is told of it; none of it changes a result."""

    num_devices: int | None = None
    """Devices that share the episodes of an update, or the seeds; changes the speed, never the
    result. By default one, for several seeds as many as there are, and all those of several
    processes."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, which each run this command; or auto, where
    SLURM, Kubernetes or a TPU pod tell it."""
    num_processes: int | None = None
    """How many processes; with --coordinator HOST:PORT."""
    process_id: int | None = None
    """Number of this process, from 0; with --coordinator HOST:PORT."""
    compile_cache: bool = True
    """Keep what was compiled in your cache folder, so that the next run starts sooner."""
    tensorboard: bool = False
    """Also write the metrics as event files, to RUN/tensorboard."""
    wandb: bool = False
    """Also write the metrics as an offline run of Weights & Biases, to RUN/wandb."""


def train_and_report(
    running: Running, num_seeds: int, work: Callable[[Terminal], list[Run]]
) -> None:
    """Train by `work`, evaluate, draw, and say what came of it."""
    keep_compiled(running.compile_cache)
    set_up_devices(running, num_seeds)
    first = jax.process_index() == 0  # the only one to show and to write anything
    console = Console(quiet=not first)
    with Signals() as signals:
        kinds = [TensorBoard] * running.tensorboard + [WeightsAndBiases] * running.wandb
        terminal = _Terminal(console, signals, Trackers(kinds if first else []))
        try:
            try:
                trained = work(terminal)
            finally:
                terminal.stop()
                signals.patient = False
            if first:
                _report(trained, console)
        except BaseException as e:  # what an end that was asked for can bring about is no error
            if not signals.number:
                raise
            print("pgjax:", f"interrupted {e}".rstrip(), file=sys.stderr)
        if signals.number:
            signals.end()


class _Terminal(Terminal):
    def __init__(self, console: Console, signals: Signals, trackers: Trackers):
        super().__init__(console)
        self._signals, self._trackers = signals, trackers

    def start(self, configs: list[TrainConfig], paths: list[Path], env: Any, policy: Any) -> None:
        super().start(configs, paths, env, policy)
        self._trackers.start(list(zip(paths, configs, strict=True)))
        if configs[0].on_device and jax.process_index() == 0:
            evaluation.compile_ahead(configs[0], configs[0].eval_episodes)
        self._signals.patient = True

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        super().update(metrics, timings)
        self._trackers.update(metrics)
        self._signals.check()

    def stop(self) -> None:
        super().stop()
        self._trackers.stop()


def _report(trained: list[Run], console: Console) -> None:
    """Evaluate, draw and tell where it is."""
    episodes = trained[0].config.eval_episodes

    def say(*words: str) -> None:
        console.print(*words, highlight=False, soft_wrap=True)

    means = []
    for run in trained:
        plotting.learning_curve(run.path)
        result = evaluation.evaluate(run, episodes)
        runs.write_json(run.path / "evaluation.json", result)
        means.append(result["mean"])
        say(f"{'evaluation' if len(trained) == 1 else run.path.name:<13}", sentence(result))
    folder = trained[0].path
    if len(trained) > 1:
        folder = folder.parent
        plotting.learning_curve(folder)
        seeds = {str(run.config.seed): mean for run, mean in zip(trained, means, strict=True)}
        summary: dict[str, Any] = {"episodes": episodes, "mean_by_seed": seeds}
        try:
            over_seeds = interquartile_mean(means)
            summary |= over_seeds
            say(
                "seeds        ",
                "interquartile mean {interquartile_mean:.1f}, 95 % bootstrap "
                "interval {low:.1f} to {high:.1f}".format(**over_seeds),
            )
        except ConfigError as e:
            say("seeds        ", str(e))
        runs.write_json(folder / "evaluation.json", summary)
    say("run folder   ", str(folder))


def set_up_devices(running: Running, num_seeds: int) -> None:
    """Join the other processes, and take the cores of a CPU as devices where that is of use."""
    share = -(-(running.num_devices or num_seeds) // (running.num_processes or 1))
    wanted = min(share, machine.threads())
    if wanted > 1 and "--xla_force_host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        with contextlib.suppress(RuntimeError):  # they are what they are, once computed with
            jax.config.update("jax_num_cpu_devices", wanted)
    if running.coordinator is None:
        if running.num_processes is not None or running.process_id is not None:
            raise ConfigError("several processes need --coordinator HOST:PORT, the same for all")
    else:
        processes.join(running.coordinator, running.num_processes, running.process_id)
    machine.require_device()


def keep_compiled(compile_cache: bool) -> None:
    """Turn on JAX's persistent compilation cache, unless the user's own settings speak of it."""
    if not compile_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.values["jax_compilation_cache_dir"] is None:
        folder = platformdirs.user_cache_path("pgjax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def sentence(result: dict[str, Any]) -> str:
    """The figures of an evaluation, for a person."""
    return (
        "mean {mean:.1f}  std {std:.1f}  min {min:.1f}  max {max:.1f}  "
        "mean length {mean_length:.1f}  over {episodes} episodes"
    ).format(**result)
