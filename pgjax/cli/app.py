"""Policy gradients in JAX for Gymnasium."""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import gymnasium as gym
import jax
import tyro
from tyro.conf import OmitArgPrefixes, Positional

from pgjax.cli.commands import COMMANDS
from pgjax.cli.devices import exit_process
from pgjax.cli.progress import Terminal
from pgjax.cli.train import RuntimeOptions, train_and_report
from pgjax.config.presets import PRESETS
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RunWarning
from pgjax.runs.run import Run
from pgjax.training.train import train as run_training
from pgjax.training.train import train_seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainArguments(RuntimeOptions, TrainConfig):
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

    commands: dict[str, Callable[..., None]] = {"train": train, **COMMANDS}
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
    command = " ".join(["pgjax", *(name for name in argv[:1] if name in ("train", *COMMANDS))])
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
    exit_process(code)
    raise SystemExit(code) from None


_show_any_warning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], *where: Any, **more: Any
) -> None:
    if issubclass(category, RunWarning):
        print("pgjax:", " ".join(str(message).split()), file=sys.stderr)
    else:
        _show_any_warning(message, category, *where, **more)
