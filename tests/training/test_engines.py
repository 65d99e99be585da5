"""The result of a run does not depend on the number of updates per dispatch."""

import flax.linen as nn
import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, rows_of
from jax.sharding import Mesh

import pgjax
from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.training import train as training
from pgjax.training.engines import AXIS, device_engine


def test_any_number_of_updates_in_a_dispatch():
    config = pgjax.TrainConfig("CartPole-v1", episodes_per_update=8, on_device=True)
    with open_env(config) as env:
        agent = make_agent(config, env)
    mesh = Mesh(np.array(jax.devices()[:1]), (AXIS,))
    engine = device_engine(config, env.env, agent.algorithm, pgjax.Sharding(8), mesh)

    def after(*counts):
        states, metrics = engine.begin([agent.init(5)]), []
        for count in counts:
            states, records = engine.advance(states, count)
            (infos,), (digests,), timings = records
            assert len(infos) == len(digests) == len(timings) == count
            metrics += infos
        return engine.end(states)[0], metrics

    state, metrics = after(6)
    for counts in ((1, 1, 1, 1, 1, 1), (4, 2)):
        other, other_metrics = after(*counts)
        assert_trees_equal(other, state)
        assert other_metrics == metrics
    assert [m["episodes"] for m in metrics] == [8] * 6


COLLECTING = [
    {"squash": True},
    {"seed": 1, "episodes_per_update": 3, "max_episode_steps": 2},
]  # fmt: skip


@pytest.mark.parametrize("on_device", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("settings", COLLECTING, ids=lambda settings: next(iter(settings)))
def test_an_update_collects_as_every_field_says(settings, on_device, tmp_path):
    config = pgjax.TrainConfig(
        "Pendulum-v1", updates=1, hidden_sizes=(4,), on_device=on_device, num_shards=1,
        run_dir=tmp_path / "run",
        **{"max_episode_steps": 4, "episodes_per_update": 2, **settings},
    )  # fmt: skip
    [found] = rows_of(training.train(config))
    steps, episodes = settings.get("max_episode_steps", 4), settings.get("episodes_per_update", 2)
    assert (found["episodes"], found["env_steps"]) == (episodes, episodes * steps)

    def mean_return(seed, squash):
        policy = pgjax.GaussianPolicy(1, (4,), nn.relu, squash=squash)
        algorithm = pgjax.reinforce(policy, optax.adam(0.01))
        key = jax.random.key(seed)
        if on_device:
            env = pgjax.envs.make("Pendulum-v1", steps)
            state = pgjax.init_on_device(algorithm, env, key)
            collect = pgjax.collect_episodes_on_device
        else:
            env = gym.make("Pendulum-v1", max_episode_steps=steps)
            state = algorithm.init(key, np.zeros(3, np.float32))
            collect = pgjax.collect_episodes
        rollout = collect(env, algorithm, state, episodes, squash=squash)
        return np.where(rollout.weight > 0, rollout.reward, 0.0).sum(0).mean()

    seed, squash = settings.get("seed", 0), settings.get("squash", False)
    assert found["mean_return"] == pytest.approx(mean_return(seed, squash), rel=1e-6)
    if {"seed", "squash"} & settings.keys():
        assert found["mean_return"] != pytest.approx(mean_return(0, False), rel=1e-6)


@pytest.mark.parametrize("num_envs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_update_of_streams_makes_num_steps_in_each_environment(num_envs, tmp_path):
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=1, hidden_sizes=(4,), collect="steps", critic=True, num_steps=7,
        num_envs=num_envs, run_dir=tmp_path / "run",
    )  # fmt: skip
    with pytest.warns(pgjax.RunWarning, match="not bit-exact"):
        [found] = rows_of(training.train(config))
    assert found["env_steps"] == 7 * num_envs


class Events:
    """An observer that keeps what it receives."""

    def __init__(self):
        self.seen = []

    def start(self, run):
        self.seen.append(("start", len(run.configs), run.action_space.n))

    def update(self, metrics, timings):
        self.seen.append(("update", [of_seed["update"] for of_seed in metrics]))

    def stop(self):
        self.seen.append(("stop",))


@pytest.mark.parametrize("on_device", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_observers_see_the_start_every_update_and_the_end(on_device, tmp_path):
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=3, episodes_per_update=2, hidden_sizes=(4,), on_device=on_device,
        num_shards=2, run_dir=tmp_path / "run",
    )  # fmt: skip

    class Hears(Events):
        lengths = ()

        def compiling(self, steps):
            assert self.seen == [("start", 1, 2)]  # before the first update
            self.lengths += (steps,)

    one, other = Hears(), Events()
    training.train(config, [one, other])
    updates = [("update", [i]) for i in (1, 2, 3)]
    assert one.seen == other.seen == [("start", 1, 2), *updates, ("stop",)]
    assert one.lengths == (() if on_device else (512,))


def test_every_observer_stops_when_one_fails(tmp_path):
    class Fails(Events):
        def update(self, metrics, timings):
            raise ZeroDivisionError

        def stop(self):
            super().stop()
            raise KeyError("stop")

    config = pgjax.TrainConfig(
        "CartPole-v1", updates=3, episodes_per_update=2, hidden_sizes=(4,), run_dir=tmp_path / "run"
    )
    one, failing, other = Events(), Fails(), Events()
    with pytest.raises(KeyError, match="stop"):
        training.train(config, [one, failing, other])
    assert one.seen[-1] == failing.seen[-1] == other.seen[-1] == ("stop",)
    assert other.seen == [("start", 1, 2), ("stop",)]
    assert int(pgjax.load(tmp_path / "run").state.step) == 1
