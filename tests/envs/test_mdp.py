"""Tables that make_mdp accepts or refuses, and what the random tasks promise."""

import numpy as np
import pytest

import pgjax
from pgjax.envs import tabular


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": np.ones((2, 2))}, "shape"),
        ({"transition": np.full((2, 1, 2), 0.6)}, "sum to 1"),
        ({"transition": np.array([[[1.5, -0.5]], [[0.5, 0.5]]])}, "sum to 1"),
        ({"initial": [0.5, 0.6]}, "sum to 1"),
        ({"initial": [1.0]}, "initial must have shape"),
        ({"terminal": [True, False]}, "begin in a terminal"),
        ({"obs": np.ones((3, 1))}, "obs must have shape"),
        ({"reward": np.ones((3, 1, 1))}, "reward"),
    ],
)
def test_wrong_tables_are_refused(change, message):
    tables = {"transition": np.full((2, 1, 2), 0.5), "reward": 0.0} | change
    with pytest.raises(pgjax.ConfigError, match=message):
        tabular.make_mdp(**tables)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tabular.two_state_chain(1.1),
        lambda: tabular.random_mdp(0, num_states=1),
        lambda: tabular.random_mdp(0, num_actions=0),
        lambda: tabular.layered_mdp(0, ()),
        lambda: tabular.layered_mdp(0, (1, 0)),
        lambda: tabular.layered_mdp(0, num_actions=0),
    ],
)
def test_sizes_out_of_range_are_refused(make):
    with pytest.raises(pgjax.ConfigError):
        make()


def test_a_random_mdp_is_dense_and_follows_from_its_seed():
    mdp = tabular.random_mdp(0, num_states=4, num_actions=3)
    assert mdp.transition.shape == (4, 3, 4)
    assert (mdp.transition > 0).all()
    assert mdp.terminal.tolist() == [False, False, False, True]
    for x, y in zip(mdp, tabular.random_mdp(0, 4, 3), strict=True):
        np.testing.assert_array_equal(x, y)


def test_episodes_of_a_layered_mdp_end():
    rollout, _ = tabular.trajectories(tabular.layered_mdp(4, (2, 2), 3), 2)
    assert not rollout.truncated.any()
    assert set(rollout.weight.sum(0)) == {1.0, 2.0}
