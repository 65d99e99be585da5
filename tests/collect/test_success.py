"""Success rates: in these environments, each is the mean return of the same episodes."""

import functools
import json
import math

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import pgjax
from pgjax.collect.episode_log import EpisodeLog, success_info
from pgjax.collect.episodes import episode_returns, run_episodes
from pgjax.config.env import open_env
from pgjax.evaluation.evaluate import evaluation_sentence

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
WINS = (0.0, 0.25, 1.0, None)


class Wins(gym.Env):
    """The last reward of an episode is its success, or 0 if its info does not tell.

    The infos of other steps tell what is not true. The result may be a list, which takes the
    slower way through pgjax's checks.
    """

    observation_space = spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, name="is_success", wins=WINS, kind=tuple):
        self._name, self._wins, self._kind = name, wins, kind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._win = self._wins[int(self.np_random.integers(len(self._wins)))]
        self._left = int(self.np_random.integers(1, 6))
        return np.zeros(3, np.float32), {self._name: 7.0}

    def step(self, action):
        self._left -= 1
        over = self._left == 0
        info = {self._name: self._win if over else 7.0}
        if over and self._win is None:
            info = {}
        reward = float(self._win or 0.0) if over else 0.0
        return self._kind((np.zeros(3, np.float32), reward, over, False, info))


ALGORITHM = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
STATE = ALGORITHM.init(jax.random.key(0), np.zeros(3, np.float32))


def vector(mode, n=3, **given):
    """A vector whose environments all step together."""
    env = SyncVectorEnv([functools.partial(Wins, **given)] * n, autoreset_mode=mode)
    return gym.vector.VectorWrapper(env)


@pytest.mark.parametrize("name", ["is_success", "success"])
@pytest.mark.parametrize("kind", [tuple, list])
def test_the_rate_of_whole_episodes_is_the_mean_of_their_last_rewards(name, kind):
    one = functools.partial(Wins, name, kind=kind)
    found = []
    for env in (one(), SyncVectorEnv([one] * 3), vector(DISABLED, name=name)):
        log = run_episodes(EpisodeLog, env, ALGORITHM, STATE, 12)
        rate = log.rollout().reward.sum() / 12
        assert 0 < rate < 1
        assert log.success_info() == {"success_rate": rate}
        returns = episode_returns(env, ALGORITHM, STATE, 12)
        np.testing.assert_array_equal(np.nan_to_num(returns.successes), returns.returns)
        assert np.isnan(returns.successes).any()
        found.append(rate)
    assert len(set(found)) == 1


def test_processes_tell_the_success_of_their_episodes():
    config = pgjax.TrainConfig(env=Wins, vectorization="async", num_envs=2, max_episode_steps=9)
    rates = []
    for num_envs in (2, 1):
        with open_env(config, num_envs) as env:
            log = run_episodes(EpisodeLog, env.env, ALGORITHM, STATE, 8)
        rates.append(log.success_info())
        assert rates[-1] == {"success_rate": log.rollout().reward.sum() / 8}
    assert rates[0] == rates[1]


def test_where_no_episode_tells_there_is_no_rate():
    for env in (Wins(wins=[None]), Wins("other"), vector(DISABLED, name="other")):
        assert run_episodes(EpisodeLog, env, ALGORITHM, STATE, 4).success_info() == {}
    stream = pgjax.Stream(vector(NEXT, name="other"))
    pgjax.collect_steps(stream, ALGORITHM, STATE, 20)
    assert "success_rate" not in stream.episode_info()


STREAMS = {
    "one": Wins, "next": lambda: vector(NEXT), "same": lambda: vector(SAME),
    "disabled": lambda: vector(DISABLED), "serial": lambda: SyncVectorEnv([Wins] * 3),
}  # fmt: skip


@pytest.mark.parametrize("kind", STREAMS)
def test_the_rate_of_streams_is_the_mean_of_last_rewards(kind):
    stream = pgjax.Stream(STREAMS[kind]())
    told = 0
    for i in range(12):
        rollout = pgjax.collect_steps(stream, ALGORITHM, STATE._replace(step=np.int32(i)), 5)
        info = stream.episode_info()
        last = rollout.reward[rollout.terminated]
        if len(last):
            assert info["episodes"] == len(last)
            assert info.get("success_rate", 0.0) == last.mean()
            told += "success_rate" in info
    assert told > 3


class Endless(Wins):
    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {"is_success": True}


def test_before_the_first_end_there_is_no_rate():
    stream = pgjax.Stream(Endless())
    pgjax.collect_steps(stream, ALGORITHM, STATE, 3)
    assert "success_rate" not in stream.episode_info()


class Malformed(gym.vector.VectorWrapper):
    """A vector with the same infos in every step."""

    def __init__(self, infos):
        super().__init__(vector(DISABLED).env)
        self._infos = infos

    def step(self, actions):
        return *super().step(actions)[:4], self._infos


@pytest.mark.parametrize(
    ("infos", "rate"),
    [
        (None, {}), ([], {}), ({"is_success": 1}, {}), ({"is_success": ["a", "b", None]}, {}),
        ({"is_success": np.ones(3), "_is_success": np.zeros(3, bool)}, {}),
        ({"is_success": np.ones(3), "_is_success": None}, {}),
        ({"success": [True] * 3}, {"success_rate": 1.0}),
        ({"is_success": np.zeros((3, 2)), "success": np.ones((3, 1))}, {"success_rate": 1.0}),
    ],
)  # fmt: skip
def test_infos_of_a_vector_that_do_not_fit_tell_nothing(infos, rate):
    log = run_episodes(EpisodeLog, Malformed(infos), ALGORITHM, STATE, 6)
    assert log.success_info() == rate


def test_the_order_in_which_episodes_end_does_not_matter(rng):
    given = [0.1, 0.2, 0.3, 1e-9, 1.0, math.nan] * 3
    [rate] = {success_info(rng.permutation(given).tolist())["success_rate"] for _ in range(50)}
    assert rate == pytest.approx((0.1 + 0.2 + 0.3 + 1e-9 + 1.0) / 6)


@pytest.mark.parametrize("collect", ["episodes", "steps"])
def test_metrics_and_evaluation_have_the_rate(collect, tmp_path):
    config = pgjax.TrainConfig(
        env=Wins, critic=True, collect=collect, updates=3, episodes_per_update=4, num_envs=2,
        num_steps=20, hidden_sizes=(4,), max_episode_steps=9, run_dir=tmp_path / "run",
    )  # fmt: skip
    if collect == "steps":
        with pytest.warns(pgjax.RunWarning, match="restarts its episodes"):
            run = pgjax.train(config)
    else:
        run = pgjax.train(config)
    assert run.metrics["success_rate"].shape == (3,)
    assert run.metrics["success_rate"] == pytest.approx(run.metrics["mean_return"])
    assert pgjax.verify(run)["identical"]
    result = pgjax.evaluate(run, 20)
    assert result["success_rate"] == result["mean"]
    assert f"success rate {result['mean']:.3f}  over 20 episodes" in evaluation_sentence(result)


def test_without_a_success_metrics_and_evaluation_are_as_ever(run_dir):
    assert "success" not in (run_dir / "metrics.jsonl").read_text()
    result = json.loads((run_dir / "evaluation.json").read_text())
    assert "success_rate" not in result
    assert "success" not in evaluation_sentence(result)
