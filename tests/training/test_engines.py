"""What a run comes to does not depend on how many updates a dispatch makes."""

import jax
import numpy as np
from conftest import assert_trees_equal
from jax.sharding import Mesh

import pgjax
from pgjax import envs
from pgjax.config.agent import make_agent
from pgjax.config.env import make_env
from pgjax.training.engines import AXIS, device_engine


def test_any_number_of_updates_in_a_dispatch():
    config = pgjax.TrainConfig("CartPole-v1", episodes_per_update=8, on_device=True)
    agent = make_agent(config, make_env(config, 1))
    mesh = Mesh(np.array(jax.devices()[:1]), (AXIS,))
    env = envs.make("CartPole-v1")
    engine = device_engine(config, env, agent.algorithm, pgjax.Sharding(8), mesh)

    def after(*counts):
        states, metrics = engine.begin([agent.init(5)]), []
        for count in counts:
            states, made = engine.advance(states, count)
            (infos,), (digests,), timings = made
            assert len(infos) == len(digests) == len(timings) == count
            metrics += infos
        return engine.end(states)[0], metrics

    state, metrics = after(6)
    for counts in ((1, 1, 1, 1, 1, 1), (4, 2)):
        other, other_metrics = after(*counts)
        assert_trees_equal(other, state)
        assert other_metrics == metrics
    assert [m["episodes"] for m in metrics] == [8] * 6
