import dataclasses
import json
import math

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_trees_equal
from echo_env import ACTING, ALL_BUT_STACKING, echo_on_device, echo_run, modes_by_hand
from probe_envs import Scripted

import pgjax
from pgjax.cli import app
from pgjax.envs import classic
from pgjax.evaluation import evaluate
from pgjax.runs.run import load
from pgjax.training.verify import verify


def test_evaluate(run_dir, capsys):
    app.main(["evaluate", str(run_dir), "--episodes", "4", "--seed", "7", "--json"])
    result = json.loads(capsys.readouterr().out)
    names = {"mean", "std", "min", "max", "mean_length", "episodes"}
    assert set(result) == names | {"returns"}
    run = load(run_dir)
    # worked out separately: the mode acts in an environment reset with the evaluation's seeds
    state = evaluate.evaluation_state(run, 7)
    env = gym.make("CartPole-v1")
    rollout = pgjax.collect_episodes(env, evaluate.greedy(run.agent), state, 4)
    returns = rollout.reward.sum(0)
    assert result["mean"] == pytest.approx(returns.mean())
    assert result["returns"] == returns.tolist()
    assert set(evaluate.evaluate(run, 4, 7)) == names
    assert result["std"] == pytest.approx(returns.std())
    obs = rollout.obs[: int(returns[0]), 0]
    modes = np.argmax(run.agent.policy.apply(run.state.params, obs).logits, -1)
    np.testing.assert_array_equal(rollout.action[: int(returns[0]), 0], modes)
    app.main(["evaluate", str(run_dir), "--episodes", "4", "--stochastic"])
    assert "over 4 episodes" in capsys.readouterr().out
    assert_trees_equal(load(run_dir).state, run.state)


def test_the_mean_of_more_episodes_than_run_together(run_dir, monkeypatch):
    run = load(run_dir)
    expected = evaluate.evaluate(run, 8, 3)
    one_by_one = [evaluate.evaluate(run, n, 3)["mean"] * n for n in (7, 8)]
    monkeypatch.setattr(evaluate, "_GROUP", 3)
    assert evaluate.evaluate(run, 8, 3) == expected  # three groups of three, the last has one more
    # The last episode of the eight is the eighth, not the ninth.
    assert one_by_one[1] == pytest.approx(expected["mean"] * 8)


@pytest.mark.slow
def test_on_the_device_groups_give_the_same_and_no_observation_is_kept(tmp_path, monkeypatch):
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=1, episodes_per_update=2, on_device=True, hidden_sizes=(4,),
        max_episode_steps=200, run_dir=tmp_path / "run",
    )  # fmt: skip
    run = pgjax.train(config)
    expected = evaluate.evaluate(run, 8, 3)
    memory = evaluate.compile_evaluation(config, 8).result().memory_analysis()
    rewards = 200 * 8 * 4  # bytes; the observations and their successors would be eight times that
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 5 * rewards
    monkeypatch.setattr(evaluate, "_GROUP", 3)
    assert evaluate.evaluate(run, 8, 3) == expected


def unlimited(run_dir, env_id, **changes):
    """The run of `run_dir` with an environment that never ends by itself."""

    def make(limit=None, **_):
        space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        env = Scripted(obs_space=space, mean_length=10**9)
        return env if limit is None else gym.wrappers.TimeLimit(env, limit)

    for name, limit in (("Endless-v0", None), ("Limited-v0", 60)):
        if name not in gym.registry:
            gym.register(name, entry_point=make, kwargs={"limit": limit})
    run = load(run_dir)
    return run._replace(config=dataclasses.replace(run.config, env_id=env_id, **changes))


def test_an_episode_without_a_time_limit_is_cut_off(run_dir, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_STEPS", 50)
    result = evaluate.evaluate(unlimited(run_dir, "Endless-v0"), 8)
    assert (result["mean_length"], result["cut"], result["episodes"]) == (50.0, 8, 8)
    sentence = evaluate.evaluation_sentence(result)
    assert "over 8 episodes, 8 of them cut off after 50 steps" in sentence


@pytest.mark.parametrize("changes", [
    {"env_id": "Limited-v0"},  # the limit is in a wrapper that gymnasium's spec does not know
    {"env_id": "Endless-v0", "max_episode_steps": 60},
])  # fmt: skip
def test_a_time_limit_above_the_cut_off_holds(changes, run_dir, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_STEPS", 50)
    result = evaluate.evaluate(unlimited(run_dir, **changes), 8)
    assert result["mean_length"] == 60.0
    assert "cut" not in result
    sentence = evaluate.evaluation_sentence(result | {"episodes": 1})
    assert sentence.endswith("over 1 episode")


def test_a_return_is_the_sum_of_the_rewards_in_order(run_dir):
    """In float64, one after the other: other orders round differently."""
    rewards = (0.1 * np.arange(1, 61) + 1e-7).astype(np.float32)

    class Rewards(gym.Wrapper):
        def step(self, action):
            obs, _, *rest = self.env.step(action)
            return obs, rewards[self.unwrapped._t - 1], *rest

    run = unlimited(run_dir, "Limited-v0")
    make = gym.spec("Limited-v0").entry_point
    gym.register("Rewards-v0", entry_point=lambda **_: Rewards(make(60)))
    run = run._replace(config=dataclasses.replace(run.config, env_id="Rewards-v0"))
    total = 0.0
    for reward in rewards.tolist():
        total += reward
    assert math.isclose(total, 183.0, rel_tol=1e-6)
    assert evaluate.evaluate(run, 8)["max"] == total


@pytest.mark.parametrize("name", ACTING)
def test_an_evaluation_acts_as_every_field_says(name, tmp_path):
    settings, meaning = ACTING[name]
    run = echo_run(tmp_path, **settings)
    expected = modes_by_hand(run.state.params, **meaning)
    expected = -expected.sum() if name == "env_id" else expected.sum()
    found = evaluate.evaluate(run, 2)
    assert found["mean"] == pytest.approx(expected, abs=1e-5)
    if name != "nothing":
        assert abs(expected - modes_by_hand(echo_run(tmp_path).state.params).sum()) > 0.01


@pytest.fixture
def device_echo(monkeypatch):
    monkeypatch.setitem(classic.CLASSIC, "Echo-v0", (echo_on_device, 4))
    classic._make.cache_clear()
    yield {"on_device": True}
    classic._make.cache_clear()


@pytest.mark.parametrize("case", [ACTING["nothing"], ALL_BUT_STACKING, ACTING["max_episode_steps"]])
def test_an_evaluation_on_the_device_acts_as_every_field_says(case, device_echo, tmp_path):
    settings, meaning = case
    run = echo_run(tmp_path, **settings, **device_echo)
    expected = modes_by_hand(run.state.params, **meaning)
    found = evaluate.evaluate(run, 2)
    assert (found["mean"], found["std"]) == (pytest.approx(expected.sum(), abs=1e-5), 0.0)


@pytest.mark.parametrize("on_device", [False, True])
def test_evaluation_noise_depends_on_the_evaluation_seed_alone(on_device, device_echo, tmp_path):
    run = echo_run(tmp_path, on_device=on_device)
    trained_otherwise = run._replace(
        config=dataclasses.replace(run.config, seed=5, updates=7),
        state=run.state._replace(key=jax.random.key(99), step=jnp.int32(7)),
    )
    found = evaluate.evaluate(run, 3, seed=1, stochastic=True)
    assert found["std"] > 0
    assert evaluate.evaluate(trained_otherwise, 3, seed=1, stochastic=True) == found
    assert evaluate.evaluate(run, 3, seed=2, stochastic=True) != found
    # Training draws its noise with the run's own seed: the same number gives other episodes.
    same_number = run._replace(state=run.agent.init(1)._replace(params=run.state.params))
    begun = same_number.state
    env = gym.make("Echo-v0")
    trained = pgjax.collect_episodes(env, run.agent.algorithm, begun, 3).reward.sum(0)
    assert abs(trained.mean() - found["mean"]) > 1e-3


def test_counts_of_the_package_are_integers(run_dir):
    assert pgjax.evaluate(run_dir, np.int64(2), seed=np.int64(7))["episodes"] == 2
    for fn, words in (
        (lambda: pgjax.evaluate(run_dir, True), "--episodes"),
        (lambda: pgjax.evaluate(run_dir, 2, seed=True), "--seed"),
        (lambda: pgjax.video.frames(run_dir, True), "--episodes"),
        (lambda: verify(run_dir, first=True), "--updates"),
        (lambda: verify(run_dir, last=2.0), "--updates"),
        (lambda: pgjax.verify(run_dir, updates="1"), "--updates"),
        (lambda: pgjax.train_seeds(load(run_dir).config, True), "--seeds"),
        (lambda: pgjax.resume(run_dir, updates=True), "--updates"),
    ):
        with pytest.raises(pgjax.ConfigError, match=words):
            fn()
