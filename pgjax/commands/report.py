"""Evaluate trained runs, draw their learning curves, and print the results."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from pgjax.errors import ConfigError, counted
from pgjax.evaluation.evaluate import compile_evaluation, evaluate, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.evaluation.statistics import interquartile_mean
from pgjax.runs.folder import write_json
from pgjax.runs.run import RunData
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


def report(trained: Sequence[RunData], console: Console) -> None:
    """Evaluate every run, plot learning curves, and print the results and the run folder."""
    episodes = trained[0].config.eval_episodes

    def say(*words: str) -> None:
        console.print(*words, highlight=False, soft_wrap=True)

    means = []
    for run in trained:
        if int(run.state.step):  # else it diverged in its first update
            plot(run)
        if not episodes:
            continue
        result = evaluate(run, episodes)
        write_json(run.path / "evaluation.json", result)
        means.append(result["mean"])
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
            write_json(folder / "evaluation.json", _summary(trained, means, say))
    say("run folder   ", str(folder))


def _summary(
    trained: Sequence[RunData], means: list[float], say: Callable[..., None]
) -> dict[str, Any]:
    """Summarise the evaluations of several seeds."""
    seeds = {str(run.config.seed): mean for run, mean in zip(trained, means, strict=True)}
    summary: dict[str, Any] = {"episodes": trained[0].config.eval_episodes, "mean_by_seed": seeds}
    if ended := [run.config.seed for run in trained if unfinished(run)]:
        summary["unfinished"] = ended
    try:
        over_seeds = interquartile_mean(means)
    except ConfigError as e:
        say("seeds        ", str(e))
        return summary
    say(
        "seeds        ",
        "interquartile mean {interquartile_mean:.1f}, 95 % bootstrap "
        "interval {low:.1f} to {high:.1f}".format(**over_seeds),
    )
    return summary | over_seeds


def unfinished(run: RunData) -> bool:
    """Whether a run diverged or failed; one that was interrupted is not reported."""
    return int(run.state.step) < run.config.updates
