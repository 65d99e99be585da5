import json

import gymnasium as gym
import numpy as np
import pytest
from conftest import assert_trees_equal

import pgjax
from pgjax.cli import app
from pgjax.evaluation import evaluate
from pgjax.runs.run import load


def test_evaluate(run_dir, capsys):
    app.main(["evaluate", str(run_dir), "--episodes", "4", "--seed", "7", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"mean", "std", "min", "max", "mean_length", "episodes"}
    run = load(run_dir)
    # worked out separately: the mode acts in an environment reset with the evaluation's seeds
    state = evaluate.evaluation_state(run, 7)
    env = gym.make("CartPole-v1")
    rollout = pgjax.collect_episodes(env, evaluate.greedy(run.agent), state, 4)
    returns = rollout.reward.sum(0)
    assert result["mean"] == pytest.approx(returns.mean())
    assert result["std"] == pytest.approx(returns.std())
    obs = rollout.obs[: int(returns[0]), 0]
    modes = np.argmax(run.agent.policy.apply(run.state.params, obs).logits, -1)
    np.testing.assert_array_equal(rollout.action[: int(returns[0]), 0], modes)
    app.main(["evaluate", str(run_dir), "--episodes", "4", "--stochastic"])
    assert "over 4 episodes" in capsys.readouterr().out
    assert_trees_equal(load(run_dir).state, run.state)


def test_counts_of_the_package_are_integers(run_dir):
    assert pgjax.evaluate(run_dir, np.int64(2), seed=np.int64(7))["episodes"] == 2
    for fn, words in (
        (lambda: pgjax.evaluate(run_dir, True), "--episodes"),
        (lambda: pgjax.evaluate(run_dir, 2, seed=True), "--seed"),
        (lambda: pgjax.video.frames(run_dir, True), "--episodes"),
        (lambda: pgjax.verify(run_dir, first=True), "--updates"),
        (lambda: pgjax.verify(run_dir, last=2.0), "--updates"),
        (lambda: pgjax.train_seeds(load(run_dir).config, True), "--seeds"),
        (lambda: pgjax.resume(run_dir, updates=True), "--updates"),
    ):
        with pytest.raises(pgjax.ConfigError, match=words):
            fn()
