import jax
import numpy as np
import pytest
from algorithm_cases import KINDS, OBS, algorithm_case, plain
from conftest import make_rollout


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
