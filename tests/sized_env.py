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


gym.register("Sized-v0", entry_point=Sized)
