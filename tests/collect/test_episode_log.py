"""The log that keeps only returns and lengths, against what the environment's script says."""

import math
import tracemalloc

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from probe_envs import Scripted

import pgjax
from pgjax.collect.episode_log import padded_length
from pgjax.collect.episodes import episode_returns

ALGORITHM = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (8,)), optax.adam(0.01))
STATE = ALGORITHM.init(jax.random.key(0), np.zeros(3, np.float32))


class Kept(Scripted):
    """Records the name and the length that each of its episodes has."""

    episodes: dict = {}  # noqa: RUF012  (by reset seed)

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.episodes[seed] = (float(result[0][0]), self._length)
        return result


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("mean_length", [4, 90])  # within one window, and over several
def test_returns_and_lengths_are_those_of_the_script(num_envs, mean_length):
    def make():
        return Kept(mean_length=mean_length)

    envs = [
        SyncVectorEnv([make] * num_envs),
        gym.wrappers.vector.RecordEpisodeStatistics(  # whose environments all step together
            SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        ),
    ]
    rollout = pgjax.collect_episodes(make(), ALGORITHM, STATE, 4)
    names, lengths = rollout.obs[0, :, 0].astype(float), rollout.weight.sum(0).astype(int)
    assert sorted(zip(names, lengths, strict=True)) == sorted(
        episode for episode in Kept.episodes.values() if episode[0] in names
    )
    for env in envs:
        log = episode_returns(env, ALGORITHM, STATE, 4)
        np.testing.assert_array_equal(log.lengths, lengths)
        # Step t of an episode gives its name plus t plus 1.
        np.testing.assert_array_equal(log.returns, lengths * names + lengths * (lengths + 1) / 2)
        assert not log.cut.any()


@pytest.mark.parametrize("max_steps", [1, 32, 100])
def test_an_episode_that_goes_on_is_cut_off_and_the_next_one_begins(max_steps):
    def make():
        return Scripted(mean_length=10**9)

    for env in (make(), SyncVectorEnv([make] * 3)):
        log = episode_returns(env, ALGORITHM, STATE, 4, max_steps=max_steps)
        assert log.lengths.tolist() == [max_steps] * 4
        assert log.cut.all()


def test_an_episode_that_ends_at_the_last_step_is_not_cut_off():
    lengths = pgjax.collect_episodes(Scripted(), ALGORITHM, STATE, 4).weight.sum(0)
    limit = int(np.median(lengths))
    log = episode_returns(Scripted(), ALGORITHM, STATE, 4, max_steps=limit)
    assert log.lengths.tolist() == np.minimum(lengths, limit).tolist()
    assert log.cut.tolist() == (lengths > limit).tolist()


class Late(Scripted):
    """Returns a reward that is not finite in step 75 of an endless episode."""

    def __init__(self):
        super().__init__(mean_length=10**9)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, math.nan if self._t == 75 else reward, *rest


def test_an_error_after_steps_were_dropped_has_all_actions():
    env, other = Late(), Late()
    with pytest.raises(pgjax.RolloutError, match="step 74: the reward is nan") as caught:
        episode_returns(env, ALGORITHM, STATE, 4)
    assert caught.value.replay == {"reset_seed": env.seeds[0], "actions": env.actions[:75]}
    with pytest.raises(pgjax.RolloutError) as expected:
        pgjax.collect_episodes(other, ALGORITHM, STATE, 4)
    assert str(caught.value) == str(expected.value)
    assert caught.value.replay == expected.value.replay


class Pictures(gym.Env):
    """Endless episodes of observations of 4 kB each."""

    observation_space = spaces.Box(0, 255, (4096,), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4096, np.uint8), {}

    def step(self, action):
        return np.zeros(4096, np.uint8), 1.0, False, False, {}


def test_memory_depends_neither_on_the_number_nor_on_the_length_of_episodes():
    """The observations of 800 steps take 3.3 MB."""
    state = ALGORITHM.init(jax.random.key(0), np.zeros(4096, np.float32))

    def run(num_episodes, max_steps):
        episode_returns(Pictures(), ALGORITHM, state, num_episodes, max_steps=max_steps)

    def peak(num_episodes, max_steps):
        tracemalloc.start()
        run(num_episodes, max_steps)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    run(4, 200), run(40, 20)  # compile
    little = peak(4, 20)
    assert little < 1.5e6  # a window of 32 steps in 8 slots takes 1.1 MB
    assert peak(40, 20) < little + 3e5
    assert peak(4, 200) < little + 3e5


@pytest.mark.parametrize(("longest", "width", "length"), [
    (1, 4, 512), (512, 64, 512), (513, 4, 1024),  # few numbers in a step: 2**15 / 512 = 64
    (1, 65, 8), (8, 65, 8), (9, 65, 16), (500, 65, 512), (1000, 10**6, 1024),
])  # fmt: skip
def test_rollouts_have_few_lengths_where_padding_costs_little(longest, width, length):
    assert padded_length(longest, width) == length
