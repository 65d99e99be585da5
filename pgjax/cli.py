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
import platformdirs
import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from pgjax import evaluate as evaluation
from pgjax import machine, processes, runs
from pgjax import plot as plotting
from pgjax.config import PRESETS, TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RunWarning
from pgjax.progress import Terminal
from pgjax.runs import Run, load
from pgjax.signals import Signals
from pgjax.statistics import interquartile_mean
from pgjax.trackers import TensorBoard, Trackers, WeightsAndBiases
from pgjax.train import resume, train_seeds
from pgjax.train import train as run_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Running:
    num_devices: int | None = None
    """Devices that share the episodes of an update, or the seeds; changes the speed, never the
    result. By default one, for several seeds as many as there are, and all those of several
    processes."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, which each run this command; or auto, where
    SLURM, Kubernetes or a TPU pod tell it."""
    num_processes: int | None = None
    """How many processes; with --coordinator HOST:PORT."""
    process_id: int | None = None
    """Number of this process, from 0; with --coordinator HOST:PORT."""
    compile_cache: bool = True
    """Keep what was compiled in your cache folder, so that the next run starts sooner."""
    tensorboard: bool = False
    """Also write the metrics as event files, to RUN/tensorboard."""
    wandb: bool = False
    """Also write the metrics as an offline run of Weights & Biases, to RUN/wandb."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainArguments(_Running, TrainConfig):
    env_id: Positional[str]
    """Gymnasium's name of the environment, such as CartPole-v1; it comes first."""
    seeds: int = 1
    """Train so many, from --seed on, in one program on the device; each gets a folder seed-N."""

    def __post_init__(self) -> None:
        pass  # checked once parsed, so that what is wrong is told by us, in one line


_OF_CONFIG = tuple(field.name for field in dataclasses.fields(TrainConfig))


def _train(arguments: _TrainArguments) -> None:
    config = TrainConfig(**{name: getattr(arguments, name) for name in _OF_CONFIG})

    def run(terminal: Terminal) -> list[Run]:
        if arguments.seeds == 1:
            return [run_training(config, terminal, num_devices=arguments.num_devices)]
        return train_seeds(config, arguments.seeds, terminal, num_devices=arguments.num_devices)

    _run(arguments, arguments.seeds, run)


def _resume(
    run: Positional[Path],
    *,
    running: Annotated[_Running, OmitArgPrefixes] = _Running(),
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

    _run(running, len(runs.seed_folders(run)) or 1, go_on)


def _run(running: _Running, num_seeds: int, run: Callable[[Terminal], list[Run]]) -> None:
    """Train, evaluate and report."""
    _keep_compiled(running.compile_cache)
    _set_up_devices(running, num_seeds)
    first = jax.process_index() == 0  # the only one to show and to write anything
    console = Console(quiet=not first)
    with Signals() as signals:
        kinds = [TensorBoard] * running.tensorboard + [WeightsAndBiases] * running.wandb
        terminal = _Terminal(console, signals, Trackers(kinds if first else []))
        try:
            try:
                trained = run(terminal)
            finally:
                terminal.stop()
                signals.patient = False
            if first:
                _report(trained, console)
        except BaseException as e:  # what an end that was asked for can bring about is no error
            if not signals.number:
                raise
            print("pgjax:", f"interrupted {e}".rstrip(), file=sys.stderr)
        if signals.number:
            signals.end()


class _Terminal(Terminal):
    def __init__(self, console: Console, signals: Signals, trackers: Trackers):
        super().__init__(console)
        self._signals, self._trackers = signals, trackers

    def start(self, configs: list[TrainConfig], paths: list[Path], env: Any, policy: Any) -> None:
        super().start(configs, paths, env, policy)
        self._trackers.start(list(zip(paths, configs, strict=True)))
        if configs[0].on_device and jax.process_index() == 0:
            evaluation.compile_ahead(configs[0], configs[0].eval_episodes)
        self._signals.patient = True

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        super().update(metrics, timings)
        self._trackers.update(metrics)
        self._signals.check()

    def stop(self) -> None:
        super().stop()
        self._trackers.stop()


def _report(trained: list[Run], console: Console) -> None:
    """Evaluate, draw and tell where it is."""
    episodes = trained[0].config.eval_episodes

    def say(*words: str) -> None:
        console.print(*words, highlight=False, soft_wrap=True)

    means = []
    for run in trained:
        plotting.learning_curve(run.path)
        result = evaluation.evaluate(run, episodes)
        runs.write_json(run.path / "evaluation.json", result)
        means.append(result["mean"])
        say(f"{'evaluation' if len(trained) == 1 else run.path.name:<13}", _sentence(result))
    folder = trained[0].path
    if len(trained) > 1:
        folder = folder.parent
        plotting.learning_curve(folder)
        seeds = {str(run.config.seed): mean for run, mean in zip(trained, means, strict=True)}
        summary: dict[str, Any] = {"episodes": episodes, "mean_by_seed": seeds}
        try:
            over_seeds = interquartile_mean(means)
            summary |= over_seeds
            say(
                "seeds        ",
                "interquartile mean {interquartile_mean:.1f}, 95 % bootstrap "
                "interval {low:.1f} to {high:.1f}".format(**over_seeds),
            )
        except ConfigError as e:
            say("seeds        ", str(e))
        runs.write_json(folder / "evaluation.json", summary)
    say("run folder   ", str(folder))


def _set_up_devices(arguments: _Running, num_seeds: int) -> None:
    """Join the other processes, and take the cores of a CPU as devices where that is of use."""
    share = -(-(arguments.num_devices or num_seeds) // (arguments.num_processes or 1))
    wanted = min(share, machine.threads())
    if wanted > 1 and "--xla_force_host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        with contextlib.suppress(RuntimeError):  # they are what they are, once computed with
            jax.config.update("jax_num_cpu_devices", wanted)
    if arguments.coordinator is None:
        if arguments.num_processes is not None or arguments.process_id is not None:
            raise ConfigError("several processes need --coordinator HOST:PORT, the same for all")
    else:
        processes.join(arguments.coordinator, arguments.num_processes, arguments.process_id)
    machine.require_device()


def _keep_compiled(compile_cache: bool) -> None:
    """Turn on JAX's persistent compilation cache, unless the user's own settings speak of it."""
    if not compile_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.values["jax_compilation_cache_dir"] is None:
        folder = platformdirs.user_cache_path("pgjax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


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
    _keep_compiled(compile_cache)
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
    from pgjax.verify import verify

    first, last = _range(updates)
    _keep_compiled(compile_cache)
    _set_up_devices(_Running(num_devices=num_devices), 1)
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
    print(json_lines.dumps(found) if json else _verdict(found))
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


def _range(updates: str | None) -> tuple[int, int | None]:
    if updates is None:
        return 1, None
    first, colon, last = updates.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal():
        raise ConfigError(f"--updates must be A:B, such as 1:20, got {updates!r}")
    return int(first), int(last)


def _verdict(found: dict[str, Any]) -> str:
    if found["identical"]:
        begun = "" if found["first"] == 1 else f"from update {found['first']} "
        return f"identical {begun}through update {found['last']}"
    lines = [f"update {found['update']} is the first that differs (recorded, here):"]
    lines += [f"  {name}: {there}, {here}" for name, (there, here) in found["differs"].items()]
    lines += ["between the two machines:"] if found["machine"] else []
    lines += [f"  {line}" for line in found["machine"] or ["nothing known differs between them"]]
    return "\n".join(lines)


def _sentence(result: dict[str, Any]) -> str:
    return (
        "mean {mean:.1f}  std {std:.1f}  min {min:.1f}  max {max:.1f}  "
        "mean length {mean_length:.1f}  over {episodes} episodes"
    ).format(**result)


_COMMANDS: dict[str, Callable[..., None]] = {
    "resume": _resume,
    "verify": _verify,
    "evaluate": _evaluate,
    "render": _render,
    "plot": _plot,
    "export": _export,
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
