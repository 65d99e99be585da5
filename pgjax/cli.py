"""Policy gradients in JAX for Gymnasium."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json as json_lines
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import gymnasium as gym
import jax
import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from pgjax import evaluate as evaluation
from pgjax import plot as plotting
from pgjax import processes, runs
from pgjax.config import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RunWarning
from pgjax.presets import PRESETS
from pgjax.progress import Terminal, gradient_table
from pgjax.running import Running, keep_compiled, sentence, set_up_devices, train_and_report
from pgjax.runs import Run, load
from pgjax.training import resume, train_seeds
from pgjax.training import train as run_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainArguments(Running, TrainConfig):
    env_id: Positional[str]
    """Gymnasium's name of the environment, such as CartPole-v1; it comes first."""
    seeds: int = 1
    """Train so many, from --seed on, in one program on the device; each gets a folder seed-N."""

    def __post_init__(self) -> None:
        pass  # checked once parsed, so that what is wrong is told by us, in one line


_OF_CONFIG = tuple(field.name for field in dataclasses.fields(TrainConfig))


def _train(arguments: _TrainArguments) -> None:
    config = TrainConfig(**{name: getattr(arguments, name) for name in _OF_CONFIG})

    def work(terminal: Terminal) -> list[Run]:
        if arguments.seeds == 1:
            return [run_training(config, terminal, num_devices=arguments.num_devices)]
        return train_seeds(config, arguments.seeds, terminal, num_devices=arguments.num_devices)

    train_and_report(arguments, arguments.seeds, work)


def _resume(
    run: Positional[Path],
    *,
    running: Annotated[Running, OmitArgPrefixes] = Running(),  # noqa: B008  (frozen)
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

    train_and_report(running, len(runs.seed_folders(run)) or 1, go_on)


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
    result = evaluation.evaluate(loaded, episodes, seed, stochastic=stochastic)
    print(json_lines.dumps(result) if json else sentence(result))


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
    from pgjax import video

    loaded = load(run, allow_env_import=allow_env_import)
    print(video.render(loaded, out or run / "film.mp4", episodes, seed, stochastic=stochastic))


def _plot(run: Positional[Path], *, out: Path | None = None) -> None:
    """Draw the learning curve of a run.

    Args:
        run: The run folder.
        out: The picture; by default learning_curve.png in the run folder.
    """
    print(plotting.learning_curve(run, out))


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
    from pgjax.verify import update_range, verdict, verify

    first, last = update_range(updates)
    keep_compiled(compile_cache)
    set_up_devices(Running(num_devices=num_devices), 1)
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
    from pgjax import export

    loaded = load(run, allow_env_import=allow_env_import)
    print(export.to_orbax(loaded, out or run / format))


def _gradcheck(*, json: bool = False) -> None:
    """Hold the gradient of every estimator against the exact one, on small MDPs.

    Exit code 0 if each is in expectation what it is documented to be, to 1e-10, 1 if one is not.

    Args:
        json: Print one JSON line.
    """
    from pgjax import gradcheck

    rows = gradcheck.check()
    if json:
        print(json_lines.dumps([{**row._asdict(), "ok": row.ok} for row in rows]))
    else:
        Console().print(gradient_table(rows))
    if not all(row.ok for row in rows):
        raise SystemExit(1)


_COMMANDS: dict[str, Callable[..., None]] = {
    "resume": _resume,
    "verify": _verify,
    "evaluate": _evaluate,
    "render": _render,
    "plot": _plot,
    "export": _export,
    "gradcheck": _gradcheck,
}


def _subcommands(argv: Sequence[str]) -> dict[str, Callable[..., Any]]:
    # The environment comes first, so that --help shows, and options start from, its preset.
    named = argv[1] if argv[:1] == ["train"] and len(argv) > 1 else "-"
    env_id: Any = tyro.MISSING if named.startswith("-") else named
    default = _TrainArguments(**{"env_id": env_id, **PRESETS.get(named, {})})

    def train(config: Annotated[_TrainArguments, OmitArgPrefixes] = default) -> None:
        """Train an agent, evaluate it, and leave a run folder."""
        if config.env_id != named:
            raise ConfigError("the environment comes first: pgjax train ENV_ID [options]")
        _train(config)

    commands: dict[str, Callable[..., None]] = {"train": train, **_COMMANDS}
    if argv and argv[0] not in commands and not argv[0].startswith("-"):
        raise ConfigError(f"there is no command {argv[0]!r}: {', '.join(commands)} (see pgjax -h)")
    return {name: _deferred(command) for name, command in commands.items()}


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The same signature, but the work is still to be called: parsing is over before it begins."""

    @functools.wraps(command)
    def defer(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return defer


def _parse(argv: Sequence[str]) -> Callable[[], None]:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                _subcommands(argv), prog="pgjax", description=__doc__, args=list(argv)
            )
    except SystemExit as e:
        if not e.code:  # --help
            raise
    # A framed paragraph: what is wrong, a rule, then advice. One line is enough.
    lines = [line.strip("│╭╮╰╯ ") for line in complaint.getvalue().splitlines()]
    wrong = itertools.takewhile(lambda line: not line.startswith("──"), lines[1:])
    command = " ".join(["pgjax", *(name for name in argv[:1] if name in ("train", *_COMMANDS))])
    raise ConfigError(" ".join(wrong) + f" (see {command} --help)")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; exit code 2 and one line for bad input, 130 for Ctrl-C."""
    # Each step makes one small call, which hopping to another thread would make several times
    # dearer. Only a program may set this, and only before the first computation.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # Films are drawn in memory; SDL complains of a missing display otherwise.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = _show_warning
        try:
            _parse(sys.argv[1:] if argv is None else argv)()
        except (PgjaxError, OSError, gym.error.DependencyNotInstalled) as e:
            _leave(2, " ".join(str(e).split()))
        except KeyboardInterrupt as e:
            _leave(130, f"interrupted {e}".rstrip())


def _leave(code: int, words: str) -> NoReturn:
    print("pgjax:", words, file=sys.stderr)
    processes.leave(code)
    raise SystemExit(code) from None


_show_any_warning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], *where: Any, **more: Any
) -> None:
    if issubclass(category, RunWarning):
        print("pgjax:", " ".join(str(message).split()), file=sys.stderr)
    else:
        _show_any_warning(message, category, *where, **more)
