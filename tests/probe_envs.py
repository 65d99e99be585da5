"""Environments that isolate one bug each, with values that can be computed by hand."""

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from pgjax import envs


class Probe(gym.Env):
    """Lasts `length` steps; the observation is a random sign, fixed per episode, and the time."""

    observation_space = spaces.Box(-1.0, 10.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, reward, length=1):
        self._reward, self._length = reward, length

    def _obs(self):
        return np.array([self._sign, self._t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._sign, self._t = self.np_random.choice([-1.0, 1.0]), 0
        return self._obs(), {}

    def step(self, action):
        self._t += 1
        over = self._t == self._length
        return self._obs(), self._reward(self._sign, action, over), over, False, {}


PROBES = {  # reward(sign, action, last step), length
    "constant": (lambda sign, action, last: 1.0, 1),
    "observation": (lambda sign, action, last: sign, 1),
    "delayed": (lambda sign, action, last: float(last), 2),
    "action": (lambda sign, action, last: float(action), 1),
    "both": (lambda sign, action, last: sign * (2.0 * action - 1.0), 1),
}


class Scripted(gym.Env):
    """Episodes whose length, observations and rewards follow from the reset seed alone.

    It records the seeds of its resets and the actions of its steps. All its observations are one
    buffer that it overwrites, as some environments do.
    """

    def __init__(self, obs_space=None, action_space=None, mean_length=5, ends="terminated"):
        self.observation_space = obs_space or spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self._mean_length, self._ends = mean_length, ends
        self._buffer = np.zeros(3, np.float32)
        self.seeds, self.actions = [], []
        self._over = True

    def _obs(self):
        if not isinstance(self.observation_space, spaces.Box):
            return self.observation_space.start + self._t % self.observation_space.n
        self._buffer[:] = self._id, self._t, self._length
        shape, dtype = self.observation_space.shape, self.observation_space.dtype
        if self._buffer.shape == shape and self._buffer.dtype == dtype:
            return self._buffer
        return np.resize(self._buffer, shape).astype(dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self._id = float(self.np_random.integers(1000))
        self._length = int(self.np_random.integers(1, 2 * self._mean_length))
        self._t, self._over = 0, False
        return self._obs(), {}

    def step(self, action):
        assert not self._over, "stepped after its end"
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        self._t += 1
        self._over = self._t == self._length
        ended = {"terminated": (True, False), "truncated": (False, True), "both": (True, True)}
        flags = ended[self._ends] if self._over else (False, False)
        return self._obs(), self._id + self._t, *flags, {}


class FailingEnv(Scripted):
    """Returns NaN rewards."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float("nan"), *rest


def counter():
    """A functional environment: the observation is the step count and the sum of the action."""

    def reset(key):
        return jnp.zeros(()), jnp.zeros((2, 1))

    def step(key, state, action):
        state = state + 1
        obs = jnp.stack([state, jnp.float32(action).sum()])[:, None]
        return state, obs, state, state >= 5, jnp.zeros((), bool)

    space = envs.Box(-np.inf, np.inf, (2, 1))
    return envs.Env(reset, step, space, envs.Box(np.array([-1, 0]), np.array([1, np.inf]), (2,)))
