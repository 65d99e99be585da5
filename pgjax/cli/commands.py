"""The commands beside train."""

import json as json_lines
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from pgjax.cli.devices import set_up_devices
from pgjax.cli.progress import Terminal, gradient_table
from pgjax.cli.train import RuntimeOptions, keep_compiled, train_and_report
from pgjax.evaluation.evaluate import evaluate, evaluation_sentence
from pgjax.evaluation.plot import plot
from pgjax.runs.folder import seed_folders
from pgjax.runs.run import Run, load
from pgjax.training.train import resume


def _resume(
    run: Positional[Path],
    *,
    running: Annotated[RuntimeOptions, OmitArgPrefixes] = RuntimeOptions(),  # noqa: B008  (frozen)
    updates: int | None = None,
    allow_env_import: bool = False,
) -> None:
    """Go on with a run that was stopped in any way, as if it never had been.

    Args:
        run: The run folder, of one seed or of several.
        running: Where it runs.
        updates: How many in all; by default those it was asked for.
        allow_env_import: Let an environment named module:Name import that module.
    """

    def go_on(terminal: Terminal) -> list[Run]:
        return resume(
            run,
            terminal,
            updates=updates,
            num_devices=running.num_devices,
            allow_env_import=allow_env_import,
        )

    train_and_report(running, len(seed_folders(run)) or 1, go_on)


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
    """Run fresh episodes with a trained agent and print their returns.

    Args:
        run: The run folder.
        episodes: How many episodes.
        seed: Root of their randomness, apart from that of training.
        stochastic: Sample actions; by default the agent acts by the mode.
        json: Print one JSON line.
        allow_env_import: Let an environment named module:Name import that module.
        compile_cache: Keep what was compiled in your cache folder.
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
    """Write a film of a trained agent.

    Args:
        run: The run folder.
        out: The film, .mp4 or .gif; by default film.mp4 in the run folder.
        episodes: How many episodes, one after the other.
        seed: Root of their randomness: the episodes that evaluate runs with the same seed, unless
            the run was made on the device: Gymnasium's environment is filmed.
        stochastic: Sample actions; by default the agent acts by the mode.
        allow_env_import: Let an environment named module:Name import that module.
    """
    from pgjax.evaluation import video

    loaded = load(run, allow_env_import=allow_env_import)
    print(video.render(loaded, out or run / "film.mp4", episodes, seed, stochastic=stochastic))


def _plot(run: Positional[Path], *, out: Path | None = None) -> None:
    """Draw the learning curve of a run.

    Args:
        run: The run folder.
        out: The picture; by default learning_curve.png in the run folder.
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
    """Train again from the settings of a run, and tell whether the same comes out.

    Exit code 0 if every update is identical, 1 if one is not. Writes nothing.

    Args:
        run: The run folder.
        updates: A:B, to compare those only, from the checkpoint before A where there is one.
        num_devices: Devices that share the episodes of an update.
        json: Print one JSON line.
        allow_env_import: Let an environment named module:Name import that module.
        compile_cache: Keep what was compiled in your cache folder.
    """
    from pgjax.training.verify import update_range, verdict, verify

    first, last = update_range(updates)
    keep_compiled(compile_cache)
    set_up_devices(RuntimeOptions(num_devices=num_devices), 1)
    terminal = Terminal(Console(quiet=json))
    try:
        found = verify(
            run,
            terminal,
            first=first,
            last=last,
            num_devices=num_devices,
            allow_env_import=allow_env_import,
        )
    finally:
        terminal.stop()
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
    """Write a run's TrainState for others to read.

    Args:
        run: The run folder.
        out: The new folder; by default orbax in the run folder.
        format: Orbax's, as its StandardCheckpointer reads it.
        allow_env_import: Let an environment named module:Name import that module.
    """
    from pgjax.runs.export import export

    print(export(run, out, format=format, allow_env_import=allow_env_import))


def _gradcheck(*, json: bool = False) -> None:
    """Hold the gradient of every estimator against the exact one, on small MDPs.

    Exit code 0 if each is in expectation what it is documented to be, to 1e-10, 1 if one is not.

    Args:
        json: Print one JSON line.
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
