import jax
import numpy as np
import pytest
from algorithm_cases import KINDS, OBS, algorithm_case, plain
from conftest import make_rollout

from pgjax.algorithms.metrics import explained_variance


@pytest.mark.parametrize("kind", KINDS)
def test_info_by_hand(kind):
    algorithm, state, rollout = algorithm_case(kind)
    batch = rollout(np.random.default_rng(0), [2, 3], time=8, terminated=[True, False])
    reward = np.zeros_like(batch.reward)
    reward[:2, 0], reward[:3, 1] = [1, 2], [4, 5, 6]
    info = algorithm.update(state, batch._replace(reward=reward))[1]
    expected = {
        "episodes": 2, "env_steps": 5, "mean_return": 9, "min_return": 3, "max_return": 15,
        "mean_length": 2.5, "min_length": 2, "max_length": 3, "truncated_fraction": 0.5,
    }  # fmt: skip
    assert {k: float(info[k]) for k in expected} == expected
    assert float(info["grad_norm"]) > 0
    assert all(np.ndim(x) == 0 for x in info.values())
    assert ("value_loss" in info) == ("explained_variance" in info) == ("critic" in state.params)


def test_episodes_of_streams_are_counted():
    """An end inside a column, a gap, and padding at the start: N is the number of episodes."""
    batch = make_rollout(np.random.default_rng(0), [6, 6], terminated=False)
    batch.terminated[1, 0] = True
    batch.weight[3, 0] = 0.0  # steps 0 1 | 2 gap | 4 5
    batch.weight[:2, 1] = 0.0  # 2 3 4 5
    info = plain().loss(plain().init(jax.random.key(0), OBS).params, batch)[1]
    assert int(info["episodes"]) == 4
    assert int(info["env_steps"]) == 9
    assert float(info["mean_length"]) == 9 / 4


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e-6, 1.0, 1e20, 1e37])
def test_explained_variance_is_the_same_at_every_scale(scale):
    rng = np.random.default_rng(0)
    target, value = rng.normal(size=(2, 40, 3)).astype(np.float32)
    weight = np.ones((40, 3), np.float32)
    weight[30:, 1] = 0.0
    real = weight > 0
    expected = 1 - np.var((target - value)[real]) / np.var(target[real])
    assert expected < -0.5  # a poor critic
    found = explained_variance(weight, np.float32(scale) * value, np.float32(scale) * target)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_explained_variance_of_a_constant_target():
    ones, noise = np.ones((7, 2), np.float32), np.arange(14, dtype=np.float32).reshape(7, 2)
    constant = np.float32(0.1) * ones
    assert float(explained_variance(ones, constant, constant)) == 1.0
    assert float(explained_variance(ones, np.float32(0.7) * ones, constant)) == 1.0
    assert float(explained_variance(ones, noise, constant)) == 0.0
