"""Training from the command line: devices, progress, signals, trackers, and the report."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from pgjax.cli.devices import RuntimeOptions, keep_compiled, set_up_devices
from pgjax.cli.progress import Terminal
from pgjax.cli.signals import Signals
from pgjax.cli.trackers import TensorBoard, Trackers, WeightsAndBiases
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError
from pgjax.evaluation.evaluate import compile_ahead, evaluate, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.evaluation.statistics import interquartile_mean
from pgjax.runs.folder import write_json
from pgjax.runs.run import Run


def train_and_report(
    running: RuntimeOptions, num_seeds: int, work: Callable[[Terminal], list[Run]]
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
            compile_ahead(configs[0], configs[0].eval_episodes)
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
        plot(run.path)
        result = evaluate(run, episodes)
        write_json(run.path / "evaluation.json", result)
        means.append(result["mean"])
        say(
            f"{'evaluation' if len(trained) == 1 else run.path.name:<13}",
            evaluation_sentence(result),
        )
    folder = trained[0].path
    if len(trained) > 1:
        folder = folder.parent
        plot(folder)
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
        write_json(folder / "evaluation.json", summary)
    say("run folder   ", str(folder))
