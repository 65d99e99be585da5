"""Training runs that collect streams of steps."""

import json

import jax
import pytest
from conftest import assert_trees_equal, rows_of

import pgjax
from pgjax.training import train as training
from pgjax.training.verify import verify

CONFIG = dict(
    collect="steps", critic=True, estimator="gae", num_envs=2, num_steps=16, updates=3,
    hidden_sizes=(8,), eval_episodes=2,
)  # fmt: skip


def test_a_stream_run_is_reproducible_from_the_beginning(tmp_path):
    with pytest.warns(pgjax.RunWarning, match="not bit-exact: a resumed stream of steps restarts"):
        one, two = (
            training.train(pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / str(i), **CONFIG))
            for i in range(2)
        )
    assert_trees_equal(one.state, two.state)
    assert rows_of(one)[-1]["total_env_steps"] == 3 * 2 * 16
    manifest = json.loads((one.path / "manifest.json").read_text())
    assert "restarts its episodes" in str(manifest)
    # Verified from the beginning, because a stream cannot continue from a checkpoint.
    assert verify(one.path, first=3)["identical"]
    with pytest.warns(pgjax.RunWarning, match="restarts its episodes"):
        [longer] = training.resume(one.path, updates=5)
    assert len(rows_of(longer)) == 5
    assert verify(one.path) == {"identical": True, "first": 1, "last": 3}
    with pytest.raises(pgjax.ConfigError, match="1:3 can be compared: a resumed stream"):
        verify(one.path, last=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # from envpool
def test_envpool(tmp_path):
    """Its resets have weight 0, and its runs are evaluated with Gymnasium's environment."""
    pytest.importorskip("envpool")
    config = pgjax.TrainConfig(
        "CartPole-v1", vectorization="envpool", run_dir=tmp_path / "run", **CONFIG
    )
    with pytest.warns(pgjax.RunWarning, match="restarts its episodes"):
        run = training.train(config)
    assert rows_of(run)[-1]["total_env_steps"] <= 3 * 2 * 16
    assert pgjax.evaluate(run, 2)["episodes"] == 2
    assert_trees_equal(pgjax.load(run.path).state, run.state)
    other = dict(CONFIG, vectorization="envpool", run_dir=tmp_path / "other")
    with pytest.raises(pgjax.ConfigError, match="different spaces from Gymnasium's"):
        training.train(pgjax.TrainConfig("Blackjack-v1", **other))
    with pytest.raises(pgjax.ConfigError, match="envpool cannot make"):
        training.train(pgjax.TrainConfig("NoSuchThing-v1", **other))
    assert not (tmp_path / "other").exists()


ON_DEVICE = dict(
    CONFIG, on_device=True, algorithm="ppo", num_epochs=2, minibatch_size=16, updates=5,
    max_episode_steps=40, num_shards=2,
)  # fmt: skip


def test_a_stream_run_on_the_device_resumes_to_the_bit(tmp_path):
    configs = (
        pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / str(n), **{**ON_DEVICE, "updates": n})
        for n in (5, 2)
    )
    whole, stopped = map(pgjax.train, configs)
    [resumed] = training.resume(stopped.path, updates=5)
    assert_trees_equal(resumed.state, whole.state)
    assert type(resumed.state) is pgjax.TrainState
    assert rows_of(resumed) == rows_of(whole)
    assert_trees_equal(pgjax.load(resumed.path).state, whole.state)
    assert verify(resumed.path, first=4) == {"identical": True, "first": 4, "last": 5}
    assert json.loads((whole.path / "manifest.json").read_text())["bit_exact"]


@pytest.mark.slow
def test_a_seed_of_several_on_the_device_is_as_alone(tmp_path):
    config = pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / "seeds", **ON_DEVICE)
    runs = training.train_seeds(config, 2)
    alone = pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / "alone", seed=1, **ON_DEVICE)
    assert_trees_equal(runs[1].state, training.train(alone).state)


@pytest.mark.slow
def test_the_best_checkpoint_is_not_one_from_before_the_first_end(tmp_path):
    """Pendulum's running episodes have small sums of negative rewards, the first ones above all."""
    config = pgjax.TrainConfig(
        "Pendulum-v1", run_dir=tmp_path / "run",
        **{**ON_DEVICE, "updates": 5, "num_steps": 10, "checkpoint_seconds": 0.0},
    )  # fmt: skip
    run = training.train(config)
    assert [row["total_episodes"] for row in rows_of(run)] == [0, 0, 0, 2, 2]
    kept = {int(path.stem) for path in (run.path / "checkpoints").glob("*.ckpt")}
    assert 5 in kept
    assert 1 not in kept  # the first one written


def test_environments_that_devices_cannot_share_are_refused():
    env = pgjax.envs.make("CartPole-v1")
    sharding = pgjax.Sharding(4, "devices")
    with pytest.raises(pgjax.ConfigError, match="choose num_envs as a multiple of num_shards"):
        pgjax.init_stream(env, jax.random.key(0), 6, sharding=sharding)
