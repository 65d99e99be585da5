"""Nothing is traced again once every padded length has been seen."""

import gymnasium as gym
import jax
import numpy as np
import optax
from gymnasium import spaces

import pgjax
from pgjax import dispatch

# Each padded length first (8, 16, ..., 512), then lengths from 8 to 500 in no order.
LENGTHS = [8, 13, 29, 64, 100, 250, 500, *np.random.default_rng(0).integers(8, 501, 293).tolist()]


class OfLength(gym.Env):
    """Episodes of the lengths listed above, one after the other."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)
    _obs = np.zeros(4, np.float32)
    _episode = -1

    def reset(self, *, seed=None, options=None):
        self._episode += 1
        self._left = LENGTHS[self._episode]
        return self._obs, {}

    def step(self, action):
        self._left -= 1
        return self._obs, 1.0, self._left == 0, False, {}


def test_300_updates_compile_update_at_most_7_times_and_act_once():
    compiled = []

    def listen(name, seconds, **about):
        if name.endswith("backend_compile_duration"):
            compiled.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    dispatch._compiled.cache_clear()
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.sgd(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    env = OfLength()
    update = dispatch.updater(algorithm.update)
    counts = []
    for _ in range(300):
        rollout = pgjax.collect_episodes(env, algorithm, state, 1)
        state, _ = update(state, rollout)
        counts.append(len(compiled))
    assert env._episode == 299
    assert 1 <= compiled.count("jit(packed)") <= 7  # the update
    act = dispatch.compile_for(algorithm, state, np.zeros(4, np.float32)).act
    assert act._cache_size() == 1
    assert compiled.count("jit(act_on_flat)") == 1
    assert counts[-1] == counts[100]
