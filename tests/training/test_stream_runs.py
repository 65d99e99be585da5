"""Training runs that collect streams of steps."""

import json

import pytest
from conftest import assert_trees_equal

import pgjax
from pgjax.training.verify import verify

CONFIG = dict(
    collect="steps", critic=True, estimator="gae", num_envs=2, num_steps=16, updates=3,
    hidden_sizes=(8,), eval_episodes=2,
)  # fmt: skip


def test_a_stream_run_is_reproducible_from_the_beginning(tmp_path):
    with pytest.warns(pgjax.RunWarning, match="not bit-exact: a resumed stream of steps restarts"):
        one, two = (
            pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / str(i), **CONFIG))
            for i in range(2)
        )
    assert_trees_equal(one.state, two.state)
    assert one.metrics[-1]["total_env_steps"] == 3 * 2 * 16
    manifest = json.loads((one.path / "manifest.json").read_text())
    assert "restarts its episodes" in str(manifest)
    # Verified from the beginning, because a stream cannot continue from a checkpoint.
    assert verify(one.path, first=3)["identical"]
    with pytest.warns(pgjax.RunWarning, match="restarts its episodes"):
        [longer] = pgjax.resume(one.path, updates=5)
    assert len(longer.metrics) == 5
    assert verify(one.path) == {"identical": True, "first": 1, "last": 3}
    with pytest.raises(pgjax.ConfigError, match="1:3 can be compared: a resumed stream"):
        verify(one.path, last=4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"critic": False, "estimator": "reward_to_go"}, "add --critic"),
        ({"on_device": True}, "leave out --collect steps"),
        ({"leave_one_out": True}, "whole episodes"),
        ({"time_discount": True}, "whole episodes"),
        ({"vectorization": "envpool", "frame_stack": 2}, "leave out --vectorization envpool"),
        ({"collect": "episodes", "vectorization": "envpool"}, "add --collect steps"),
    ],
)
def test_settings_that_exclude_each_other(change, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        pgjax.TrainConfig("CartPole-v1", **{**CONFIG, **change})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # from envpool
def test_envpool(tmp_path):
    """Its resets have weight 0, and its runs are evaluated with Gymnasium's environment."""
    pytest.importorskip("envpool")
    config = pgjax.TrainConfig(
        "CartPole-v1", vectorization="envpool", run_dir=tmp_path / "run", **CONFIG
    )
    with pytest.warns(pgjax.RunWarning, match="restarts its episodes"):
        run = pgjax.train(config)
    assert run.metrics[-1]["total_env_steps"] <= 3 * 2 * 16
    assert pgjax.evaluate(run, 2)["episodes"] == 2
    assert_trees_equal(pgjax.load(run.path).state, run.state)
    other = dict(CONFIG, vectorization="envpool", run_dir=tmp_path / "other")
    with pytest.raises(pgjax.ConfigError, match="other spaces than Gymnasium's"):
        pgjax.train(pgjax.TrainConfig("Blackjack-v1", **other))
    with pytest.raises(pgjax.ConfigError, match="envpool cannot make"):
        pgjax.train(pgjax.TrainConfig("NoSuchThing-v1", **other))
    assert not (tmp_path / "other").exists()
