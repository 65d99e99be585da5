"""What a run comes to does not depend on how many updates a dispatch makes."""

from conftest import assert_trees_equal

import pgjax
from pgjax import envs
from pgjax.engines import device_engine
from pgjax.train import make_agent, make_env


def test_any_number_of_updates_in_a_dispatch():
    config = pgjax.TrainConfig("CartPole-v1", episodes_per_update=8, on_device=True)
    agent = make_agent(config, make_env(config, 1))
    engine = device_engine(config, envs.make("CartPole-v1"), agent.algorithm)

    def after(*counts):
        state, metrics = agent.init(), []
        for count in counts:
            state, infos, timings = engine.advance(state, count)
            assert len(infos) == len(timings) == count
            metrics += infos
        return state, metrics

    state, metrics = after(6)
    for counts in ((1, 1, 1, 1, 1, 1), (4, 2)):
        other, other_metrics = after(*counts)
        assert_trees_equal(other, state)
        assert other_metrics == metrics
    assert [m["episodes"] for m in metrics] == [8] * 6
