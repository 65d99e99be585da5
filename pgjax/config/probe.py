"""Test whether the environment of a config is reproducible."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from pgjax.config.env import env_spec, open_env
from pgjax.config.settings import TrainConfig
from pgjax.gym.results import StepArrays
from pgjax.gym.serial import SerialEnvs
from pgjax.gym.stepping import adapt
from pgjax.gym.vectors import ManualResetVector

_STEPS, _SEED = 30, 1  # the seed of the actions


def why_not_reproducible(config: TrainConfig) -> str | None:
    """Return why a run may not be reproducible, or None if no reason is found.

    A run is reproducible only if an episode follows from its reset seed and actions. The reason is
    that the environment declares otherwise (`spec.nondeterministic`), or that a short episode
    differs when it is repeated after another one, or in a new environment. A short probe can miss
    differences. A stream of steps over Gymnasium is never bit-exact, since resuming restarts its
    episodes.
    """
    if config.on_device:
        return None  # it is a pure function of its key
    if config.restarts_episodes:
        return "a resumed stream of steps restarts its episodes"
    try:  # one environment at a time, since there may be only one
        episodes = [_probe(config, seeds) for seeds in ((1, 2, 1), (1,))]
        spec = env_spec(config)
        if spec is not None and spec.nondeterministic:
            return f"{config.env_id} declares itself nondeterministic"
    except Exception:  # training raises the same error and reports it
        return None
    (first, _, again), (new,) = episodes
    if not _same(first, again) or not _same(first, new):
        return f"{config.env_id} gives different episodes for the same reset seed and actions"
    return None


def _probe(config: TrainConfig, seeds: Sequence[int]) -> list[list[Any]]:
    """Play an episode for each reset seed, all with the same actions; return all that was seen."""
    # In a process, if training uses processes: it may die.
    with open_env(config, 1, alone=config.vectorization == "async") as opened:
        slots, space = adapt(opened.env), opened.action_space
        space.seed(_SEED)
        actions: list[Any] = [[space.sample()] for _ in range(_STEPS)]
        if not isinstance(slots, SerialEnvs):
            actions = [concatenate(space, x, create_empty_array(space, 1)) for x in actions]  # type: ignore[arg-type]
        with slots.step_timeout(config.step_timeout):
            return [_probe_episode(slots, seed, actions) for seed in seeds]


def _probe_episode(
    envs: SerialEnvs | ManualResetVector, seed: int, actions: list[Any]
) -> list[Any]:
    rows = np.zeros((1, envs.seen.size), envs.seen.dtype)
    envs.reset({0: seed}, rows)
    seen = [rows]
    for action in actions:
        terminated, truncated = np.zeros((2, 1), bool)
        ends = terminated, truncated, np.full(1, np.nan)
        into = StepArrays(np.zeros_like(rows), np.zeros(1), *ends)
        ended = envs.step(action, [0], into)
        seen += into
        if ended:
            break
    return seen


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind == "f")
        for x, y in zip(a, b, strict=True)
    )
