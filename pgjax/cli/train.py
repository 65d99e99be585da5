"""Training from the command line: progress, signals, trackers, and the final report."""

import dataclasses
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.console import Console

from pgjax.cli.devices import RuntimeOptions, set_up_compile_cache, set_up_devices
from pgjax.cli.progress import Terminal, make_console
from pgjax.cli.signals import Signals
from pgjax.cli.trackers import TensorBoard, TrackerClass, Trackers, WeightsAndBiases
from pgjax.config.groups import GROUPS, RunSettings
from pgjax.config.settings import TrainConfig, warn_of_similar_presets
from pgjax.errors import ConfigError, DivergedError, counted
from pgjax.evaluation.evaluate import compile_evaluation, evaluate, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.evaluation.statistics import interquartile_mean
from pgjax.runs.folder import write_json
from pgjax.runs.run import Run
from pgjax.training.loop import Observer, RunInfo
from pgjax.training.train import train, train_seeds
from pgjax.types import field_docs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(RunSettings):
    """What to run, and how long."""

    seeds: int = 1
    """Number of seeds to train in one on-device program, starting at --seed; each writes a run
    folder seed-N."""


def _describe_options(cls: type) -> None:
    """Give the parser each field's description as one paragraph; it would keep line breaks."""
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        if field.name in docs:
            text = " ".join(docs[field.name].split())
            field.metadata = types.MappingProxyType({**field.metadata, "help": text})


for _cls in (*GROUPS, RuntimeOptions, RunOptions):
    _describe_options(_cls)


def train_command(config: TrainConfig, num_seeds: int, runtime: RuntimeOptions) -> None:
    """Run `pgjax train`."""
    warn_of_similar_presets(config.env_id, config.algorithm)

    def work(observers: Sequence[Observer]) -> list[Run]:
        if num_seeds == 1:
            return [train(config, observers, num_devices=runtime.num_devices)]
        return train_seeds(config, num_seeds, observers, num_devices=runtime.num_devices)

    train_and_report(runtime, num_seeds, work)


def train_and_report(
    options: RuntimeOptions, num_seeds: int, work: Callable[[Sequence[Observer]], list[Run]]
) -> None:
    """Call `work` to train, then evaluate, plot the learning curve, and print the results."""
    set_up_compile_cache(options.compile_cache)
    set_up_devices(options, num_seeds)
    first = jax.process_index() == 0  # the only process that prints and writes
    console = make_console(quiet=not first)
    with Signals() as signals:
        observers: list[Observer] = [Terminal(console)]
        if first:
            kinds: list[TrackerClass] = []
            if options.tensorboard:
                kinds.append(TensorBoard)
            if options.wandb:
                kinds.append(WeightsAndBiases)
            observers += [Trackers(kinds), _EvaluationCompiler()]
        try:
            trained = work([*observers, signals])
            if first:
                _report(trained, console)
            _refuse_diverged(trained)
        except BaseException as e:
            if not signals.number:  # otherwise the interrupt may have caused it
                raise
            print("pgjax:", f"interrupted {e}".rstrip(), file=sys.stderr)
        if signals.number:
            signals.end()


class _EvaluationCompiler:
    """An Observer that compiles the evaluation of an on-device run during training."""

    def start(self, run: RunInfo) -> None:
        config = run.configs[0]
        if config.on_device:
            compile_evaluation(config, config.eval_episodes)

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        pass

    def stop(self) -> None:
        pass


def _report(trained: list[Run], console: Console) -> None:
    """Evaluate every run, plot learning curves, and print the results and the run folder."""
    episodes = trained[0].config.eval_episodes

    def say(*words: str) -> None:
        console.print(*words, highlight=False, soft_wrap=True)

    means = []
    for run in trained:
        if run.metrics:  # else it diverged in its first update
            plot(run)
        result = evaluate(run, episodes)
        write_json(run.path / "evaluation.json", result)
        means.append(result["mean"])
        label = "evaluation" if len(trained) == 1 else run.path.name
        sentence = evaluation_sentence(result)
        if _diverged(run):
            of_all = counted(run.config.updates, "update")
            sentence += f", diverged after {int(run.state.step):,} of {of_all}"
        say(f"{label:<13}", sentence)
    folder = trained[0].path
    if len(trained) > 1:
        folder = folder.parent
        plot(folder)
        seeds = {str(run.config.seed): mean for run, mean in zip(trained, means, strict=True)}
        summary: dict[str, Any] = {"episodes": episodes, "mean_by_seed": seeds}
        if ended := [run.config.seed for run in trained if _diverged(run)]:
            summary["diverged"] = ended
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


def _diverged(run: Run) -> bool:
    """Whether a run ended early; one that was interrupted is not reported."""
    return int(run.state.step) < run.config.updates


def _refuse_diverged(trained: list[Run]) -> None:
    """Raise DivergedError if one of several seeds has diverged."""
    if early := [run for run in trained if _diverged(run)]:
        seeds = ", ".join(str(run.config.seed) for run in early)
        raise DivergedError(
            f"{counted(len(early), 'seed')} of {len(trained)} diverged (seed {seeds}): lower the "
            "learning rate (manifest.json in the folder of a seed says why it ended)"
        )
