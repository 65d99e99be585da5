"""The loop of all runs: updates, a dispatch at a time, told to whoever records them."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from pgjax.errors import DivergedError
from pgjax.numerics.xla import translate_xla_error
from pgjax.training.engines import Engine, UpdateRecords
from pgjax.types import TrainState

_SECONDS_A_DISPATCH = 0.25

Metrics = list[list[dict[str, Any]]]  # of each seed, of each update


class Listener(NamedTuple):
    """Who is told of updates, and who keeps states."""

    record: Callable[[Metrics, UpdateRecords], None]  # to write them down
    save: Callable[[list[TrainState]], None]
    show: Callable[[list[dict[str, Any]], dict[str, float]], None]  # an update of all seeds


def loop(
    engine: Engine,
    seeds: list[int],
    states: list[TrainState],
    last: list[dict[str, Any]],
    updates: int,
    listener: Listener,
    checkpoint_seconds: float = math.inf,
) -> tuple[list[TrainState], BaseException | None]:
    """Bring all seeds to so many updates.

    Args:
      engine: makes the updates.
      seeds: for what is said of them.
      states: of each seed.
      last: the metrics of each seed's last update, or zeros before the first.
      updates: how many in all.
      listener: told of the updates of each dispatch, and given the states now and then.
      checkpoint_seconds: how often that is; the first time after the first dispatch.

    Returns:
      The states, and what cut it short after the first update that was recorded, if anything did.

    Raises:
      BaseException: what happened before the first update in all was recorded.
    """
    current, size, saved = engine.begin(states), 1, float("-inf")
    stopped_by: BaseException | None = None
    try:
        while (done := last[0]["update"]) < updates:
            size = min(size, engine.most, updates - done)
            begun = time.perf_counter()
            new, made = engine.advance(current, size)
            # After the very last update none follows that would show what its parameters are.
            ending = engine.end(new) if done + size == updates else []
            good = _finite_updates(done, seeds, made.infos, ending)
            if good < size:
                size = good  # nothing is kept of what came after
                continue
            metrics = [
                list(itertools.accumulate(of_seed, _add_up, initial=before))[1:]
                for of_seed, before in zip(made.infos, last, strict=True)
            ]
            listener.record(metrics, made)
            current, last = new, [of_seed[-1] for of_seed in metrics]
            for *of_all, timing in zip(*metrics, made.timings, strict=True):
                listener.show(of_all, timing)
            if time.monotonic() - saved >= checkpoint_seconds:
                listener.save(engine.end(current))
                saved = time.monotonic()
            # Seldom enough to be quick, often enough to look at and to stop.
            seconds = (time.perf_counter() - begun) / size
            size = _agreed(min(2 * size, max(1, round(_SECONDS_A_DISPATCH / seconds))))
    except BaseException as e:
        stopped_by = translate_xla_error(e)
        if last[0]["update"] == 0:
            if stopped_by is e:
                raise
            raise stopped_by from e
    return engine.end(current), stopped_by


def _finite_updates(
    done: int,
    seeds: list[int],
    infos: list[list[dict[str, Any]]],
    states: list[TrainState],
) -> int:
    """How many updates come before the first that is not finite for some seed; at least one.

    `done` were made before these; `states`, if there are any, are those after the last one.
    """
    finite = [list(map(_finite, of_seed)) for of_seed in infos]
    for of_seed, state in zip(finite, states, strict=False):
        of_seed[-1] = of_seed[-1] and _finite(state.params)
    bad = [seed for seed, of_seed in zip(seeds, finite, strict=True) if not of_seed[0]]
    if bad:
        raise DivergedError(
            f"update {done + 1} is not finite (seed {', '.join(map(str, bad))}): lower the "
            "learning rate"
        )
    return min((of_seed + [False]).index(False) for of_seed in finite)


def _finite(numbers: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(numbers))


def _agreed(size: int) -> int:
    """What the first of several processes measured: all must make equally many updates."""
    return size if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(size))


def _add_up(last: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an update, from those of the one before."""
    return {
        "update": last["update"] + 1,
        "total_episodes": last["total_episodes"] + info["episodes"],
        "total_env_steps": last["total_env_steps"] + info["env_steps"],
        **info,
    }
