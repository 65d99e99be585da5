"""Environments that do one thing wrong each, for malformed.py: malformed_envs:NAME-v0."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
OBS = np.zeros(3, np.float32)
NAN = np.full(3, np.nan, np.float32)


class Env(gym.Env):
    """Episodes of five steps, but for what it is told to return or to call instead."""

    def __init__(self, seen: Any = BOX, acted: Any = None, reset: Any = (OBS, {}), step: Any = ()):
        self.observation_space, self.action_space = seen, acted or spaces.Discrete(2)
        self._reset, self._step, self._t = reset, step, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._t = 0
        return self._reset() if callable(self._reset) else self._reset

    def step(self, action: Any) -> Any:
        self._t += 1
        if callable(self._step):
            return self._step()
        return (OBS, 1.0, self._t == 5, False, {}) if self._step == () else self._step


class WithoutSeed(Env):
    """As environments were before Gymnasium."""

    def reset(self) -> Any:  # type: ignore[override]
        return OBS, {}


class WithoutSpaces(gym.Env):
    """Forgotten."""


def raises(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def hangs() -> None:
    while True:
        time.sleep(0.1)


def made(**changes: Any) -> Callable[[], Env]:
    return lambda: Env(**changes)


NAMES: dict[str, Callable[[], Any]] = {
    # What reset, step and the constructor do.
    "MakingRaises": raises(KeyError("level.txt")),
    "NotAnEnv": lambda: 3,
    "WithoutSeed": WithoutSeed,
    "ResetRaises": made(reset=raises(KeyError("level"))),
    "ResetGivesNoInfo": made(reset=OBS),
    "StepRaises": made(step=raises(RuntimeError("two\nlines"))),
    "StepExits": made(step=raises(SystemExit(0))),
    "StepHangs": made(step=hangs),
    "StepGivesFour": made(step=(OBS, 1.0, True, {})),
    "ObsNaN": made(reset=(NAN, {})),
    "ObsShape": made(reset=(np.zeros(4, np.float32), {})),
    "ObsText": made(reset=("start", {})),
    "ObsFloatForBytes": made(seen=spaces.Box(0, 255, (3,), np.uint8)),
    "RewardNone": made(step=(OBS, None, True, False, {})),
    "EndsAreArrays": made(step=(OBS, 1.0, OBS == 0, OBS == 1, {})),
    # Spaces.
    "Good": made(),
    "WithoutSpaces": WithoutSpaces,
    "ObsSequence": made(seen=spaces.Sequence(BOX)),
    "ObsGraph": made(seen=spaces.Graph(BOX, None)),
    "ObsTextSpace": made(seen=spaces.Text(5)),
    "ObsDictOfText": made(seen=spaces.Dict(text=spaces.Text(5))),
    "ObsTuple": made(seen=(3,)),
    "ObsEmpty": made(seen=spaces.Box(0, 1, (0,))),
    "ObsHuge": made(seen=spaces.Discrete(10**9)),
    "ActionOneOf": made(acted=spaces.OneOf((BOX, spaces.Discrete(2)))),
    "ActionEmpty": made(acted=spaces.Box(0, 1, (2, 0))),
    "ActionHuge": made(acted=spaces.Discrete(2**40)),
    "ActionUnbounded": made(acted=spaces.Box(-np.inf, 1, (2,))),
    "ActionOfNone": lambda: Env(acted=spaces.Discrete(0)),
}

for name, make in NAMES.items():
    gym.register(f"{name}-v0", entry_point=make)
