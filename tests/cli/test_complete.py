"""What `pgjax resume` does with a run that is complete, or nearly so."""

import json
import shutil

import pytest

import pgjax
from pgjax.cli import app, train
from pgjax.commands import results
from pgjax.runs import folder, store

SMALL = (
    "train", "CartPole-v1", "--no-anneal-lr", "--updates", "2", "--episodes-per-update", "2",
    "--num-envs", "2", "--hidden-sizes", "4", "--eval-episodes", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    app.main([*SMALL, "--run-dir", str(path)])
    return path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "a run")


def files(path):
    """Bytes and time of the last change of every file."""
    found = [p for p in path.rglob("*") if p.is_file()]
    return {p.relative_to(path): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


@pytest.mark.parametrize("options", [[], ["--updates", "2"]])
def test_a_complete_run_is_left_as_it_is(options, run, capsys):
    before = files(run)
    app.main(["resume", str(run), *options])
    assert capsys.readouterr().out == (
        f"{run} is complete, with 2 updates and an evaluation; "
        f"to extend it: pgjax resume '{run}' --updates N\n"
    )
    assert files(run) == before
    [again] = pgjax.resume(run)
    assert int(again.state.step) == 2
    assert files(run) == before


def test_a_complete_run_that_is_annealed_says_that_it_cannot_be_extended(run_dir, capsys):
    before = files(run_dir)
    app.main(["resume", str(run_dir)])
    out = capsys.readouterr().out
    assert "is complete, with 3 updates" in out
    assert "a setting is annealed over its length" in out
    assert "pgjax resume" not in out
    assert files(run_dir) == before


def test_what_a_run_lacks_is_made_again(run, capsys):
    evaluation = (run / "evaluation.json").read_bytes()
    (run / "evaluation.json").unlink()
    app.main(["resume", str(run)])
    assert (run / "evaluation.json").read_bytes() == evaluation
    metrics = (run / "metrics.jsonl").read_bytes()
    newest = max((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    with pytest.warns(pgjax.RunWarning, match="is damaged"):
        pgjax.resume(run)
    assert (run / "metrics.jsonl").read_bytes() == metrics
    # As if killed before the end was recorded.
    sealed = store.read_sealed(run / "manifest.json")
    store.write_sealed(run / "manifest.json", {k: v for k, v in sealed.items() if k != "updates"})
    app.main(["resume", str(run)])
    assert store.read_sealed(run / "manifest.json")["updates"] == 2
    assert "is complete" not in capsys.readouterr().out


class Stop:
    """Acts like Ctrl-C after an update."""

    def start(self, run):
        pass

    def update(self, metrics, timings):
        raise KeyboardInterrupt

    def stop(self):
        pass


def test_an_interrupted_extension_has_no_evaluation_and_says_how_to_resume(run):
    with pytest.raises(KeyboardInterrupt) as stop:
        pgjax.resume(run, [Stop()], updates=9)
    assert str(stop.value) == (
        f"(after 3 updates; saved in {run}; to continue: pgjax resume '{run}')"
    )
    assert not (run / "evaluation.json").exists()  # it was of the shorter run


def test_an_interrupted_evaluation_says_how_to_resume(run, capsys, monkeypatch):
    def interrupted(trained, console):
        (handle,) = handles
        handle.number = 2  # as if a signal had arrived
        raise KeyboardInterrupt

    handles = []
    enter = train.Signals.__enter__
    monkeypatch.setattr(
        train.Signals, "__enter__", lambda self: handles.append(self) or enter(self)
    )
    monkeypatch.setattr(train.Signals, "end", lambda self: None)
    monkeypatch.setattr(results, "show_results", interrupted)
    (run / "evaluation.json").unlink()
    app.main(["resume", str(run)])
    assert capsys.readouterr().err == (
        f"pgjax: interrupted (while evaluating; to continue: pgjax resume '{run}')\n"
    )


def test_complete_seeds(tmp_path, capsys):
    path = tmp_path / "seeds"
    words = [*SMALL, "--on-device", "--num-shards", "1", "--seeds", "2", "--run-dir", str(path)]
    app.main(words)
    before = files(path)
    app.main(["resume", str(path)])
    assert "is complete, with 2 updates and an evaluation" in capsys.readouterr().out
    assert files(path) == before
    first, second = folder.seed_folders(path)
    # One that diverged is as complete as it will be.
    manifest = store.read_sealed(second / "manifest.json")
    store.write_sealed(second / "manifest.json", {**manifest, "updates": 1, "diverged": "why"})
    app.main(["resume", str(path)])
    assert "is complete" in capsys.readouterr().out
    store.write_sealed(second / "manifest.json", manifest)
    shutil.rmtree(first)
    app.main(["resume", str(path), "--updates", "2"])
    assert "is complete" not in capsys.readouterr().out
    assert json.loads((first / "manifest.json").read_text())["updates"] == 2
    with pytest.raises(KeyboardInterrupt):
        pgjax.resume(path, [Stop()], updates=9)
    assert not list(path.rglob("evaluation.json"))
