import json

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from conftest import FAST, train_again

import pgjax
from pgjax.cli import app
from pgjax.config import agent
from pgjax.evaluation import evaluate, video
from pgjax.runs import digests, folder
from pgjax.runs.run import load
from pgjax.training import train as training


def test_files_of_a_run(run_dir):
    names = {p.name for p in run_dir.iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "digests.jsonl", "timings.jsonl", "manifest.json",
        "checkpoints", "evaluation.json", "learning_curve.png",
    }  # fmt: skip
    rows = folder.read_lines(run_dir / "metrics.jsonl")
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert [row["total_episodes"] for row in rows] == [4, 8, 12]
    assert rows[-1]["total_env_steps"] == sum(row["env_steps"] for row in rows)
    for row in rows:
        assert row["min_return"] <= row["mean_return"] <= row["max_return"]
        assert row["mean_length"] == row["mean_return"]  # CartPole's reward is 1 per step
        assert row["env_steps"] == pytest.approx(4 * row["mean_length"])
    assert "steps_per_second" in folder.read_lines(run_dir / "timings.jsonl")[0]
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["params_sha256"] == digests.params_sha256(load(run_dir).state.params)
    assert manifest["machine"]["jax version"] == jax.__version__
    assert (run_dir / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_bits_for_any_number_of_environments_and_another_for_another_seed(
    run_dir, tmp_path
):
    expected = json.loads((run_dir / "manifest.json").read_text())["params_sha256"]
    assert train_again(tmp_path / "one", "--num-envs", "1") == expected
    metrics = (run_dir / "metrics.jsonl").read_bytes()
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() == metrics
    assert train_again(tmp_path / "seed", "--seed", "1") != expected


def test_async_environments_train_to_the_same_bits(run_dir, tmp_path):
    expected = json.loads((run_dir / "manifest.json").read_text())["params_sha256"]
    assert train_again(tmp_path / "a", "--vectorization", "async", "--num-envs", "2") == expected
    assert len(video.frames(load(tmp_path / "a"))) > 1


def test_on_device_leaves_the_same_folder_and_so_does_each_of_several_seeds(
    run_dir, tmp_path, capsys
):
    path = tmp_path / "run"
    sha256 = train_again(path, "--on-device", "--seed", "1")
    assert {p.name for p in path.iterdir()} == {p.name for p in run_dir.iterdir()}
    theirs, ours = (folder.read_lines(p / "metrics.jsonl") for p in (run_dir, path))
    assert [list(row) for row in theirs] == [list(row) for row in ours]
    assert len(video.frames(load(path))) > 1  # renders Gymnasium's environment
    app.main(
        ["train", "CartPole-v1", *FAST, "--on-device", "--seeds", "5", "--run-dir"]
        + [str(tmp_path / "seeds")]
    )
    assert "95 % bootstrap interval" in capsys.readouterr().out
    folders = folder.seed_folders(tmp_path / "seeds")
    assert [p.name for p in folders] == [f"seed-{n}" for n in range(5)]
    # Seed 1 equals the run of that seed alone, in every byte that depends on config and seed.
    assert load(folders[1]).config == load(path).config
    for name in ("config.json", "metrics.jsonl", "digests.jsonl", "evaluation.json"):
        assert (folders[1] / name).read_bytes() == (path / name).read_bytes()
    assert json.loads((folders[1] / "manifest.json").read_text())["params_sha256"] == sha256
    assert {p.name for p in folders[4].iterdir()} == {p.name for p in run_dir.iterdir()}
    summary = json.loads((tmp_path / "seeds" / "evaluation.json").read_text())
    means = [json.loads((p / "evaluation.json").read_text())["mean"] for p in folders]
    assert list(summary["mean_by_seed"].values()) == means
    assert summary["low"] <= summary["interquartile_mean"] <= summary["high"]
    assert (tmp_path / "seeds" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(pgjax.RunError, match="holds several runs: choose one"):
        load(tmp_path / "seeds")
    app.main(["evaluate", str(folders[1]), "--episodes", "5", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((path / "evaluation.json").read_text())


def test_a_failure_in_the_first_update_writes_nothing(tmp_path):
    gym.register("Failing-v0", entry_point="probe_envs:FailingEnv", max_episode_steps=100)
    config = pgjax.TrainConfig(env_id="Failing-v0", run_dir=tmp_path / "run", num_envs=1)
    with pytest.raises(pgjax.RolloutError, match="reward is nan"):
        training.train(config)
    assert list(tmp_path.iterdir()) == []


class FromSecondUpdate(gym.Wrapper):
    """Return NaN rewards, or raise, from the fifth episode on."""

    resets, error = 0, None

    def reset(self, **kwargs):
        self.resets += 1
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        if self.resets > 4 and self.error is not None:
            raise self.error
        return obs, float("nan") if self.resets > 4 else reward, *rest


@pytest.mark.parametrize(
    "error", [None, ValueError(), ZeroDivisionError("of their own")], ids=["NaN", "empty", "own"]
)
def test_what_was_learned_before_a_failure_is_saved(tmp_path, monkeypatch, error):
    monkeypatch.setattr(FromSecondUpdate, "error", error)
    monkeypatch.delitem(gym.registry, "FailsLater-v0", raising=False)
    gym.register("FailsLater-v0", entry_point=lambda: FromSecondUpdate(gym.make("CartPole-v1")))
    config = pgjax.TrainConfig(
        "FailsLater-v0", updates=9, episodes_per_update=4, num_envs=1, run_dir=tmp_path / "run"
    )
    with pytest.raises(pgjax.RolloutError, match=r"episode 4 .*saved in") as caught:
        training.train(config)
    if error is not None:
        assert caught.value.__cause__.__cause__ is error
        assert type(error).__name__ in str(caught.value)
    # The replay: the reset seed and one action, after which the reward is NaN.
    replay = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert replay == caught.value.replay
    assert f"reset seed {replay['reset_seed']}" in str(caught.value)
    assert len(replay["actions"]) == 1
    assert int(pgjax.load(tmp_path / "run").state.step) == 1
    assert len(folder.read_lines(tmp_path / "run" / "metrics.jsonl")) == 1
    assert (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize("on_device", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_divergence_is_reported_and_not_saved(on_device, tmp_path):
    config = pgjax.TrainConfig(
        "CartPole-v1", learning_rate=1e38, updates=40, episodes_per_update=8, on_device=on_device,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(pgjax.DivergedError, match="lower the learning rate"):
        training.train(config)
    state = pgjax.load(tmp_path / "run").state
    assert 1 <= int(state.step) < 40
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert len(folder.read_lines(tmp_path / "run" / "metrics.jsonl")) == int(state.step)


class Rich(gym.Env):
    """Rewards are finite, but not their sum."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 3e38, False, False, {}


gym.register("Rich-v0", entry_point=Rich, max_episode_steps=3)


@pytest.mark.parametrize(
    "settings",
    [
        *(pytest.param(settings, marks=pytest.mark.slow) for settings in ({}, {"critic": True})),
        {"normalize_rewards": True},
    ],
)
def test_rewards_out_of_range_are_named(settings, tmp_path):
    config = pgjax.TrainConfig(
        "Rich-v0", updates=2, episodes_per_update=2, hidden_sizes=(4,), run_dir=tmp_path / "r",
        **settings,
    )  # fmt: skip
    with pytest.raises(pgjax.DivergedError, match="returns of up to inf are out of range"):
        training.train(config)


def test_parameters_that_are_not_finite_at_the_end_are_reported(tmp_path, monkeypatch):
    """Even if the loss is finite."""
    monkeypatch.setattr(agent, "make_optimizer", lambda config: optax.sgd(np.inf))
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=1, episodes_per_update=4, run_dir=tmp_path / "r"
    )
    with pytest.raises(pgjax.DivergedError, match="update 1 is not finite"):
        training.train(config)
    assert not (tmp_path / "r").exists()


def test_an_interrupt_saves_what_was_learned(tmp_path):
    class Interrupting:
        def start(self, run):
            pass

        def stop(self):
            pass

        def update(self, metrics, timings):
            if metrics[0]["update"] == 2:
                raise KeyboardInterrupt

    config = pgjax.TrainConfig(
        env_id="CartPole-v1", updates=50, episodes_per_update=4, run_dir=tmp_path / "run"
    )
    with pytest.raises(KeyboardInterrupt, match="after 2 updates"):
        training.train(config, [Interrupting()])
    assert int(load(tmp_path / "run").state.step) == 2
    assert len(folder.read_lines(tmp_path / "run" / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param("Pendulum-v1", marks=pytest.mark.slow),
        pytest.param("FrozenLake-v1", marks=pytest.mark.slow),
        "Blackjack-v1",
        pytest.param("Acrobot-v1", marks=pytest.mark.slow),
        pytest.param("MountainCarContinuous-v0", marks=pytest.mark.slow),
    ],
)
def test_environments_of_every_kind_train(env_id, tmp_path):
    config = pgjax.TrainConfig.preset(
        env_id, updates=1, episodes_per_update=2, num_envs=2, max_episode_steps=20,
        run_dir=tmp_path / "run", hidden_sizes=(8,),
    )  # fmt: skip
    run = training.train(config)
    assert int(run.state.step) == 1
    assert evaluate.evaluate(run, 2)["mean_length"] <= 20
