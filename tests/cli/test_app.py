import dataclasses
import json
import shutil

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal

import pgjax
from pgjax.cli import app
from pgjax.config import agent
from pgjax.evaluation import evaluate, plot, video
from pgjax.runs import digests, folder, provenance, store
from pgjax.runs.run import load
from pgjax.training import verify

FAST = ["--updates", "3", "--episodes-per-update", "4", "--eval-episodes", "5"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    app.main(["train", "CartPole-v1", *FAST, "--run-dir", str(path)])
    return path


def train_again(path, *options):
    app.main(["train", "CartPole-v1", *FAST, "--run-dir", str(path), *options])
    return json.loads((path / "manifest.json").read_text())["params_sha256"]


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


def test_load_restores_a_run(run_dir):
    run = load(run_dir)
    assert json.loads(json.dumps(run.config.to_json())) == store.read_sealed(
        run_dir / "config.json"
    )
    assert run.policy is run.agent.policy
    assert run.metrics == folder.read_lines(run_dir / "metrics.jsonl")
    assert int(run.state.step) == 3
    # training continues as it would have
    env = gym.make("CartPole-v1")
    rollout = pgjax.collect_episodes(env, run.agent.algorithm, run.state, 4)
    state, _ = run.agent.algorithm.update(run.state, rollout)
    assert int(state.step) == 4


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


def test_evaluate(run_dir, capsys):
    app.main(["evaluate", str(run_dir), "--episodes", "4", "--seed", "7", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"mean", "std", "min", "max", "mean_length", "episodes"}
    run = load(run_dir)
    # worked out separately: the mode acts in an environment reset with the evaluation's seeds
    state = evaluate.evaluation_state(run, 7)
    env = gym.make("CartPole-v1")
    rollout = pgjax.collect_episodes(env, evaluate.greedy(run.agent), state, 4)
    returns = rollout.reward.sum(0)
    assert result["mean"] == pytest.approx(returns.mean())
    assert result["std"] == pytest.approx(returns.std())
    obs = rollout.obs[: int(returns[0]), 0]
    modes = np.argmax(run.agent.policy.apply(run.state.params, obs).logits, -1)
    np.testing.assert_array_equal(rollout.action[: int(returns[0]), 0], modes)
    app.main(["evaluate", str(run_dir), "--episodes", "4", "--stochastic"])
    assert "over 4 episodes" in capsys.readouterr().out
    assert_trees_equal(load(run_dir).state, run.state)


def test_render_and_plot(run_dir, tmp_path):
    run = load(run_dir)
    frames = video.frames(run, seed=3)
    length = evaluate.evaluate(run, 1, seed=3)["mean_length"]
    assert len(frames) == length + 1
    assert frames[0].shape == (400, 600, 3)
    app.main(["render", str(run_dir), "--out", str(tmp_path / "new" / "video.gif"), "--seed", "3"])
    app.main(["render", str(run_dir), "--out", str(tmp_path / "video.mp4")])
    app.main(["plot", str(run_dir), "--out", str(tmp_path / "curve.png")])
    assert (tmp_path / "new" / "video.gif").read_bytes().startswith(b"GIF")
    assert b"ftyp" in (tmp_path / "video.mp4").read_bytes()[:16]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


class Blind(gym.Wrapper):
    def render(self):
        return None


def test_an_environment_without_frames_is_not_rendered(run_dir, tmp_path):
    def make(render_mode=None):
        return Blind(gym.make("CartPole-v1", render_mode=render_mode))

    gym.register("Blind-v0", entry_point=make)
    run = load(run_dir)
    run = run._replace(config=dataclasses.replace(run.config, env_id="Blind-v0"))
    for name in ("video.gif", "video.mp4"):
        with pytest.raises(pgjax.ConfigError, match="Blind-v0 renders None, not an array"):
            video.render(run, tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train NoSuchThing-v0", "NoSuchThing"),
        ("train CartPole-v1 --gamma 1.5", "--gamma must be a number from 0 to 1, got 1.5"),
        ("train CartPole-v1 --learning-rate nan", "--learning-rate"),
        ("train CartPole-v1 --seed -1", "--seed must be an integer from 0"),
        ("train CartPole-v1 --updates 0", "--updates"),
        ("train CartPole-v1 --hidden-sizes 0", "--hidden-sizes"),
        ("train CartPole-v1 --estimator gae", "--critic"),
        ("train CartPole-v1 --leave-one-out --episodes-per-update 1", "at least 2 episodes"),
        ("train --seed 3 CartPole-v1", "first"),
        ("train CartPole-v1 --collect steps", "add --critic"),
        ("train CartPole-v1 --seeds 3", "--on-device"),
        ("train CartPole-v1 --on-device --seeds 0", "--seeds"),
        ("train CartPole-v1 --num-devices 0", "--num-devices must be at least 1, got 0"),
        ("train CartPole-v1 --on-device --num-devices 999", "--num-devices 999, but there"),
        ("train CartPole-v1 --num-processes 2", "--coordinator HOST:PORT"),
        ("train CartPole-v1 --coordinator nowhere", "HOST:PORT or auto"),
        ("train FrozenLake-v1 --on-device", "CartPole-v1, Pendulum-v1, Acrobot-v1"),
        ("fly", "no command 'fly': use one of train, resume"),
        ("train CartPole-v1 --learning-rate 1e39", "--learning-rate must be a number from 0 to"),
        ("train CartPole-v1 --updates 9999999999", "--updates must be an integer from 1 to"),
        ("train CartPole-v1 --max-episode-steps 9999999999", "--max-episode-steps must be"),
        ("train CartPole-v1 --on-device --num-shards 99999", "--num-shards must be"),
        ("train CartPole-v1 --on-device --seeds 1000000000", "from 1 to 100000"),
        ("train CartPole-v1 --coordinator a:1 --num-processes 0 --process-id 0", "at least 1"),
        ("train json:broken:CartPole-v1", "cannot make the environment"),
        ("resume {run} --updates 0", "--updates 0: the learning rate"),
        ("evaluate {run} --episodes 9999999999", "--episodes must be an integer from 1 to"),
        ("render {run} --out video.gif --episodes 0", "--episodes must be an integer from 1 to"),
        ("render {run} --out {run}/config.json/video.gif", "cannot write the video"),
        ("plot {run} --out {run}/config.json/curve.png", "cannot write the image"),
        ("export {run} --out {run}/config.json/orbax", "Orbax cannot write"),
        ("train CartPole-v1 --run-dir " + 300 * "a", "cannot be made (File name too long)"),
        ("evaluate nowhere", "nowhere is not a run folder"),
        ("evaluate {run} --episodes 0", "--episodes"),
        ("evaluate {run} --seed -2", "--seed"),
        ("render {run} --out video.avi", ".mp4 or .gif"),
        ("plot nowhere", "nowhere is not a run folder"),
        ("train CartPole-v1 --run-dir {run}", "is not empty"),
        ("train CartPole-v1 --run-dir {run}/config.json/x", "cannot be made"),
        ("render {run} --out {run}/checkpoints.gif/../..", ".mp4 or .gif"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, words, run_dir, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        app.main(argv.format(run=run_dir).split())
    assert stop.value.code == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("pgjax: ")
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train CartPole-v1 --seed 1.5", ["--seed", "'1.5'"]),
        ("train CartPole-v1 --estimator best", ["'best'", "reward_to_go"]),
        ("train CartPole-v1 --learning-rat 3", ["--learning-rat", "--learning-rate"]),
        ("train MountainCarContinuous-v0 --squash --activation gelu", ["'gelu'", "tanh"]),
        ("train", ["environment"]),
        ("", ["train", "resume"]),
    ],
)
def test_the_parser_names_arguments_that_it_cannot_read(argv, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        app.main(argv.split())
    assert stop.value.code == 2
    error = capfd.readouterr().err
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_damaged_runs_are_reported(run_dir, tmp_path, capfd):
    for content in ("{", "[]", '{"env_id": "CartPole-v1", "x": 1}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(SystemExit):
            app.main(["evaluate", str(tmp_path)])
        assert len(capfd.readouterr().err.strip().splitlines()) == 1
    store.write_sealed(tmp_path / "config.json", {"env_id": "CartPole-v1", "x": 1})
    with pytest.raises(pgjax.ConfigError, match="not know: x"):
        load(tmp_path)
    (tmp_path / "config.json").write_bytes((run_dir / "config.json").read_bytes())
    with pytest.raises(pgjax.RunError, match="no intact checkpoint"):
        load(tmp_path)


def test_a_run_without_an_intact_checkpoint_says_why_in_one_line(run_dir, tmp_path, capfd):
    shutil.copytree(run_dir, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SystemExit):
        app.main(["evaluate", str(tmp_path / "run")])
    [line] = capfd.readouterr().err.strip().splitlines()
    assert "no intact checkpoint" in line
    assert ".ckpt is truncated" in line


@pytest.mark.parametrize("line", ["", "[1]", "null", '{"mean_return": "a"}', "[" * 10**5])
def test_unreadable_metrics_are_reported(line, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(line)
    with pytest.raises(pgjax.RunError, match="no readable metrics.jsonl"):
        plot.plot(tmp_path / "run")
    with pytest.raises(pgjax.RunError, match="no readable logs"):
        verify.verify(tmp_path / "run")


def test_a_failed_plot_leaves_no_file(run_dir, tmp_path):
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(pgjax.RunError, match="another --out"):
        plot.plot(run_dir, tmp_path / "curve.png")
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
    assert plot.plot(run_dir, tmp_path / "new" / "curve.png").exists()


def test_a_missing_device_is_reported(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'abacus': no such thing. (advice)")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(pgjax.ConfigError, match="no such thing.: unset it, or set it to cpu"):
        provenance.require_device()


def test_a_failure_in_the_first_update_writes_nothing(tmp_path):
    gym.register("Failing-v0", entry_point="probe_envs:FailingEnv")
    config = pgjax.TrainConfig(env_id="Failing-v0", run_dir=tmp_path / "run", num_envs=1)
    with pytest.raises(pgjax.RolloutError, match="reward is nan"):
        pgjax.train(config)
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
        pgjax.train(config)
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
        pgjax.train(config)
    state = pgjax.load(tmp_path / "run").state
    assert 1 <= int(state.step) < 40
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert len(folder.read_lines(tmp_path / "run" / "metrics.jsonl")) == int(state.step)


def test_parameters_that_are_not_finite_at_the_end_are_reported(tmp_path, monkeypatch):
    """Even if the loss is finite."""
    monkeypatch.setattr(agent, "make_optimizer", lambda config: optax.sgd(np.inf))
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=1, episodes_per_update=4, run_dir=tmp_path / "r"
    )
    with pytest.raises(pgjax.DivergedError, match="update 1 is not finite"):
        pgjax.train(config)
    assert not (tmp_path / "r").exists()


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


def test_a_folder_cannot_make_pgjax_import_a_module(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    config = store.read_sealed(tmp_path / "run" / "config.json")
    config["env_id"] = "antigravity:CartPole-v1"
    store.write_sealed(tmp_path / "run" / "config.json", config)
    with pytest.raises(pgjax.ConfigError, match="--allow-env-import"):
        pgjax.load(tmp_path / "run")
    config = {**config, "env_id": "json:CartPole-v1"}  # a harmless module
    store.write_sealed(tmp_path / "run" / "config.json", config)
    allowed = folder.read_config(tmp_path / "run", allow_env_import=True)
    assert allowed.env_id == "json:CartPole-v1"
    with pytest.raises(pgjax.RunError, match="another run"):
        load(tmp_path / "run", allow_env_import=True)


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
        pgjax.train(config, [Interrupting()])
    assert int(load(tmp_path / "run").state.step) == 2
    assert len(folder.read_lines(tmp_path / "run" / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    "env_id",
    [
        "Pendulum-v1",
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
    run = pgjax.train(config)
    assert int(run.state.step) == 1
    assert evaluate.evaluate(run, 2)["mean_length"] <= 20
