import dataclasses
import io
from typing import NamedTuple

import gymnasium as gym
import pytest
from conftest import FAST
from probe_envs import Scripted
from rich.console import Console

import pgjax
from pgjax.cli import app
from pgjax.commands import progress
from pgjax.evaluation import evaluate
from pgjax.training.loop import RunInfo

SPACE = gym.spaces.Discrete(1)
CONFIG = pgjax.TrainConfig("Some-v0", updates=1, episodes_per_update=1, num_envs=1)
METRICS = [{"update": 1, "mean_return": 1.0, "total_episodes": 1}]


def started(config=CONFIG, devices=(), **kwargs):
    """A Terminal after `start`, and its output."""
    out = io.StringIO()
    terminal = progress.Terminal(Console(file=out, width=300, **kwargs))
    terminal.start(RunInfo([config], [], SPACE, SPACE, pgjax.SoftmaxPolicy(1), 500, devices))
    return terminal, out


def test_counts_of_one_are_in_the_singular():
    terminal, out = started()
    terminal.update(METRICS, {"steps_per_second": 5.0})
    text = out.getvalue()
    assert "1 update of 1 episode, 1 environment\n" in text
    assert "discrete, 1 value from 0" in text
    assert "1/1 update  1 episode  " in text
    several = dataclasses.replace(CONFIG, updates=2, episodes_per_update=3, num_envs=4)
    assert "2 updates of 3 episodes, 4 environments\n" in started(several)[1].getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_episode_shows_its_step(terminal, monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown, out = started(force_terminal=terminal)
    now += 4.0
    shown.collecting(400)  # not long yet
    assert "400" not in out.getvalue()
    now += 4.0
    shown.collecting(12_345)
    shown.stop()
    assert "an episode is at step 12,345 (--max-episode-steps" in out.getvalue()


@pytest.mark.parametrize(
    ("config", "method", "settings"),
    [
        (pgjax.TrainConfig.preset("CartPole-v1", seed=7), "REINFORCE", "reinforce for CartPole-v1"),
        (
            pgjax.TrainConfig.preset("CartPole-v1", algorithm="ppo", run_dir="there"),
            "PPO with a critic",
            "ppo for CartPole-v1",
        ),
        (
            pgjax.TrainConfig.preset(
                "CartPole-v1",
                algorithm="ppo",
                num_steps=3,
                hidden_sizes=(8, 4),
                squash=True,
                max_grad_norm=None,
                anneal_clip=False,
            ),
            "PPO with a critic",
            "ppo for CartPole-v1, except --num-steps 3, --hidden-sizes 8 4, --squash, "
            "--max-grad-norm None, --no-anneal-clip",
        ),
        (pgjax.TrainConfig.preset("Some-v0", algorithm="ppo"), "PPO with a critic", "of ppo"),
    ],
)
def test_the_header_names_the_algorithm_and_its_preset(config, method, settings):
    lines = started(config)[1].getvalue().splitlines()
    assert any(line.startswith(f"  method        {method}, ") for line in lines)
    tuned = config.env_id == "CartPole-v1"
    name = "preset of " if tuned else "defaults "
    assert f"  settings      {name}{settings}" in lines


@pytest.mark.parametrize(
    ("config", "estimator", "step_size"),
    [
        (
            pgjax.TrainConfig("Some-v0", gamma=0.9, learning_rate=1e-3, normalize_advantages=False),
            "reward_to_go(0.9)",
            "learning rate 0.001; discount 0.9",
        ),
        (
            pgjax.TrainConfig("Some-v0", leave_one_out=True, time_discount=True, anneal_lr=True),
            "time_discounted(normalized(leave_one_out(reward_to_go(0.99))), 0.99)",
            "learning rate 0.01, annealed to 0; discount 0.99",
        ),
        (
            pgjax.TrainConfig.preset("Some-v0", algorithm="ppo", gae_lambda=0.8, reward_scale=0.1),
            "normalized(gae(0.99, 0.8, reward_scale=0.1))",
            "learning rate 0.0003, annealed to 0; discount 0.99",
        ),
        (
            pgjax.TrainConfig.preset("Some-v0", algorithm="npg", max_kl=0.02),
            "normalized(gae(0.99, 0.95))",
            "KL 0.02 per update, the critic's learning rate 0.001; discount 0.99",
        ),
        (
            pgjax.TrainConfig("Some-v0", algorithm="npg"),
            "normalized(reward_to_go(0.99))",
            "KL 0.01 per update; discount 0.99",
        ),
    ],
)
def test_the_header_says_how_advantages_and_steps_are_computed(config, estimator, step_size):
    lines = started(config)[1].getvalue().splitlines()
    assert f"  estimator     {estimator}" in lines
    assert f"  step size     {step_size}" in lines


class Device(NamedTuple):
    device_kind: str


@pytest.mark.parametrize(
    ("kinds", "words"),
    [(["cpu"], "cpu"), (["cpu"] * 2, "2 x cpu"), (["A100", "H200", "A100"], "2 x A100, H200")],
)
def test_the_header_names_the_devices(kinds, words):
    lines = started(devices=tuple(map(Device, kinds)))[1].getvalue().splitlines()
    assert f"  device        {words}" in lines


def test_what_a_run_compiles_is_shown():
    shown, out = started(force_terminal=True)
    shown.compiling(1024)
    shown.stop()
    assert "compiling the update for rollouts of 1,024 steps" in out.getvalue()


def test_train_warns_of_a_missing_limit_shows_long_episodes_and_cuts_the_evaluation_off(
    tmp_path, monkeypatch, capsys
):
    class Ends(gym.Wrapper):
        """Ends after 40 steps while it is trained (and probed), then never."""

        resets = 0

        def reset(self, **kwargs):
            Ends.resets += 1
            return self.env.reset(**kwargs)

        def step(self, action):
            obs, reward, *_ = self.env.step(action)
            return obs, reward, Ends.resets <= 6 and self.unwrapped._t == 40, False, {}

    gym.register("Ends-v0", entry_point=lambda **_: Ends(Scripted(mean_length=10**9)))
    monkeypatch.setattr(evaluate, "MAX_STEPS", 50)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)
    app.main([
        "train", "Ends-v0", "--updates", "1", "--episodes-per-update", "2",
        "--num-envs", "1", "--eval-episodes", "8", "--run-dir", str(tmp_path / "run"),
    ])  # fmt: skip
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    steps = [int(line.split("at step ")[1].split()[0]) for line in lines if "at step" in line]
    assert steps == [0, 16, 32, 8, 24]  # every 16 steps, of two episodes of 40
    assert "no time limit, so an episode may never end" in printed.err
    assert any("8 of them cut off after 50 steps" in line for line in lines)
    assert '"cut": 8' in (tmp_path / "run" / "evaluation.json").read_text()


@pytest.mark.parametrize("name", ["[bold]x", "[/]", ":smile:", "[red]", "a[b]c"])
def test_names_are_no_markup(name, capsys):
    space = gym.spaces.Dict({name: SPACE})
    run = RunInfo(
        [dataclasses.replace(CONFIG, env_id=name)], [], space, space, pgjax.SoftmaxPolicy(1), 500
    )
    console = progress.make_console()
    terminal = progress.Terminal(console)
    terminal.start(run)
    console.print(f"runs/{name}")
    terminal.update(METRICS, {"steps_per_second": 5.0})
    terminal.stop()
    out = capsys.readouterr().out
    assert f"{name}, seed 0" in out
    assert f"{name}: discrete" in out
    assert f"runs/{name}" in out


def test_a_run_folder_with_brackets(tmp_path, capsys):
    path = tmp_path / "[bold]runs[/]"
    app.main(["train", "CartPole-v1", *FAST, "--run-dir", str(path)])
    assert str(path) in capsys.readouterr().out
    assert (path / "manifest.json").exists()


@pytest.mark.parametrize(("total", "shown"), [(3, "1/3 episodes evaluated"), (None, "1 episodes")])
def test_a_count_is_a_bar_in_a_terminal_and_nothing_elsewhere(total, shown):
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=100, force_terminal=terminal)
        with progress.counting(console, "episodes evaluated", total) as ended:
            ended(1)
        assert (shown in out.getvalue()) == terminal
        assert terminal or not out.getvalue()


def test_evaluating_and_drawing_report_each_episode_and_image(run_dir, tmp_path):
    counts = []
    result, _ = evaluate.evaluate_each(run_dir, 5, ended=counts.append)
    assert counts == [1] * 5
    images = []
    pgjax.render(run_dir, tmp_path / "v.gif", drawn=images.append)
    # The first episode of the evaluation: an image at the reset and one after each step, each of
    # which has the reward 1.
    assert sum(images) == 1 + result["returns"][0]
