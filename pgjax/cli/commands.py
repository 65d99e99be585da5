"""All commands except train."""

import json as json_lines
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from pgjax.cli.devices import RuntimeOptions, keep_compiled, set_up_devices
from pgjax.cli.progress import Terminal, gradient_table
from pgjax.cli.train import train_and_report
from pgjax.evaluation.evaluate import evaluate, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.runs.folder import seed_folders
from pgjax.runs.run import Run, load
from pgjax.training.loop import Observer
from pgjax.training.train import resume


def _resume(
    run: Positional[Path],
    *,
    options: Annotated[RuntimeOptions, OmitArgPrefixes] = RuntimeOptions(),  # noqa: B008  (frozen)
    updates: int | None = None,
    allow_env_import: bool = False,
) -> None:
    """Resume an interrupted run.

    Args:
        run: The run folder, of one seed or of several.
        options: Devices, processes and trackers.
        updates: New total number of updates, to extend a finished run.
        allow_env_import: Allow an environment id module:Name, which imports that module.
    """

    def work(observers: Sequence[Observer]) -> list[Run]:
        return resume(
            run,
            observers,
            updates=updates,
            num_devices=options.num_devices,
            allow_env_import=allow_env_import,
        )

    train_and_report(options, len(seed_folders(run)) or 1, work)


def _evaluate(
    run: Positional[Path],
    *,
    episodes: int = 100,
    seed: int = 1000,
    stochastic: bool = False,
    json: bool = False,
    allow_env_import: bool = False,
    compile_cache: bool = True,
) -> None:
    """Run new episodes with a trained agent and print statistics of their returns.

    Args:
        run: The run folder.
        episodes: Number of episodes.
        seed: Random seed of the episodes, independent of the seed of training.
        stochastic: Sample actions instead of taking the mode of the policy.
        json: Print the result as a line of JSON.
        allow_env_import: Allow an environment id module:Name, which imports that module.
        compile_cache: Keep compiled programs in the user's cache folder.
    """
    keep_compiled(compile_cache)
    loaded = load(run, allow_env_import=allow_env_import)
    result = evaluate(loaded, episodes, seed, stochastic=stochastic)
    print(json_lines.dumps(result) if json else evaluation_sentence(result))


def _render(
    run: Positional[Path],
    *,
    out: Path | None = None,
    episodes: int = 1,
    seed: int = 1000,
    stochastic: bool = False,
    allow_env_import: bool = False,
) -> None:
    """Write a video of a trained agent.

    Args:
        run: The run folder.
        out: Video file, .mp4 or .gif; by default video.mp4 in the run folder.
        episodes: Number of episodes to render.
        seed: Random seed of the episodes. They are those of pgjax evaluate with the same seed,
            except for a run on the device, which is rendered with Gymnasium's environment.
        stochastic: Sample actions instead of taking the mode of the policy.
        allow_env_import: Allow an environment id module:Name, which imports that module.
    """
    from pgjax.evaluation.video import render

    loaded = load(run, allow_env_import=allow_env_import)
    print(render(loaded, out, episodes, seed, stochastic=stochastic))


def _plot(run: Positional[Path], *, out: Path | None = None) -> None:
    """Plot the learning curve of a run.

    Args:
        run: The run folder, of one seed or of several.
        out: Image file; by default learning_curve.png in the run folder.
    """
    print(plot(run, out))


def _verify(
    run: Positional[Path],
    *,
    updates: str | None = None,
    num_devices: int | None = None,
    json: bool = False,
    allow_env_import: bool = False,
    compile_cache: bool = True,
) -> None:
    """Train a run again from its settings and compare every update. Writes nothing.

    The exit code is 0 if all updates are identical, else 1.

    Args:
        run: The run folder.
        updates: Compare only updates A to B, given as A:B.
        num_devices: Number of devices that share the episodes of an update.
        json: Print the result as a line of JSON.
        allow_env_import: Allow an environment id module:Name, which imports that module.
        compile_cache: Keep compiled programs in the user's cache folder.
    """
    from pgjax.training.verify import update_range, verdict, verify

    first, last = update_range(updates)
    keep_compiled(compile_cache)
    set_up_devices(RuntimeOptions(num_devices=num_devices), 1)
    found = verify(
        run,
        [Terminal(Console(quiet=json))],
        first=first,
        last=last,
        num_devices=num_devices,
        allow_env_import=allow_env_import,
    )
    print(json_lines.dumps(found) if json else verdict(found))
    if not found["identical"]:
        raise SystemExit(1)


def _export(
    run: Positional[Path],
    *,
    out: Path | None = None,
    format: Literal["orbax"] = "orbax",
    allow_env_import: bool = False,
) -> None:
    """Write the parameters and optimiser state of a run in a format that other programs read.

    Args:
        run: The run folder.
        out: New folder to write; by default orbax in the run folder.
        format: File format; orbax is for Orbax's StandardCheckpointer.
        allow_env_import: Allow an environment id module:Name, which imports that module.
    """
    from pgjax.runs.export import export

    print(export(run, out, format=format, allow_env_import=allow_env_import))


def _gradcheck(*, json: bool = False) -> None:
    """Compare the expected gradient of every estimator with the exact gradient, on small MDPs.

    The exit code is 0 if all expectations are as documented, to 1e-10, else 1.

    Args:
        json: Print the result as a line of JSON.
    """
    from pgjax.gradcheck import compare

    rows = compare.check()
    if json:
        print(json_lines.dumps([{**row._asdict(), "ok": row.ok} for row in rows]))
    else:
        Console().print(gradient_table(rows))
    if not all(row.ok for row in rows):
        raise SystemExit(1)


COMMANDS: dict[str, Callable[..., None]] = {
    "resume": _resume,
    "verify": _verify,
    "evaluate": _evaluate,
    "render": _render,
    "plot": _plot,
    "export": _export,
    "gradcheck": _gradcheck,
}
