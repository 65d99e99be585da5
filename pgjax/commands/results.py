"""Evaluate trained runs, draw their learning curves, and print the results."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from pgjax.commands.progress import counting
from pgjax.errors import counted
from pgjax.evaluation.evaluate import compile_evaluation, evaluate_each, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.evaluation.seeds import save_evaluation, seeds_summary, summary_sentence
from pgjax.runs.run import RunData, unfinished
from pgjax.training.loop import RunInfo


class EvaluationCompiler:
    """An Observer that compiles the evaluation of an on-device run during training."""

    def start(self, run: RunInfo) -> None:
        config = run.configs[0]
        if config.on_device and config.eval_episodes:
            compile_evaluation(config, config.eval_episodes)

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        pass

    def stop(self) -> None:
        pass


def show_results(trained: Sequence[RunData], console: Console) -> None:
    """Evaluate every run, plot learning curves, and print the results and the run folder."""
    episodes = trained[0].config.eval_episodes

    def say(*words: str) -> None:
        console.print(*words, highlight=False, soft_wrap=True)

    results = {}
    for run in trained:
        if int(run.state.step):  # else it diverged in its first update
            plot(run)
        if not episodes:
            continue
        with counting(console, "episodes evaluated", episodes) as ended:
            result, _ = evaluate_each(run, episodes, ended=ended)
        save_evaluation(run.path, result)
        results[run.config.seed] = result
        label = "evaluation" if len(trained) == 1 else run.path.name
        sentence = evaluation_sentence(result)
        if unfinished(run):
            of_all = counted(run.config.updates, "update")
            sentence += f", ended after {int(run.state.step):,} of {of_all}"
        say(f"{label:<13}", sentence)
    folder = trained[0].path
    if len(trained) > 1:
        folder = folder.parent
        plot(folder)
        if episodes:
            summary = seeds_summary(results, [of.config.seed for of in trained if unfinished(of)])
            say("seeds        ", summary_sentence(summary))
            save_evaluation(folder, summary)
    say("run folder   ", str(folder))
