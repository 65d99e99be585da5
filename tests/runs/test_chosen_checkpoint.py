"""Which checkpoint of a run is used: the last, the best, or that of an update."""

import dataclasses
import shutil

import numpy as np
import pytest

import pgjax
from pgjax.cli import app
from pgjax.evaluation.during import record_evaluation
from pgjax.runs.digests import params_digest, to_hex
from pgjax.runs.folder import read_lines, write_seeds
from pgjax.training import train as training

CONFIG = pgjax.TrainConfig(
    "CartPole-v1", updates=6, episodes_per_update=2, eval_episodes=2, checkpoint_seconds=0
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = dataclasses.replace(CONFIG, run_dir=tmp_path_factory.mktemp("runs") / "run")
    return training.train(config)


@pytest.fixture
def command(capsys):
    def run(*words):
        app.main(list(map(str, words)))
        return capsys.readouterr().out

    return run


def digests(path):
    return {line["update"]: line["params"] for line in read_lines(path / "digests.jsonl")}


def digest_of(params):
    return to_hex(np.asarray(params_digest(params)))


def best_update(run):
    """The first of the updates with the highest mean return."""
    returns = {row["update"]: row["mean_return"] for row in read_lines(run.path / "metrics.jsonl")}
    return max(returns, key=returns.get)


def test_each_kept_checkpoint_can_be_loaded(run):
    recorded = digests(run.path)
    chosen = {4: 4, "5": 5, 6: 6, "last": 6, "best": best_update(run)}
    for name, update in chosen.items():
        loaded = pgjax.load(run.path, checkpoint=name)
        assert int(loaded.state.step) == update
        assert digest_of(loaded.state.params) == recorded[update]


def test_every_way_to_look_at_a_run_takes_a_checkpoint(run, command, tmp_path):
    best = pgjax.load(run.path, checkpoint="best")
    found = pgjax.evaluate(best, 3)
    assert pgjax.evaluate(run.path, 3, checkpoint="best") == found
    assert pgjax.evaluate(run, 3, checkpoint="best") == found  # a Run holds the last one
    out = command("evaluate", run.path, "--episodes", "3", "--checkpoint", "best")
    assert f"mean {found['mean']:.1f} " in out
    video = command("render", run.path, "--checkpoint", "5", "--out", tmp_path / "v.gif")
    assert (tmp_path / "v.gif").stat().st_size
    assert "v.gif" in video
    out = pgjax.export(run, tmp_path / "state", checkpoint="4")
    state = pgjax.runs.from_orbax(out, run.state)
    assert digest_of(state.params) == digests(run.path)[4]


def test_the_best_is_that_with_the_best_evaluation(tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=tmp_path / "run", eval_every=2, updates=8)
    # Below every return of training, which must not count.
    means = {2: -5.0, 4: -1.0, 6: -3.0, 8: -4.0}
    training.train(config, evaluator=lambda run, metrics: means[metrics["update"]])
    assert int(pgjax.load(tmp_path / "run", checkpoint="best").state.step) == 4


def test_the_score_of_an_evaluation_is_its_mean(run):
    [*_, last] = read_lines(run.path / "metrics.jsonl")
    score = record_evaluation(run, last)
    [line] = read_lines(run.path / "evaluations.jsonl")
    assert score == line["mean"] == pgjax.evaluate(run, 2)["mean"]


def test_a_run_that_goes_back_makes_the_same_updates_again(run, tmp_path):
    for updates in (6, 7):
        path = tmp_path / str(updates)
        shutil.copytree(run.path, path)
        [again] = training.resume(path, checkpoint=4, updates=updates)
        assert int(again.state.step) == updates
        before = (run.path / "digests.jsonl").read_bytes()
        assert (path / "digests.jsonl").read_bytes()[: len(before)] == before


def test_the_command_goes_back_although_the_run_is_complete(run, command, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    command("resume", tmp_path / "run", "--checkpoint", "5", "--updates", "7")
    assert digests(tmp_path / "run").items() >= digests(run.path).items()
    assert pgjax.load(tmp_path / "run").config.updates == 7


@pytest.mark.parametrize("name", ["first", "-1", "1.5", True, None, ""])
def test_other_names_are_refused(run, name):
    with pytest.raises(pgjax.ConfigError, match="must be best, last or the number of an update"):
        pgjax.load(run.path, checkpoint=name)


def test_a_missing_checkpoint_is_reported_with_those_that_were_kept(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    kept = sorted({best_update(run), 4, 5, 6})
    there = f"({', '.join(map(str, kept))})"
    for work in (pgjax.load, pgjax.evaluate, pgjax.render, pgjax.export, pgjax.resume):
        with pytest.raises(pgjax.RunError, match="no intact checkpoint of update 99") as e:
            work(tmp_path / "run", checkpoint=99)
        assert there in str(e.value)
    assert digests(tmp_path / "run") == digests(run.path)


def test_an_evaluation_of_another_checkpoint_is_not_saved(run):
    with pytest.raises(pgjax.ConfigError, match="omit --checkpoint"):
        pgjax.evaluate(run.path, 2, checkpoint="best", save=True)


def test_several_seeds_go_back_one_by_one(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "seed-0")
    training.train(dataclasses.replace(CONFIG, run_dir=tmp_path / "seed-1", seed=1))
    write_seeds(tmp_path, range(2))
    with pytest.raises(pgjax.ConfigError, match="choose it for each seed"):
        pgjax.resume(tmp_path, checkpoint="best")
    found = pgjax.evaluate(tmp_path, 2, checkpoint=4)
    assert "unfinished" not in found
    at_4 = [pgjax.load(tmp_path / f"seed-{seed}", checkpoint=4) for seed in range(2)]
    alone = [pgjax.evaluate(of, 2, seed=1000 + of.config.seed)["mean"] for of in at_4]
    assert found["mean_by_seed"] == {"0": alone[0], "1": alone[1]}
