"""Evaluations while a run trains."""

import dataclasses
import shutil

import pytest

import pgjax
from pgjax.evaluation.during import record_evaluation
from pgjax.runs.folder import read_lines
from pgjax.training import train as training

CONFIG = pgjax.TrainConfig(
    "CartPole-v1", updates=5, episodes_per_update=2, num_shards=2, eval_episodes=3, eval_every=2
)


class StopAfter:
    """An Observer that stops a run after some updates."""

    def __init__(self, updates):
        self._updates = updates

    def start(self, run):
        pass

    def update(self, metrics, timings):
        if metrics[0]["update"] == self._updates:
            raise KeyboardInterrupt

    def stop(self):
        pass


def trained(path, observers=(), **changes):
    config = dataclasses.replace(CONFIG, run_dir=path, **changes)
    return training.train(config, observers, evaluator=record_evaluation)


@pytest.mark.parametrize("on_device", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_lines_are_the_evaluations_of_shorter_runs_and_no_bit_changes(on_device, tmp_path):
    run = trained(tmp_path / "run", on_device=on_device)
    without = trained(tmp_path / "without", on_device=on_device, eval_every=0)
    for name in ("metrics.jsonl", "digests.jsonl"):
        assert (run.path / name).read_bytes() == (without.path / name).read_bytes()
    assert not (without.path / "evaluations.jsonl").exists()
    lines = read_lines(run.path / "evaluations.jsonl")
    metrics = read_lines(run.path / "metrics.jsonl")
    assert [line["update"] for line in lines] == [2, 4]
    assert [line["total_env_steps"] for line in lines] == [
        metrics[i]["total_env_steps"] for i in (1, 3)
    ]
    shorter = trained(tmp_path / "shorter", on_device=on_device, updates=4, eval_every=0)
    found = pgjax.evaluate(shorter, 3)
    assert {name: lines[1][name] for name in found} == found


def test_a_resumed_run_has_the_same_lines(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", [StopAfter(3)])
    path = tmp_path / "run" / "evaluations.jsonl"
    assert [line["update"] for line in read_lines(path)] == [2]
    # As if it had been killed later than its last checkpoint.
    later = '"total_env_steps": 9, "mean": 0.0, "episodes": 3'
    path.write_text(f'{path.read_text()}{{"update": 4, {later}}}\n{{"update": 6, {later}}}\n')
    training.resume(tmp_path / "run", evaluator=record_evaluation)
    assert path.read_bytes() == (whole.path / "evaluations.jsonl").read_bytes()


def test_every_seed_is_evaluated(tmp_path):
    config = dataclasses.replace(CONFIG, on_device=True, updates=2, run_dir=tmp_path / "runs")
    runs = training.train_seeds(config, 2, evaluator=record_evaluation)
    for run in runs:
        [line] = read_lines(run.path / "evaluations.jsonl")
        found = pgjax.evaluate(run, 3)
        assert {name: line[name] for name in found} == found


def test_evaluating_no_episodes_is_refused():
    with pytest.raises(pgjax.ConfigError, match="--eval-episodes"):
        dataclasses.replace(CONFIG, eval_episodes=0)


def test_the_curve_shows_the_evaluations(tmp_path):
    run = trained(tmp_path / "run")
    shown = pgjax.plot(run, tmp_path / "shown.png").read_bytes()
    (run.path / "evaluations.jsonl").unlink()
    assert pgjax.plot(run, tmp_path / "without.png").read_bytes() != shown


@pytest.mark.parametrize("text", ["not JSON", "[1]\n", '{"update": 2}\n'])
def test_damaged_evaluations_are_reported(text, run_dir, tmp_path):
    path = shutil.copytree(run_dir, tmp_path / "run")
    (path / "evaluations.jsonl").write_text(text)
    with pytest.raises(pgjax.RunError, match=r"evaluations\.jsonl cannot be read .*remove it"):
        pgjax.plot(path)
