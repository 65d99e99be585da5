"""Seeds of the Python loop in processes of their own."""

import json
import subprocess
import sys
import time

import failing_envs
import pytest
from conftest import ROOT, rows_of

import pgjax
from pgjax.cli import app
from pgjax.runs.folder import read_lines, seeds_in
from pgjax.training import train as training

SMALL = {"updates": 3, "episodes_per_update": 2, "num_envs": 2, "eval_episodes": 2}


class Watching:
    """An Observer that keeps the update of each seed."""

    def start(self, run):
        self.seeds = [config.seed for config in run.configs]
        self.seen = []

    def update(self, metrics, timings):
        assert timings["steps_per_second"] > 0
        self.seen.append([of_seed["update"] for of_seed in metrics])

    def stop(self):
        self.stopped = True


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two seeds, and what an observer saw."""
    watching = Watching()
    path = tmp_path_factory.mktemp("runs") / "run"
    config = pgjax.TrainConfig("CartPole-v1", seed=4, run_dir=path, **SMALL)
    runs = training.train_seeds(config, 2, [watching])
    return path, runs, watching


def test_each_seed_has_the_bits_that_it_has_alone(trained, tmp_path):
    path, runs, _ = trained
    assert [run.path for run in runs] == [path / "seed-4", path / "seed-5"]
    assert list(seeds_in(path)) == [4, 5]
    alone = pgjax.TrainConfig("CartPole-v1", seed=5, run_dir=tmp_path / "alone", **SMALL)
    training.train(alone)
    for name in ("config.json", "metrics.jsonl", "digests.jsonl"):
        expected = (tmp_path / "alone" / name).read_bytes()
        assert (path / "seed-5" / name).read_bytes() == expected


def test_observers_see_every_update_of_every_seed(trained):
    _, _, watching = trained
    assert watching.seeds == [4, 5]
    assert watching.seen[-1] == [3, 3]
    assert len(watching.seen) == 6
    for before, after in zip(watching.seen, watching.seen[1:], strict=False):
        assert sum(after) == sum(before) + 1
    assert watching.stopped


def test_resume_extends_each_seed(trained, tmp_path):
    path, *_ = trained
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", path, folder], check=True)
    longer = training.resume(folder, updates=4)
    assert [len(rows_of(run)) for run in longer] == [4, 4]
    assert read_lines(folder / "seed-4" / "metrics.jsonl")[:3] == rows_of(longer[0])[:3]


def test_devices_are_refused(tmp_path):
    config = pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / "run", **SMALL)
    with pytest.raises(pgjax.ConfigError, match="--on-device"):
        training.train_seeds(config, 2, num_devices=2)
    with pytest.raises(pgjax.ConfigError, match="NoSuch-v0"):
        training.train_seeds(pgjax.TrainConfig("NoSuch-v0", run_dir=tmp_path / "run", **SMALL), 2)
    assert not (tmp_path / "run").exists()


def test_a_seed_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    settings = SMALL | {"updates": 2, "num_envs": 1}
    alone = pgjax.TrainConfig(
        "failing_envs:Unlucky-v0", seed=1, run_dir=tmp_path / "alone", **settings
    )
    training.train(alone)
    # The last reset of the training, in the second update; the probe comes before.
    monkeypatch.setenv("UNLUCKY_SEED", str(failing_envs.Unlucky.resets[-1]))
    options = "--updates 2 --episodes-per-update 2 --num-envs 1 --eval-episodes 2".split()
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as e:
        app.main(
            ["train", "failing_envs:Unlucky-v0", "--seeds", "3", *options]
            + ["--run-dir", str(folder)]
        )
    assert e.value.code == 2
    errors = capsys.readouterr().err
    assert "seed 1 failed: environment 0, episode" in errors
    assert "the other seeds go on" in errors
    assert errors.splitlines()[-1].startswith("pgjax: 1 seed of 3 diverged or failed (seed 1)")
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["unfinished"] == [1]
    assert [len(read_lines(folder / f"seed-{i}" / "metrics.jsonl")) for i in range(3)] == [2, 1, 2]
    monkeypatch.delenv("UNLUCKY_SEED")
    runs = training.resume(folder, allow_env_import=True)
    assert [int(run.state.step) for run in runs] == [2, 2, 2]
    assert rows_of(runs[1]) == read_lines(tmp_path / "alone" / "metrics.jsonl")


def test_an_interrupt_saves_every_seed(tmp_path):
    command = [sys.executable, "-m", "pgjax", "train", "CartPole-v1", "--seeds", "2"]
    command += ["--updates", "100000", "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    logs = [tmp_path / "run" / f"seed-{i}" / "metrics.jsonl" for i in range(2)]
    deadline = time.monotonic() + 240
    while not all(log.exists() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.terminate()  # not SIGINT, which is ignored where the tests run in the background
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    for log in logs:
        manifest = json.loads((log.parent / "manifest.json").read_text())
        assert manifest["updates"] == len(read_lines(log)) > 0
    assert "to continue: pgjax resume" in errors
