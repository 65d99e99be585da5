"""Policy gradients in JAX for Gymnasium."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json as json_lines
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import jax
import platformdirs
import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from pgjax import evaluate as evaluation
from pgjax import plot as plotting
from pgjax import runs
from pgjax.config import PRESETS, TrainConfig
from pgjax.errors import ConfigError, PgjaxError
from pgjax.progress import Terminal
from pgjax.train import load
from pgjax.train import train as run_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainArguments(TrainConfig):
    env_id: Positional[str]
    """Gymnasium's name of the environment, such as CartPole-v1; it comes first."""
    compile_cache: bool = True
    """Keep what was compiled in your cache folder, so that the next run starts sooner."""

    def __post_init__(self) -> None:
        pass  # checked once parsed, so that what is wrong is told by us, in one line


def _train(arguments: _TrainArguments) -> None:
    settings = vars(arguments).copy()
    if settings.pop("compile_cache"):
        _keep_compiled()
    config = TrainConfig(**settings)
    console = Console()
    terminal = Terminal(console)
    try:
        run = run_training(config, terminal)
    finally:
        terminal.stop()
    plotting.learning_curve(run.path)
    result = evaluation.evaluate(run, config.eval_episodes)
    runs.write_json(run.path / "evaluation.json", result)
    console.print(f"evaluation    {_sentence(result)}", highlight=False, soft_wrap=True)
    console.print(f"run folder    {run.path}", highlight=False, soft_wrap=True)


def _keep_compiled() -> None:
    """Turn on JAX's persistent compilation cache, unless the user's own settings speak of it."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = platformdirs.user_cache_path("pgjax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _evaluate(
    run: Positional[Path],
    *,
    episodes: int = 100,
    seed: int = 1000,
    stochastic: bool = False,
    json: bool = False,
    allow_env_import: bool = False,
) -> None:
    """Run fresh episodes with a trained agent and print their returns.

    Args:
        run: The run folder.
        episodes: How many episodes.
        seed: Root of their randomness, apart from that of training.
        stochastic: Sample actions; by default the agent acts by the mode.
        json: Print one JSON line.
        allow_env_import: Let an environment named module:Name import that module.
    """
    loaded = load(run, allow_env_import=allow_env_import)
    result = evaluation.evaluate(loaded, episodes, seed, stochastic=stochastic)
    print(json_lines.dumps(result) if json else _sentence(result))


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


def _sentence(result: dict[str, Any]) -> str:
    return (
        "mean {mean:.1f}  std {std:.1f}  min {min:.1f}  max {max:.1f}  "
        "mean length {mean_length:.1f}  over {episodes} episodes"
    ).format(**result)


_COMMANDS: dict[str, Callable[..., None]] = {
    "evaluate": _evaluate,
    "render": _render,
    "plot": _plot,
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
    try:
        _parse(sys.argv[1:] if argv is None else argv)()
    except (PgjaxError, OSError, gym.error.DependencyNotInstalled) as e:
        print("pgjax:", " ".join(str(e).split()), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as e:
        print(f"pgjax: interrupted {e}".rstrip(), file=sys.stderr)
        raise SystemExit(130) from None
