"""A space of every kind, and environments with them whose episodes follow from the reset seed."""

import functools

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from gymnasium import spaces

import pgjax
from pgjax.gym.actions import policy_for
from pgjax.gym.spaces import observations

F32, INF = np.float32, np.inf
SPACES = {
    "Discrete": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 4], start=[-1, 0, 5]),
    "MultiDiscrete 2-d": spaces.MultiDiscrete(np.array([[2, 3], [1, 4]])),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary 2-d": spaces.MultiBinary((2, 2)),
    "Box": spaces.Box(np.array([-0.1, 2.0], F32), np.array([0.3, 7.0], F32)),
    "Box, half infinite": spaces.Box(np.array([0.0, -INF], F32), np.array([INF, 0.1], F32)),
    "Box 2-d": spaces.Box(-1.0, 2.0, (2, 2), np.float64),
    "Box of integers": spaces.Box(-2, 3, (2,), np.int64),
    "Dict": spaces.Dict(b=spaces.Discrete(3, start=-1), a=spaces.Box(0.0, 0.5, (2,), F32)),
    "Tuple": spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(2))),
    "nested": spaces.Dict(
        x=spaces.Tuple((spaces.MultiDiscrete([2, 3], start=[1, -1]), spaces.Box(-1, 1, (), F32))),
        y=spaces.Dict(z=spaces.MultiBinary(2), w=spaces.Box(0, 255, (2, 1), np.uint8)),
    ),
}
KINDS = pytest.mark.parametrize("kind", SPACES)
QUICK = {"nested"}
FEW_KINDS = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in QUICK else [pytest.mark.slow]) for k in SPACES]
)


class Scripted(gym.Env):
    """Its episodes follow from the reset seed; it refuses actions outside of its space."""

    def __init__(self, obs_space, action_space):
        self.observation_space, self.action_space = obs_space, action_space

    def reset(self, *, seed=None, options=None):
        seed = self._seed + 1 if seed is None else seed
        self._seed = seed
        self._of = script(self.observation_space, seed)
        self._t = 0
        return self._of[0], {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._t += 1
        flags = ends(self._seed) if self._t == len(self._of) - 1 else (False, False)
        return self._of[self._t], float(self._t), *flags, {}


@functools.cache
def _script(name, seed):
    space = SPACES[name]
    space.seed(seed % 2**31)
    return tuple(space.sample() for _ in range(3 + seed % 4))


def ends(seed):
    """Return (terminated, truncated) of the last step of an episode: either or both are true."""
    return [(True, False), (False, True), (True, True)][int(seed) % 3]


def script(space, seed):
    """Return the observations of the episode with a reset seed."""
    name = next(name for name, known in SPACES.items() if known == space)
    return _script(name, int(seed))


def make(obs_kind, action_kind):
    return Scripted(SPACES[obs_kind], SPACES[action_kind])


def algorithm_for(obs_kind, action_kind):
    algorithm = pgjax.reinforce(policy_for(SPACES[action_kind], (4,)), optax.adam(0.01))
    seen = observations(SPACES[obs_kind])
    return algorithm, algorithm.init(jax.random.key(0), np.zeros(seen.size, seen.dtype))
