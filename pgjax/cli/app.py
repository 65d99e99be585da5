"""The pgjax command: parse arguments, run a command, and turn errors into exit codes."""

import dataclasses
import functools
import importlib.metadata
import io
import itertools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import gymnasium as gym
import jax
import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from pgjax.cli.commands import COMMANDS
from pgjax.cli.devices import RuntimeOptions, exit_process
from pgjax.cli.train import RunOptions, train_command
from pgjax.config.groups import (
    CollectSettings,
    EpochSettings,
    NetworkSettings,
    NPGSettings,
    OptimizerSettings,
    PPOSettings,
    ReturnSettings,
)
from pgjax.config.presets import preset_values
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RunWarning

_Group = TypeVar("_Group")
_Flat = Annotated[_Group, OmitArgPrefixes]

_TRACEBACK = "--traceback"
_DESCRIPTION = (
    "Policy gradients in JAX for Gymnasium. With --traceback, every command shows where an error "
    "came from; pgjax --version shows the version."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command. The exit code is 2 for bad input, 130 for Ctrl-C and 143 for SIGTERM."""
    # The Python loop makes one small call per step, and dispatching it to another thread would take
    # several times as long. Only a program, not a library, should set this, before it computes.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # Videos are rendered in memory; without this, SDL reports a missing display.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know ASCII only
            stream.reconfigure(errors="backslashreplace")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # for environments module:Id, as with python -m pgjax
    words = list(sys.argv[1:] if argv is None else argv)
    trace = _TRACEBACK in words
    words = [word for word in words if word != _TRACEBACK]
    if words == ["--version"]:
        print(f"pgjax {importlib.metadata.version('pgjax')}")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = _show_warning
        try:
            _parse(words)()
            sys.stdout.flush()
        except BrokenPipeError:  # its reader, such as head, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + signal.SIGPIPE) from None
        except (PgjaxError, OSError, gym.error.DependencyNotInstalled) as e:
            if trace:
                traceback.print_exc()
            _exit(2, " ".join(str(e).split()))
        except KeyboardInterrupt as e:
            _exit(130, f"interrupted {e}".rstrip())


def _parse(argv: Sequence[str]) -> Callable[[], None]:
    """Parse the command line into a call."""
    return tyro.extras.subcommand_cli_from_dict(
        _subcommands(argv), prog="pgjax", description=_DESCRIPTION, args=list(argv)
    )


def _subcommands(argv: Sequence[str]) -> dict[str, Callable[..., Any]]:
    commands: dict[str, Callable[..., None]] = {"train": _train_command(argv), **COMMANDS}
    if argv and argv[0] not in commands and not argv[0].startswith("-"):
        raise ConfigError(
            f"there is no command {argv[0]!r}: use one of {', '.join(commands)} (see pgjax -h)"
        )
    return {name: _deferred(command) for name, command in commands.items()}


def _train_command(argv: Sequence[str]) -> Callable[..., None]:
    """Return `pgjax train`, with a preset as the default values of its options."""
    # The environment must come first: --help then shows its preset, and options override it.
    named = argv[1] if argv[:1] == ["train"] and len(argv) > 1 else "-"
    env_id: Any = tyro.MISSING if named.startswith("-") else named
    values = preset_values(named, _algorithm_in(argv))

    def group(cls: type[_Group]) -> _Group:
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: values[name] for name in names if name in values})

    def train(
        env_id: Annotated[Positional[str], arg(metavar="ENV_ID")] = env_id,
        *,
        run: _Flat[RunOptions] = group(RunOptions),  # noqa: B008  (frozen, as all of these)
        environments: _Flat[CollectSettings] = group(CollectSettings),  # noqa: B008
        networks: _Flat[NetworkSettings] = group(NetworkSettings),  # noqa: B008
        returns: _Flat[ReturnSettings] = group(ReturnSettings),  # noqa: B008
        optimizer: _Flat[OptimizerSettings] = group(OptimizerSettings),  # noqa: B008
        epochs: _Flat[EpochSettings] = group(EpochSettings),  # noqa: B008
        ppo: _Flat[PPOSettings] = group(PPOSettings),  # noqa: B008
        npg: _Flat[NPGSettings] = group(NPGSettings),  # noqa: B008
        runtime: _Flat[RuntimeOptions] = RuntimeOptions(),  # noqa: B008
    ) -> None:
        """Train an agent, evaluate it, and write a run folder.

        Args:
            env_id: Gymnasium id of the environment, such as CartPole-v1; must be the first
                argument.
        """
        if env_id != named:
            raise ConfigError(
                "the environment must be the first argument: pgjax train ENV_ID [options]"
            )
        settings: dict[str, Any] = {}
        for chosen in (run, environments, networks, returns, optimizer, epochs, ppo, npg):
            settings |= vars(chosen)
        num_seeds = settings.pop("seeds")
        train_command(TrainConfig(env_id, **settings), num_seeds, runtime)

    return train


def _algorithm_in(argv: Sequence[str]) -> str:
    """Return the value of --algorithm, which decides the preset; reinforce without it."""
    found = "reinforce"
    for word, after in itertools.pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name == "--algorithm":
            found = value if equals else after
    return found


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Wrap a command to return a deferred call, which runs after parsing."""

    @functools.wraps(command)
    def defer(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return defer


def _exit(code: int, message: str) -> NoReturn:
    print("pgjax:", message, file=sys.stderr)
    exit_process(code)
    raise SystemExit(code) from None


_show_other_warning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], *where: Any, **more: Any
) -> None:
    if issubclass(category, RunWarning):
        print("pgjax:", " ".join(str(message).split()), file=sys.stderr)
    else:
        _show_other_warning(message, category, *where, **more)
