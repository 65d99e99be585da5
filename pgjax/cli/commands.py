"""All commands except train."""

import json as json_lines
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from pgjax.cli.comparison import comparison_table
from pgjax.cli.devices import DeviceOptions, RuntimeOptions, set_up_compile_cache, set_up_devices
from pgjax.cli.trackers import TrackerOptions
from pgjax.cli.train import refuse_unfinished, running
from pgjax.commands.progress import counting, gradient_table, gradient_verdict, make_console
from pgjax.commands.train import resume, why_complete
from pgjax.commands.verify import verdict, verify
from pgjax.evaluation.compare import compare
from pgjax.evaluation.evaluate import evaluate_each, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.evaluation.report import report
from pgjax.evaluation.seeds import summary_sentence
from pgjax.runs.folder import absolute, seed_folders, seeds_in
from pgjax.runs.run import run_path

RunFolder = Annotated[Positional[Path], arg(metavar="RUN")]
RunFolders = Annotated[
    Positional[tuple[Path, ...]],
    arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]

Checkpoint = Annotated[str, arg(metavar="best|last|N")]


def _resume(
    run: RunFolder,
    *,
    device: Annotated[DeviceOptions, OmitArgPrefixes] = DeviceOptions(),  # noqa: B008  (frozen)
    tracker: Annotated[TrackerOptions, OmitArgPrefixes] = TrackerOptions(),  # noqa: B008
    updates: int | None = None,
    checkpoint: Checkpoint = "last",
    allow_env_import: bool = False,
) -> None:
    """Resume an interrupted run, or extend a complete one.

    A complete run is left as it is, unless --updates is larger than before.

    Args:
        run: The run folder, of one seed or of several.
        device: Devices and processes.
        tracker: Copies of the metrics for other programs.
        updates: Total number of updates, to extend a complete run.
        checkpoint: Continue from the last checkpoint, from the best, or from the one written after
            an update; the updates after it are dropped and made again.
        allow_env_import: Allow the environment and wrappers that the folder names to import code.
    """
    if checkpoint == "last" and (said := why_complete(run_path(run), updates)):
        print(said)
        return
    num_seeds = len(seeds_in(run)) or 1
    with running(RuntimeOptions.of(device, tracker), num_seeds) as observers:
        resumed = resume(
            run,
            observers,
            updates=updates,
            checkpoint=checkpoint,
            num_devices=device.num_devices,
            allow_env_import=allow_env_import,
            progress=True,
        )
        refuse_unfinished(resumed, num_seeds)


def _evaluate(
    run: RunFolder,
    *,
    episodes: int = 100,
    seed: int = 1000,
    stochastic: bool = False,
    checkpoint: Checkpoint = "last",
    save: bool = False,
    json: bool = False,
    allow_env_import: bool = False,
    compile_cache: bool = True,
) -> None:
    """Run new episodes with a trained agent and print statistics of their returns.

    In the folder of several seeds, each has episodes of its own. If the environment has no time
    limit, episodes are cut off after 10,000 steps.

    Args:
        run: The run folder, of one seed or of several.
        episodes: Number of episodes of each run.
        seed: Random seed, independent of training. In a folder of several seeds, the run of seed s
            uses this one plus s.
        stochastic: Sample actions instead of taking the mode of the policy.
        checkpoint: The last, the one with the best mean return, or that of an update.
        save: Replace evaluation.json in the run folder.
        json: Print one JSON line, with the return of each episode.
        allow_env_import: Allow the environment and wrappers that the folder names to import code.
        compile_cache: Keep compiled programs in your cache folder.
    """
    set_up_compile_cache(compile_cache)
    total = episodes * (len(seed_folders(absolute(run))) or 1)
    with counting(make_console(quiet=json), "episodes evaluated", total) as ended:
        result, by_seed = evaluate_each(
            run,
            episodes,
            seed,
            stochastic=stochastic,
            save=save,
            checkpoint=checkpoint,
            allow_env_import=allow_env_import,
            ended=ended,
        )
    if json:
        print(json_lines.dumps(result))
        return
    for name, of_seed in by_seed.items():
        print(f"{name:<13}", evaluation_sentence(of_seed))
    print(f"{'seeds':<13} {summary_sentence(result)}" if by_seed else evaluation_sentence(result))


def _render(
    run: RunFolder,
    *,
    out: Path | None = None,
    episodes: int = 1,
    seed: int = 1000,
    stochastic: bool = False,
    checkpoint: Checkpoint = "last",
    allow_env_import: bool = False,
) -> None:
    """Write a video of a trained agent.

    If the environment has no time limit, episodes are cut off after 1,000 steps.

    Args:
        run: The run folder; that of several seeds shows one after the other.
        out: The video, .mp4 or .gif; by default video.mp4 in the run folder.
        episodes: Number of episodes of each run, one after the other.
        seed: Random seed, independent of training. The same seed shows the episodes of `pgjax
            evaluate`, except for an on-device run: Gymnasium's environment is rendered.
        stochastic: Sample actions instead of taking the mode of the policy.
        checkpoint: The last, the one with the best mean return, or that of an update.
        allow_env_import: Allow the environment and wrappers that the folder names to import code.
    """
    from pgjax.evaluation.video import render

    with counting(make_console(), "images drawn") as drawn:
        path = render(
            run,
            out,
            episodes,
            seed,
            stochastic=stochastic,
            checkpoint=checkpoint,
            allow_env_import=allow_env_import,
            drawn=drawn,
        )
    print(path)


def _plot(runs: RunFolders, *, out: Path | None = None, smooth: int = 1) -> None:
    """Plot the learning curve of a run, or compare those of several runs of one task.

    Runs whose settings differ only in the seed become one curve, with a band over the seeds. The
    legend names the settings in which the curves differ.

    Args:
        runs: Run folders, of one seed or of several.
        out: Image file; by default learning_curve.png in the run folder. Several runs need it.
        smooth: Show a moving average over this many updates.
    """
    print(plot(runs, out, smooth=smooth))


def _compare(runs: RunFolders, *, json: bool = False) -> None:
    """Compare the evaluations of runs of one task, from their evaluation.json.

    Runs whose settings differ only in the seed become one row, with the interquartile mean over
    the seeds and its interval, and the probability that a seed of the first row has a higher return
    than one of this row.

    Args:
        runs: Run folders, of one seed or of several.
        json: Print one JSON line.
    """
    found = compare(*runs)
    if json:
        print(json_lines.dumps(found))
    else:
        make_console().print(comparison_table(found))


def _report(
    runs: RunFolders,
    *,
    out: Path | None = None,
    smooth: int = 1,
    video: bool = False,
    allow_env_import: bool = False,
) -> None:
    """Write a report of runs of one task: an HTML file that needs no network.

    It has learning curves, evaluations, the probability of improvement of the first group over the
    others, settings, videos from the run folders, machine and packages, and for each run the digest
    of its parameters and the command that verifies it.

    Args:
        runs: Run folders, of one seed or of several.
        out: The .html file; by default report.html in the run folder. Several runs need it.
        smooth: Show a moving average over this many updates.
        video: Render an episode of each group of runs that has no video in its folder.
        allow_env_import: Allow the environment and wrappers that the folder names to import code.
    """
    print(report(runs, out, smooth=smooth, video=video, allow_env_import=allow_env_import))


def _verify(
    run: RunFolder,
    *,
    updates: str | None = None,
    sample: int | None = None,
    num_devices: int | None = None,
    json: bool = False,
    allow_env_import: bool = False,
    compile_cache: bool = True,
) -> None:
    """Train a run again from its settings and compare every update. Writes nothing.

    Compares the metrics and the parameters after each update, the last checkpoint, and the
    evaluation (not with --updates or --sample). Exits with 0 if all are identical, else 1.

    Args:
        run: The run folder.
        updates: Compare only updates A:B, starting from the last checkpoint before A.
        sample: Compare only so many updates from the beginning, and after each checkpoint kept.
        num_devices: Number of devices that share the episodes of an update.
        json: Print one JSON line.
        allow_env_import: Allow the environment and wrappers that the folder names to import code.
        compile_cache: Keep compiled programs in your cache folder.
    """
    set_up_compile_cache(compile_cache)
    set_up_devices(RuntimeOptions(num_devices=num_devices), 1)
    found = verify(
        run,
        updates=updates,
        sample=sample,
        num_devices=num_devices,
        allow_env_import=allow_env_import,
        progress=not json,
    )
    print(json_lines.dumps(found) if json else verdict(found))
    if not found["identical"]:
        raise SystemExit(1)


def _export(
    run: RunFolder,
    *,
    out: Path | None = None,
    format: Literal["orbax", "csv"] = "orbax",
    checkpoint: Checkpoint = "last",
    allow_env_import: bool = False,
) -> None:
    """Write a run in a format that other programs read.

    Args:
        run: The run folder.
        out: What to write; by default orbax or metrics.csv in the run folder.
        format: The TrainState for Orbax, or the metrics as CSV.
        checkpoint: The TrainState to export: last, best, or the number of an update.
        allow_env_import: Allow the environment and wrappers that the folder names to import code.
    """
    from pgjax.runs.export import export

    print(export(run, out, format=format, checkpoint=checkpoint, allow_env_import=allow_env_import))


def _gradcheck(*, json: bool = False) -> None:
    """Compare the expected gradient of every estimator with the exact gradient, on small MDPs.

    Exits with 0 if every expectation matches the documentation to 1e-10, else 1.

    Args:
        json: Print the result as a line of JSON.
    """
    from pgjax.gradcheck import compare

    console = make_console(quiet=json)
    deferred = compare.deferred_rows()
    rows = []
    with counting(console, "expectations computed", len(deferred)) as computed:
        for row in deferred:
            rows.append(row())
            computed(1)
    if json:
        print(json_lines.dumps([{**row._asdict(), "ok": row.ok} for row in rows]))
    console.print(gradient_table(rows))
    console.print(gradient_verdict(rows), highlight=False)
    if not all(row.ok for row in rows):
        raise SystemExit(1)


COMMANDS: dict[str, Callable[..., None]] = {
    "resume": _resume,
    "verify": _verify,
    "evaluate": _evaluate,
    "render": _render,
    "plot": _plot,
    "compare": _compare,
    "report": _report,
    "export": _export,
    "gradcheck": _gradcheck,
}
