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
