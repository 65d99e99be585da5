"""The command line: pgjax train | evaluate | render | plot."""

import contextlib
import dataclasses
import io
import json as json_lines
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from pgjax import evaluate as evaluation
from pgjax import plot as plotting
from pgjax import runs
from pgjax.config import PRESETS, TrainConfig
from pgjax.errors import PgjaxError
from pgjax.progress import Terminal
from pgjax.train import load
from pgjax.train import train as run_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainArguments(TrainConfig):
    env_id: Positional[str]


def _train(config: TrainConfig) -> None:
    console = Console()
    terminal = Terminal(console)
    try:
        run = run_training(config, terminal)
    finally:
        terminal.stop()
    plotting.learning_curve(run.path)
    result = evaluation.evaluate(run, config.eval_episodes)
    runs.write_json(run.path / "evaluation.json", result)
    console.print(f"evaluation    {_sentence(result)}", highlight=False)
    console.print(f"run folder    {run.path}", highlight=False, soft_wrap=True)


def _evaluate(
    run: Positional[Path],
    *,
    episodes: int = 100,
    seed: int = 1000,
    stochastic: bool = False,
    json: bool = False,
) -> None:
    """Run fresh episodes with a trained agent and print their returns.

    Args:
        run: The run folder.
        episodes: How many episodes.
        seed: Root of their randomness, apart from that of training.
        stochastic: Sample actions; by default the agent acts by the mode.
        json: Print one JSON line.
    """
    result = evaluation.evaluate(load(run), episodes, seed, stochastic=stochastic)
    print(json_lines.dumps(result) if json else _sentence(result))


def _render(
    run: Positional[Path],
    *,
    out: Path | None = None,
    episodes: int = 1,
    seed: int = 1000,
    stochastic: bool = False,
) -> None:
    """Write a film of a trained agent.

    Args:
        run: The run folder.
        out: The film, .mp4 or .gif; by default film.mp4 in the run folder.
        episodes: How many episodes, one after the other.
        seed: Root of their randomness: the episodes that evaluate runs with the same seed.
        stochastic: Sample actions; by default the agent acts by the mode.
    """
    from pgjax import video

    print(video.render(load(run), out or run / "film.mp4", episodes, seed, stochastic=stochastic))


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


def _subcommands(argv: Sequence[str]) -> dict[str, Callable[..., None]]:
    # The environment comes first, so that --help shows, and options start from, its preset.
    named = argv[1] if argv[:1] == ["train"] and len(argv) > 1 else ""
    defaults: Any = {"env_id": named} if named and not named.startswith("-") else {}
    defaults = PRESETS.get(named, {}) | (defaults or {"env_id": tyro.MISSING})
    config_type = Annotated[_TrainArguments, OmitArgPrefixes]

    def train(config: config_type) -> None:  # type: ignore[valid-type]
        """Train an agent, evaluate it, and leave a run folder. The environment comes first."""
        _train(config)

    train.__annotations__["config"] = config_type
    train.__defaults__ = (_TrainArguments(**defaults),)
    return {"train": train, "evaluate": _evaluate, "render": _render, "plot": _plot}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; exit code 2 and one line for bad input, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Each step makes one small call, which hopping to another thread would make several times
    # dearer. Only a program may set this, and only before the first computation.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        tyro.extras.subcommand_cli_from_dict(_subcommands(argv), prog="pgjax", args=argv)
    except PgjaxError as e:
        print(f"pgjax: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
