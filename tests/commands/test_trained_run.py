"""What users do with a trained run."""

import importlib.metadata
import json
import sys

import gymnasium as gym
import jax
import numpy as np
import pytest
from conftest import rows_of
from echo_env import ACTING, echo_run, modes_by_hand

import pgjax
from pgjax.cli import app
from pgjax.runs.folder import read_lines

SMALL = {"updates": 2, "episodes_per_update": 2, "eval_episodes": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=path, **SMALL))


def test_the_package_and_the_command_leave_the_same_folder(run, tmp_path):
    options = "--updates 2 --episodes-per-update 2 --eval-episodes 3 --no-anneal-lr".split()
    options += "--learning-rate 0.01 --gamma 0.99 --no-leave-one-out".split()
    app.main(["train", "CartPole-v1", *options, "--run-dir", str(tmp_path / "run")])
    ours, theirs = run.path, tmp_path / "run"
    assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
    for name in ("config.json", "metrics.jsonl", "digests.jsonl", "evaluation.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_nothing_is_printed_unless_somebody_follows(capsys, tmp_path):
    config = pgjax.TrainConfig("CartPole-v1", **(SMALL | {"updates": 1}))
    for i, (progress, shown) in enumerate(((None, False), (True, True), (False, False))):
        path = tmp_path / str(i)
        pgjax.train(pgjax.TrainConfig(**{**vars(config), "run_dir": path}), progress=progress)
        assert ("evaluation" in capsys.readouterr().out) is shown


def test_without_evaluation_there_is_no_file_of_it(tmp_path):
    settings = SMALL | {"eval_episodes": 0}
    run = pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / "run", **settings))
    assert run.evaluation is None
    assert not (run.path / "evaluation.json").exists()
    assert pgjax.verify(run) == {"identical": True, "first": 1, "last": 2}


def test_a_run_is_described_in_a_few_lines(run):
    lines = repr(run).splitlines()
    assert len(lines) <= 6
    assert max(map(len, lines)) < 200
    assert str(run.path) in lines[0]
    steps = rows_of(run)[-1]["total_env_steps"]
    assert f"CartPole-v1, reinforce, seed 0, 2 updates, {steps} environment steps" in repr(run)
    assert "over 3 episodes" in repr(run)


def test_a_notebook_shows_the_curve(run):
    shown = run._repr_html_()
    assert "data:image/png;base64," in shown
    assert "CartPole-v1" in shown


def test_metrics_and_evaluation_are_those_of_the_folder(run):
    logged = read_lines(run.path / "metrics.jsonl")
    assert run.metrics["mean_return"].tolist() == [row["mean_return"] for row in logged]
    assert run.evaluation == json.loads((run.path / "evaluation.json").read_text())
    found = pgjax.evaluate(run, 3)
    assert run.evaluation is not None
    assert {name: run.evaluation[name] for name in found} == found
    assert np.mean(run.evaluation["returns"]) == found["mean"]


@pytest.mark.parametrize("setting", ACTING)
def test_act_sends_what_the_network_gives_by_hand(setting, tmp_path):
    settings, by_hand = ACTING[setting]
    run = pgjax.Run(*echo_run(tmp_path, **settings))
    env, rewards, ended = run.make_env(), [], False
    obs, _ = env.reset(seed=0)
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(run.act(obs))
        rewards.append(reward)
        ended = terminated or truncated
    expected = modes_by_hand(run.state.params, **by_hand)
    sign = -1.0 if setting == "env_id" else 1.0
    np.testing.assert_allclose(rewards, sign * expected, rtol=1e-5, atol=1e-6)


def test_act_is_the_mode_unless_sampling_is_asked_for(run):
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    logits = run.policy.apply(run.state.params, obs).logits
    np.testing.assert_array_equal(run.act(obs), np.argmax(logits, -1))
    drawn = [run.act(obs, deterministic=False, key=jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    share = np.mean([run.act(obs, deterministic=False, key=jax.random.key(i)) for i in range(40)])
    assert abs(share - jax.nn.softmax(logits)[:, 1].mean()) < 0.02
    with pytest.raises(pgjax.ConfigError, match="needs a key"):
        run.act(obs, deterministic=False)


def test_act_takes_the_batch_of_a_vector_environment(run):
    envs = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    obs, _ = envs.reset(seed=0)
    obs, *_ = envs.step(run.act(obs))
    assert obs.shape == (3, 4)


def test_show_needs_ipython(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(pgjax.ConfigError, match=r"pgjax\.render"):
        run.show()


def test_version():
    assert pgjax.__version__ == importlib.metadata.version("pgjax")


def test_training_without_the_packages_that_show_it_says_so(monkeypatch, tmp_path):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "rich" else find(name, *a)
    )
    config = pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / "run", **SMALL)
    with pytest.raises(pgjax.ConfigError, match="rich"):
        pgjax.train(config, progress=True)
    assert not (tmp_path / "run").exists()
    with pytest.warns(pgjax.RunWarning, match="without rich"):
        run = pgjax.train(config)
    assert run.evaluation is None


@pytest.mark.slow
def test_verify_of_several_seeds(tmp_path):
    config = pgjax.TrainConfig(
        "CartPole-v1", on_device=True, num_shards=2, run_dir=tmp_path / "runs", **SMALL
    )
    pgjax.train_seeds(config, 2)
    found = pgjax.verify(tmp_path / "runs")
    assert found["identical"]
    assert list(found["seeds"]) == ["0", "1"]
    changed = tmp_path / "runs" / "seed-1" / "evaluation.json"
    changed.write_text(changed.read_text().replace('"episodes": 3', '"episodes": 2'))
    found = pgjax.verify(tmp_path / "runs")
    assert [of["identical"] for of in found["seeds"].values()] == [True, False]
    assert not found["identical"]
