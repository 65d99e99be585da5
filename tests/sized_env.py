"""An environment whose spaces follow from its arguments, and wrappers of it."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Sized(gym.Env):
    """Lasts three steps; observations have `size` numbers. `made` lists the arguments of all."""

    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    made: list = []  # noqa: RUF012

    def __init__(self, size=2, names=(), render_mode=None):
        self.made.append({"size": size, "names": names})
        self.observation_space = spaces.Box(-10.0, 10.0, (size,), np.float32)
        self.render_mode, self._size = render_mode, size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        self._value = self.np_random.random()
        return np.full(self._size, self._value, np.float32), {}

    def step(self, action):
        self._t += 1
        obs = np.full(self._size, self._value + self._t, np.float32)
        return obs, self._value + float(action), self._t == 3, False, {}

    def render(self):
        return np.full((16, 16, 3), self._t, np.uint8)


gym.register("Sized-v0", entry_point=Sized, max_episode_steps=100)


def doubled(env):
    """Wrap an environment: observations twice, in twice as many numbers."""
    size = 2 * env.observation_space.shape[0]
    return gym.wrappers.TransformObservation(
        env, lambda obs: np.concatenate([obs, obs]), spaces.Box(-10.0, 10.0, (size,), np.float32)
    )


def with_its_length(env):
    """Wrap an environment: observations end with their length."""
    size = env.observation_space.shape[0]
    return gym.wrappers.TransformObservation(
        env,
        lambda obs: np.append(obs, np.float32(size)),
        spaces.Box(-10.0, 10.0, (size + 1,), np.float32),
    )


def four_choices(env):
    """Wrap an environment: choices 0 to 3 are 0, 1, 0, 1."""
    return gym.wrappers.TransformAction(env, lambda action: action % 2, spaces.Discrete(4))


def nothing(env):
    """Do not return an environment."""


def fails(env):
    raise KeyError("no such colour")
