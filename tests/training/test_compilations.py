"""Nothing is traced again after every padded length has occurred once."""

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from gymnasium import spaces

import pgjax
from pgjax.collect import dispatch

# Each padded length first, then lengths in between, in no order.
SHORT = [1, *np.random.default_rng(0).integers(1, 101, 59).tolist()]
LONG = [1, 513, *np.random.default_rng(0).integers(1, 1025, 148).tolist()]


class OfLength(gym.Env):
    """An environment whose episodes have given lengths, in order."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)
    _obs = np.zeros(4, np.float32)
    _episode = -1

    def __init__(self, lengths):
        self._lengths = lengths

    def reset(self, *, seed=None, options=None):
        self._episode += 1
        self._left = self._lengths[self._episode]
        return self._obs, {}

    def step(self, action):
        self._left -= 1
        return self._obs, 1.0, self._left == 0, False, {}


@pytest.mark.parametrize(
    ("lengths", "most"), [(SHORT, 1), pytest.param(LONG, 2, marks=pytest.mark.slow)]
)
def test_update_compiles_once_for_a_padded_length_and_act_once(lengths, most):
    compiled = []

    def listen(name, seconds, **about):
        if name.endswith("backend_compile_duration"):
            compiled.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    dispatch._compiled.cache_clear()
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.sgd(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    env = OfLength(lengths)
    counts = []
    for _ in lengths:
        rollout = pgjax.collect_episodes(env, algorithm, state, 1)
        state, _ = algorithm.update(state, rollout)
        counts.append(len(compiled))
    assert env._episode + 1 == len(lengths)
    assert 1 <= compiled.count("jit(packed)") <= most  # the update
    assert compiled.count("jit(act_on_flat)") == 1
    assert counts[-1] == counts[len(lengths) // 3]
