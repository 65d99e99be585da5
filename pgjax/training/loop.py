"""The training loop: compute updates, several per dispatch, and yield their records."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import gymnasium as gym
import jax
import numpy as np
from jax.experimental import multihost_utils

from pgjax.config.settings import TrainConfig
from pgjax.errors import DivergedError
from pgjax.numerics.xla import translate_xla_errors
from pgjax.runs.states import RunState
from pgjax.training.engines import Engine, UpdateRecords, Watch

_SECONDS_PER_DISPATCH = 0.25
_LARGEST_RETURN = 1e18  # its square is near the largest float32


class RunInfo(NamedTuple):
    """What an Observer receives before the first update; lists have one entry per seed.

    Example:
      >>> import pgjax
      >>> pgjax.RunInfo._fields
      ('configs', 'paths', 'observation_space', 'action_space', 'policy', 'time_limit', 'devices')
    """

    configs: list[TrainConfig]
    """The settings."""
    paths: list[Path]
    """The run folders."""
    observation_space: gym.Space
    """Observation space of one environment."""
    action_space: gym.Space
    """Action space of one environment."""
    policy: nn.Module
    """The Flax module."""
    time_limit: int | None = None
    """After how many steps the environment truncates episodes, or None."""
    devices: tuple[jax.Device, ...] = ()
    """The devices that compute."""


class Observer(Protocol):
    """Follows a run; cannot change its result.

    Use one to show a run or to record it elsewhere. An exception raised in `update`
    (KeyboardInterrupt too) stops the run; the progress is saved.

    An observer may also have the methods `collecting(steps)` and `compiling(steps)`. The Python
    loop calls the first often while it collects episodes, with the number of steps of the longest
    one in progress; and the second before it compiles the update for rollouts of so many steps.

    Example:
      >>> import pathlib, tempfile
      >>> import pgjax
      >>> class Returns:
      ...     def start(self, run):
      ...         self.seen = []
      ...     def update(self, metrics, timings):
      ...         self.seen.append(metrics[0]["mean_return"])
      ...     def stop(self):
      ...         print(len(self.seen), "updates")
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config, observers=[Returns()])
      2 updates
    """

    def start(self, run: RunInfo) -> None:
        """Run once, before the first update."""
        ...

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        """Run after each update, with the metrics of each seed and the timings of all together.

        The metrics of a seed that has diverged stay those of its last finite update.
        """
        ...

    def stop(self) -> None:
        """Run once after the run has ended, for any reason, even if `start` raised."""
        ...


@contextlib.contextmanager
def observing(observers: Sequence[Observer], run: RunInfo) -> Iterator[None]:
    """Start the observers; when the block ends, stop each one, even if its `start` raised."""
    with contextlib.ExitStack() as stack:
        for observer in observers:
            stack.callback(observer.stop)
            observer.start(run)
        yield


def watcher(observers: Sequence[Observer]) -> Watch:
    """Return functions that call `collecting` and `compiling` of every observer that has them."""

    def tell(name: str) -> Callable[[int], None]:
        methods = [getattr(observer, name) for observer in observers if hasattr(observer, name)]

        def call(steps: int) -> None:
            for method in methods:
                method(steps)

        return call

    return Watch(tell("collecting"), tell("compiling"))


def run_updates(
    engine: Engine,
    seeds: list[int],
    states: list[RunState],
    last: list[dict[str, Any]],
    updates: int,
    end_seed: Callable[[int, RunState, str], None] | None = None,
    pause_every: int = 0,
) -> Iterator[tuple[UpdateRecords, Any]]:
    """Train all seeds up to `updates`, yielding after each dispatch.

    A seed that diverges ends, and the others go on; the error is raised once none is left.

    Args:
      engine: runs the updates.
      seeds: for error messages.
      states: one for each seed.
      last: the metrics of each seed's last update, or zeros before the first.
      updates: the total number of updates.
      end_seed: called with the index of a seed that diverges, its last finite state and the
        reason, while others remain; all updates before it have been yielded.
      pause_every: if not 0, no dispatch runs past a multiple of this number of updates.

    Yields:
      The records of a dispatch, with running totals in the metrics, and the engine's states after
      it (`engine.end` returns the TrainStates). A seed that has ended repeats its last metrics.

    Raises:
      DivergedError: if the next update of every seed that is left is not finite; all updates before
        it have been yielded.
      RunError: if memory runs out, or another process of the run is lost.
    """
    with translate_xla_errors():
        current, size, done = engine.begin(states), 1, last[0]["update"]
        running = list(range(len(seeds)))
        while done < updates:
            size = min(size, engine.most, updates - done)
            if pause_every:
                size = min(size, pause_every - done % pause_every)
            begun = time.perf_counter()
            new, records = engine.advance(current, size)
            # After the last update, check the parameters too: no later update would reveal them.
            ending = engine.end(new) if done + size == updates else []
            finite = _finite_updates(records.metrics, ending)
            bad = [i for i in running if finite[i] == 0]
            running = [i for i in running if finite[i] > 0]
            if bad:
                first = [of_seed[0] for of_seed in records.metrics]
                if not running or end_seed is None:
                    named = [seeds[i] for i in bad]
                    raise DivergedError(_why_diverged(done + 1, named, first[bad[0]]))
                last, kept = list(last), engine.end(current)
                for i in bad:
                    end_seed(i, kept[i], _why_diverged(done + 1, seeds[i : i + 1], first[i]))
                    last[i] = {**first[i], **last[i]}
            good = min(finite[i] for i in running)
            if good < size:
                size = good  # repeat the dispatch, up to the last finite update
                continue
            metrics = [
                list(itertools.accumulate(of_seed, _add_totals, initial=before))[1:]
                if i in running
                else [before] * size
                for i, (of_seed, before) in enumerate(zip(records.metrics, last, strict=True))
            ]
            current, last, done = new, [of_seed[-1] for of_seed in metrics], done + size
            yield records._replace(metrics=metrics), current
            # Dispatch for about 0.25 s: low overhead, but responsive.
            seconds = (time.perf_counter() - begun) / size
            size = _agreed(min(2 * size, max(1, round(_SECONDS_PER_DISPATCH / seconds))))


def _finite_updates(metrics: list[list[dict[str, Any]]], states: list[RunState]) -> list[int]:
    """For each seed, the number of updates before the first one that is not finite.

    `states`, if any, are the states after the last update.
    """
    finite = [list(map(_finite, of_seed)) for of_seed in metrics]
    for of_seed, state in zip(finite, states, strict=False):
        of_seed[-1] = of_seed[-1] and _finite(state.params)
    return [(of_seed + [False]).index(False) for of_seed in finite]


def _why_diverged(update: int, seeds: list[int], metrics: dict[str, Any]) -> str:
    """Say that an update is not finite, and what to do, given the metrics of the first seed."""
    largest = max(abs(metrics["min_return"]), abs(metrics["max_return"]))
    advice = "lower the learning rate"
    if not largest < _LARGEST_RETURN:
        advice = (
            f"returns of up to {largest:.3g} are out of range for float32: divide the rewards, "
            "for example with gymnasium.wrappers.TransformReward"
        )
    return f"update {update} is not finite (seed {', '.join(map(str, seeds))}): {advice}"


def _finite(numbers: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(numbers))


def _agreed(size: int) -> int:
    """The size measured by process 0; all processes must use the same."""
    return size if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(size))


def _add_totals(last: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Add running totals to the metrics of an update, given the metrics of the one before."""
    return {
        "update": last["update"] + 1,
        "total_episodes": last["total_episodes"] + info["episodes"],
        "total_env_steps": last["total_env_steps"] + info["env_steps"],
        **info,
    }
