"""Environments with one fault each, for malformed.py: malformed_envs:NAME-v0."""

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
    """Episodes of five steps; `reset` and `step` replace what the methods return or call."""

    def __init__(
        self,
        observation_space: Any = BOX,
        action_space: Any = None,
        reset: Any = (OBS, {}),
        step: Any = (),
    ):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)
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
    """The interface from before Gymnasium."""

    def reset(self) -> Any:  # type: ignore[override]
        return OBS, {}


class WithoutSpaces(gym.Env):
    """An environment that sets no spaces."""


def raises(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def hangs() -> None:
    while True:
        time.sleep(0.1)


def env_with(**changes: Any) -> Callable[[], Env]:
    return lambda: Env(**changes)


NAMES: dict[str, Callable[[], Any]] = {
    # Faults in reset, step and the constructor.
    "MakingRaises": raises(KeyError("level.txt")),
    "NotAnEnv": lambda: 3,
    "WithoutSeed": WithoutSeed,
    "ResetRaises": env_with(reset=raises(KeyError("level"))),
    "ResetGivesNoInfo": env_with(reset=OBS),
    "StepRaises": env_with(step=raises(RuntimeError("two\nlines"))),
    "StepExits": env_with(step=raises(SystemExit(0))),
    "StepHangs": env_with(step=hangs),
    "StepGivesFour": env_with(step=(OBS, 1.0, True, {})),
    "ObsNaN": env_with(reset=(NAN, {})),
    "ObsShape": env_with(reset=(np.zeros(4, np.float32), {})),
    "ObsText": env_with(reset=("start", {})),
    "ObsFloatForBytes": env_with(observation_space=spaces.Box(0, 255, (3,), np.uint8)),
    "RewardNone": env_with(step=(OBS, None, True, False, {})),
    "EndsAreArrays": env_with(step=(OBS, 1.0, OBS == 0, OBS == 1, {})),
    # Spaces, and one environment without a fault.
    "Good": env_with(),
    "WithoutSpaces": WithoutSpaces,
    "ObsSequence": env_with(observation_space=spaces.Sequence(BOX)),
    "ObsGraph": env_with(observation_space=spaces.Graph(BOX, None)),
    "ObsTextSpace": env_with(observation_space=spaces.Text(5)),
    "ObsDictOfText": env_with(observation_space=spaces.Dict(text=spaces.Text(5))),
    "ObsTuple": env_with(observation_space=(3,)),
    "ObsEmpty": env_with(observation_space=spaces.Box(0, 1, (0,))),
    "ObsHuge": env_with(observation_space=spaces.Discrete(10**9)),
    "ActionOneOf": env_with(action_space=spaces.OneOf((BOX, spaces.Discrete(2)))),
    "ActionEmpty": env_with(action_space=spaces.Box(0, 1, (2, 0))),
    "ActionHuge": env_with(action_space=spaces.Discrete(2**40)),
    "ActionUnbounded": env_with(action_space=spaces.Box(-np.inf, 1, (2,))),
    "ActionOfNone": lambda: Env(action_space=spaces.Discrete(0)),
}

for name, make in NAMES.items():
    # With a limit, whose absence would be another line on stderr.
    gym.register(f"{name}-v0", entry_point=make, max_episode_steps=100)
