"""The pgjax command: parse arguments, run a command, and turn errors into exit codes."""

import dataclasses
import difflib
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
from pgjax.cli.devices import DeviceOptions, RuntimeOptions, exit_process
from pgjax.cli.trackers import TrackerOptions
from pgjax.cli.train import OPTION_TYPES, RunOptions, train_command
from pgjax.config.groups import (
    CollectSettings,
    EpochSettings,
    NetworkSettings,
    NPGSettings,
    OptimizerSettings,
    PPOSettings,
    ReturnSettings,
)
from pgjax.config.presets import PRESETS, preset_values
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RunWarning
from pgjax.gym.names import is_registered

_Group = TypeVar("_Group")
_Flat = Annotated[_Group, OmitArgPrefixes]

_TRACEBACK = "--traceback"
_DESCRIPTION = """Policy gradients in JAX for Gymnasium.

- pgjax COMMAND --help: the options of a command
- pgjax train ENV_ID --help: the preset of an environment, as default values
- pgjax COMMAND --traceback: where an error came from
- pgjax --version: the version"""
_ENV_ID = "Gymnasium id of the environment, such as CartPole-v1; must be the first argument."


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
    commands: dict[str, Callable[..., None]] = {"train": _train_command(argv), **COMMANDS}
    name = argv[0] if argv else "-"
    if name in commands:  # alone, so that errors suggest only its own options
        # Behind an argument, --help would not show the argument.
        rest = ["--help"] if {"-h", "--help"} & set(argv[1:]) else list(argv[1:])
        return tyro.cli(
            _deferred(commands[name]), prog=f"pgjax {name}", args=rest, registry=OPTION_TYPES
        )
    if not name.startswith("-"):
        raise ConfigError(_unknown_command(name, list(commands)))
    return tyro.extras.subcommand_cli_from_dict(
        {name: _summarised(command) for name, command in commands.items()},
        prog="pgjax",
        description=_DESCRIPTION,
        args=list(argv),
        registry=OPTION_TYPES,
    )


def _unknown_command(name: str, commands: list[str]) -> str:
    if is_registered(name):
        return f"there is no command {name!r}: did you mean pgjax train {name}?"
    if close := difflib.get_close_matches(name, commands):
        return f"there is no command {name!r}: did you mean {' or '.join(close)}? (see pgjax -h)"
    return f"there is no command {name!r}: use one of {', '.join(commands)} (see pgjax -h)"


def _train_command(argv: Sequence[str]) -> Callable[..., None]:
    """Return `pgjax train`, with a preset as the default values of its options."""
    # The environment must come first: --help then shows its preset, and options override it.
    named = argv[1] if argv[:1] == ["train"] and len(argv) > 1 else "-"
    env_id: Any = tyro.MISSING if named.startswith("-") else named
    algorithm = _algorithm_in(argv)
    values = preset_values(named, algorithm)

    def group(cls: type[_Group]) -> _Group:
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: values[name] for name in names if name in values})

    def train(
        env_id: Annotated[Positional[str], arg(metavar="ENV_ID", help=_ENV_ID)] = env_id,
        *,
        run: _Flat[RunOptions] = group(RunOptions),  # noqa: B008  (frozen, as all of these)
        environment: _Flat[CollectSettings] = group(CollectSettings),  # noqa: B008
        network: _Flat[NetworkSettings] = group(NetworkSettings),  # noqa: B008
        advantage: _Flat[ReturnSettings] = group(ReturnSettings),  # noqa: B008
        optimizer: _Flat[OptimizerSettings] = group(OptimizerSettings),  # noqa: B008
        epoch: _Flat[EpochSettings] = group(EpochSettings),  # noqa: B008
        ppo: _Flat[PPOSettings] = group(PPOSettings),  # noqa: B008
        npg: _Flat[NPGSettings] = group(NPGSettings),  # noqa: B008
        device: _Flat[DeviceOptions] = DeviceOptions(),  # noqa: B008
        tracker: _Flat[TrackerOptions] = TrackerOptions(),  # noqa: B008
    ) -> None:
        if env_id != named:
            raise ConfigError(
                "the environment must be the first argument: pgjax train ENV_ID [options]"
            )
        settings: dict[str, Any] = {}
        for chosen in (run, environment, network, advantage, optimizer, epoch, ppo, npg):
            settings |= vars(chosen)
        num_seeds = settings.pop("seeds")
        runtime = RuntimeOptions.of(device, tracker)
        train_command(TrainConfig(env_id, **settings), num_seeds, runtime)

    defaults = _defaults(named, algorithm)
    train.__doc__ = f"Train an agent, evaluate it, and write a run folder.\n\n{defaults}"
    return train


def _defaults(env_id: str, algorithm: str) -> str:
    """Say where the default values come from that `pgjax train ENV_ID --help` shows."""
    if env_id.startswith("-"):
        return (
            f"The defaults below are those of {algorithm}. The preset of an environment:\n"
            "- pgjax train ENV_ID --help\n"
            "- pgjax train ENV_ID --algorithm ppo --help"
        )
    if env_id in PRESETS.get(algorithm, {}):
        return f"The defaults below are the preset of {algorithm} for {env_id}."
    return f"The defaults below are those of {algorithm}: {env_id} has no preset for it."


def _algorithm_in(argv: Sequence[str]) -> str:
    """Return the value of --algorithm, which decides the preset; reinforce without it."""
    found = "reinforce"
    for word, after in itertools.pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name == "--algorithm":
            found = value if equals else after
    return found


def _summarised(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Wrap a command as `_deferred` does, with the first line of its description."""
    wrapped = _deferred(command)
    wrapped.__doc__ = (command.__doc__ or "").strip().partition("\n")[0]
    return wrapped


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
