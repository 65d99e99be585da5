"""Environments that fail: in a given reset or step, or by what they return."""

import os
import time
from typing import ClassVar

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
from probe_envs import Scripted


class Fails(Scripted):
    """Raises, hangs or dies in a given reset, or in the second step after it."""

    def __init__(self, how="raises", where="step", resets=3):
        super().__init__()
        self._how, self._where, self._resets = how, where, resets

    def _fail(self):
        if self._how == "raises":
            raise ZeroDivisionError("in the environment")
        if self._how == "dies":
            os._exit(3)
        while True:
            time.sleep(0.1)

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self._length = 5
        if self._where == "reset" and len(self.seeds) == self._resets:
            self._fail()
        return result

    def step(self, action):
        if self._where == "step" and len(self.seeds) == self._resets and self._t == 1:
            self._fail()
        return super().step(action)


class Drifts(Scripted):
    """Returns observations that depend on how often it was reset."""

    def _obs(self):
        return super()._obs() + len(self.seeds)


class Returns(Scripted):
    """Returns a given result from reset or step, or raises it if it is an error; cannot close."""

    def __init__(self, where, result, **spaces):
        super().__init__(**spaces)
        self._where, self._result = where, result

    def _given(self, where, result):
        if where == self._where and isinstance(self._result, BaseException):
            raise self._result
        return self._result if where == self._where else result

    def reset(self, *, seed=None, options=None):
        return self._given("reset", super().reset(seed=seed))

    def step(self, action):
        return self._given("step", super().step(action))

    def close(self):
        raise AttributeError("viewer")


class Unlucky(CartPoleEnv):
    """Raises when it is reset with the seed that an environment variable holds."""

    resets: ClassVar[list[int]] = []

    def reset(self, *, seed=None, options=None):
        self.resets.append(seed)
        if str(seed) == os.environ.get("UNLUCKY_SEED"):
            raise ZeroDivisionError("unlucky")
        return super().reset(seed=seed)


gym.register("Fails-v0", entry_point="failing_envs:Fails")
gym.register("Returns-v0", entry_point="failing_envs:Returns")
gym.register("Drifts-v0", entry_point="failing_envs:Drifts", max_episode_steps=1000)
gym.register(
    "SaysSo-v0", entry_point="probe_envs:Scripted", nondeterministic=True, max_episode_steps=1000
)
gym.register("Unlucky-v0", entry_point="failing_envs:Unlucky", max_episode_steps=500)
