"""Progress of a run: a bar in a terminal (rich), else plain lines."""

import contextlib
import dataclasses
import functools
import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pgjax.config.agent import make_estimator
from pgjax.config.presets import PRESETS, preset_values
from pgjax.config.settings import TrainConfig, option
from pgjax.errors import counted
from pgjax.gym import spaces
from pgjax.policies import MaskedPolicy, NormalizedObs
from pgjax.training.loop import Observer, RunInfo

if TYPE_CHECKING:  # slow to import
    from pgjax.gradcheck.compare import Row

_SECONDS_BETWEEN_LINES = 5.0
_ABOUT_BIAS = (
    "A bias is expected and no error: without gamma^t, late steps count as much as early ones; and "
    "normalising by the same batch, a wrong critic, a cut-off episode or a clipped ratio change "
    "the expected gradient too, mostly in exchange for less variance. The error is what is "
    "checked: whether each expectation is the one that is documented."
)
_METHODS = {"reinforce": "REINFORCE", "ppo": "PPO", "npg": "NPG"}


def make_console(*, quiet: bool = False) -> Console:
    """Make a console that prints text as it is: names and paths may hold brackets and colons."""
    return Console(quiet=quiet, markup=False, emoji=False)


def terminal(progress: bool | None) -> list[Observer]:
    """Return a Terminal if `progress`, which is by default `interactive`, else nothing."""
    shown = interactive() if progress is None else progress
    return [Terminal(make_console())] if shown else []


def interactive() -> bool:
    """Whether somebody follows the output: in a terminal or in a notebook."""
    console = make_console()
    return console.is_terminal or console.is_jupyter


def _animates(console: Console) -> bool:
    """Whether a console can show a bar that moves; in a notebook, rich needs a widget for it."""
    return console.is_terminal or (
        console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    )


@contextlib.contextmanager
def counting(
    console: Console, what: str, total: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a bar that counts, and is removed at the end; yield the function that advances it.

    Nothing is shown where the output is not a terminal or a notebook.

    Args:
      console: where to show it.
      what: what is counted, such as "episodes evaluated".
      total: how many there will be, or None.
    """
    columns = "{task.completed:,}" + ("/{task.total:,}" if total else "") + " {task.description}"
    with Progress(
        TextColumn(columns),
        BarColumn(bar_width=24),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console.quiet or not _animates(console),
    ) as bar:
        task = bar.add_task(what, total=total)
        yield functools.partial(bar.advance, task)


class Terminal:
    """An Observer that shows updates, episodes, steps per second and the recent mean return."""

    def __init__(self, console: Console):
        self._console = console
        self._animated = _animates(console)
        self._bar = Progress(
            TextColumn("{task.fields[counts]}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            console=console,
        )
        self._recent: list[float] = []
        self._last_line = self._last_update = time.monotonic()
        self._updates, self._done = 0, [0]

    def start(self, run: RunInfo) -> None:
        """Print a header and start the progress bar."""
        config = run.configs[0]
        say = functools.partial(self._console.print, soft_wrap=True)
        say(Text.assemble((config.env_id, "bold"), f", {_seeds(run)}"))
        say(f"  observations  {spaces.describe(run.observation_space)}", highlight=False)
        say(f"  inputs        {spaces.describe_inputs(run.observation_space)}", highlight=False)
        say(f"  actions       {spaces.describe(run.action_space)}", highlight=False)
        layers = "-".join(str(n) for n in config.hidden_sizes)
        policy, details = run.policy, f"hidden layers {layers}"
        if isinstance(policy, NormalizedObs):
            policy, details = policy.module, f"{details}, normalised numbers"
        if isinstance(policy, MaskedPolicy):
            policy, details = policy.policy, f"{details}, action mask"
        say(f"  policy        {type(policy).__name__}, {details}", highlight=False)
        method = _METHODS[config.algorithm] + " with a critic" * config.critic
        updates, each = counted(config.updates, "update"), config.episodes_per_update
        of_each = counted(each, "episode")
        if config.collect == "steps":
            of_each = f"{counted(config.num_steps, 'step')} per environment"
        envs = counted(config.num_envs, "environment")
        if config.on_device:
            envs = "on the device" if config.collect == "episodes" else f"{envs} on the device"
        say(f"  method        {method}, {updates} of {of_each}, {envs}", highlight=False)
        say(f"  estimator     {make_estimator(config)}", highlight=False)
        say(f"  step size     {_step_size(config)}", highlight=False)
        say(f"  device        {_devices(run)}", highlight=False)
        say(f"  settings      {_settings(config)}", highlight=False)
        self._updates, self._last_update = config.updates, time.monotonic()
        self._done = [0] * len(run.configs)
        self._task = self._bar.add_task(
            "", total=config.updates * len(run.configs), counts=self._counts(), figures="compiling"
        )
        if self._animated:
            self._bar.start()

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        """Show an update; with several seeds, mean returns and total episodes."""
        before, self._done = self._done, [of_seed["update"] for of_seed in metrics]
        self._last_update = time.monotonic()
        # Not of seeds that have diverged, or that are trained in another process.
        new = [of for of, last in zip(metrics, before, strict=True) if of["update"] > last]
        mean = sum(of_seed["mean_return"] for of_seed in new) / len(new)
        episodes = sum(of_seed["total_episodes"] for of_seed in metrics)
        self._recent = [*self._recent[-9:], mean]
        recent = sum(self._recent) / len(self._recent)
        figures = (
            f"{counted(episodes, 'episode')}  {timings['steps_per_second']:,.0f} steps/s  "
            f"return {recent:.1f}"
        )
        self._show(figures, always=any(of["update"] == self._updates for of in new))

    def collecting(self, steps: int) -> None:
        """Show the length of the longest episode in progress, if an update takes long."""
        if time.monotonic() - self._last_update > _SECONDS_BETWEEN_LINES:
            self._show(f"an episode is at step {steps:,} (--max-episode-steps N truncates it)")

    def compiling(self, steps: int) -> None:
        """Say what the run waits for."""
        self._show(f"compiling the update for rollouts of {steps:,} steps")

    def _counts(self) -> str:
        return f"{sum(self._done):,}/{counted(self._updates * len(self._done), 'update')}"

    def _show(self, figures: str, *, always: bool = False) -> None:
        counts = self._counts()
        self._bar.update(self._task, completed=sum(self._done), counts=counts, figures=figures)
        due = time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES
        if not self._animated and (due or always):
            self._console.print(f"{counts}  {figures}", highlight=False, soft_wrap=True)
            self._last_line = time.monotonic()

    def stop(self) -> None:
        """Stop the progress bar."""
        if self._bar.live.is_started:
            self._bar.stop()


def _settings(config: TrainConfig) -> str:
    """Say which preset a run uses, and what differs from it."""
    algorithm = config.algorithm
    tuned = config.env_id in PRESETS[algorithm]
    name = f"preset of {algorithm} for {config.env_id}" if tuned else f"defaults of {algorithm}"
    preset = TrainConfig(config.env_id, **preset_values(config.env_id, algorithm))
    same = dataclasses.replace(preset, seed=config.seed, run_dir=config.run_dir, env=config.env)
    changed = [
        _as_option(name, value)
        for name, value in vars(config).items()
        if value != getattr(same, name)
    ]
    return f"{name}, except {', '.join(changed)}" if changed else name


def _as_option(name: str, value: Any) -> str:
    """Write a setting as on the command line."""
    if isinstance(value, bool):
        return option(name if value else f"no_{name}")
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([option(name), *map(str, values)])


def _step_size(config: TrainConfig) -> str:
    """Say how far an update goes, and the discount."""
    rate = f"learning rate {config.learning_rate:g}" + ", annealed to 0" * config.anneal_lr
    if config.algorithm == "npg":
        rate = f"KL {config.max_kl:g} per update" + f", the critic's {rate}" * config.critic
    return f"{rate}; discount {config.gamma:g}"


def _devices(run: RunInfo) -> str:
    """Name the devices that compute, and their number if there are several of a kind."""
    kinds = Counter(device.device_kind for device in run.devices)
    return ", ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items())


def _seeds(run: RunInfo) -> str:
    seeds = [config.seed for config in run.configs]
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{len(seeds)} seeds of {seeds[0]} to {seeds[-1]}"  # others have diverged


def gradient_table(rows: "list[Row]") -> Table:
    """Format the result of `pgjax.gradcheck.check`."""
    table = Table(
        title="Expected gradients, compared with the exact gradient",
        caption="gamma^t: time_discounted; V: with a critic. Bias and variance are relative to the "
        "gradient of J. Error: the expectation minus the one named in the third column.",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("MDP", "estimator", "expectation"):
        table.add_column(name, no_wrap=True)
    for name in ("bias", "variance", "cosine", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        estimator = row.estimator + (", V" if row.critic else "")
        error = Text(f"{row.error:.0e}") if row.ok else Text(f"WRONG {row.error:.0e}", "red")
        figures = f"{row.bias:.1%}", f"{row.variance:.1f}", f"{row.cosine:.3f}", error
        table.add_row(row.task, estimator, row.meaning, *figures)
    return table


def gradient_verdict(rows: "list[Row]") -> str:
    """Explain the bias in the table, and say whether all expectations are as documented."""
    wrong = [f"{row.task} {row.estimator}" for row in rows if not row.ok]
    verdict = f"all {len(rows)} expectations match their documentation"
    if wrong:
        verdict = f"{len(wrong)} of {len(rows)} expectations do not match: {', '.join(wrong)}"
    return f"{_ABOUT_BIAS}\n\n{verdict}"
