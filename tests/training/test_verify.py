"""What `verify` finds in a folder that was changed, and in a run that differs."""

import json
import shutil
import warnings

import failing_envs  # noqa: F401  (registers)
import flax.serialization
import gymnasium as gym
import jax
import pytest
from probe_envs import Scripted

import pgjax
from pgjax.cli import app
from pgjax.commands.verify import verdict
from pgjax.runs import checkpoints, folder, recorder, store
from pgjax.training import train as training
from pgjax.training.verify import verify

UPDATES = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=UPDATES, episodes_per_update=2, num_envs=2, hidden_sizes=(4,),
        run_dir=path,
    )  # fmt: skip
    return training.train(config)


def changed_copy(whole, path):
    shutil.copytree(whole.path, path)
    return path


def edit_lines(path, name, edit):
    rows = folder.read_lines(path / name)
    (path / name).write_bytes(recorder.json_lines(edit(rows)))


def test_verify_compares_metrics_and_digests_each_with_its_own_record(whole, tmp_path):
    path = changed_copy(whole, tmp_path / "run")
    true = folder.read_lines(path / "metrics.jsonl")[2]["entropy"]

    def cover(rows):
        rows[2]["entropy"] = true
        return rows

    def change(rows):
        rows[2]["entropy"] = 0.5
        return rows

    edit_lines(path, "metrics.jsonl", change)
    edit_lines(path, "digests.jsonl", cover)
    with pytest.warns(pgjax.RunWarning, match="was changed|is truncated"):
        found = verify(path)
    assert (found["identical"], found["update"]) == (False, 3)
    assert found["differs"]["entropy"] == [0.5, true]
    assert set(found["differs"]) == {"entropy", "digests.jsonl"}
    assert "new ones give the same" in found["reason"]


@pytest.mark.parametrize(("log", "more"), [("metrics.jsonl", True), ("digests.jsonl", False)])
def test_verify_counts_the_records(log, more, whole, tmp_path):
    path = changed_copy(whole, tmp_path / "run")

    def edit(rows):
        return [*rows, {**rows[-1], "update": len(rows) + 1}] if more else rows[:-1]

    edit_lines(path, log, edit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pgjax.RunWarning)  # the checkpoint's log was changed
        found = verify(path)
    assert not found["identical"]
    assert f"{log} has {UPDATES + 1 if more else UPDATES - 1} records" in found["folder"][0]


def test_verify_reads_the_last_checkpoint(whole, tmp_path):
    """A whole checkpoint, with other parameters than those that manifest and digests name."""
    path = changed_copy(whole, tmp_path / "run")
    newest = next(store.checkpoints(path / "checkpoints", path))
    other = jax.tree.map(lambda x: x + 1, whole.state.params)
    state = checkpoints.with_key_data(whole.state._replace(params=other))
    store.commit(
        path / "checkpoints", newest.update, newest.score, newest.settings, newest.logs,
        flax.serialization.to_bytes(jax.device_get(state)),
    )  # fmt: skip
    found = verify(path)
    assert not found["identical"]
    assert len(found["folder"]) == 2
    assert "update" not in found  # trained again, the records are the same
    assert "parameters of the last checkpoint" in verdict(found)


def test_verify_repeats_the_reason_of_the_manifest(tmp_path):
    config = pgjax.TrainConfig(
        "failing_envs:Drifts-v0", updates=2, episodes_per_update=2, num_envs=1, hidden_sizes=(4,),
        run_dir=tmp_path / "run",
    )  # fmt: skip
    with pytest.warns(pgjax.RunWarning, match="not bit-exact"):
        training.train(config)
    edit_lines(tmp_path / "run", "metrics.jsonl", lambda rows: [{**x, "entropy": 0} for x in rows])
    with pytest.warns(pgjax.RunWarning, match="was changed|is truncated"):
        found = verify(tmp_path / "run", allow_env_import=True)
    assert "different episodes for the same reset seed" in found["reason"]


def test_verify_tells_an_environment_that_differs(tmp_path):
    class Ages(Scripted):
        """Observations depend on how many environments were made, after the probe has looked."""

        made = 0

        def __init__(self):
            super().__init__()
            Ages.made += 1

        def _obs(self):
            return super()._obs() + (Ages.made > 2) * Ages.made

    gym.register("Ages-v0", entry_point=Ages, max_episode_steps=100)
    config = pgjax.TrainConfig(
        "Ages-v0", updates=1, episodes_per_update=2, num_envs=1, hidden_sizes=(4,),
        run_dir=tmp_path / "run",
    )  # fmt: skip
    found = verify(training.train(config))
    assert not found["identical"]
    assert "the environment differs" in found["reason"]


def test_the_command_repeats_the_evaluation(run_dir, tmp_path, capsys):
    shutil.copytree(run_dir, tmp_path / "run")
    app.main(["verify", str(tmp_path / "run")])
    assert "evaluation of 5 episodes" in capsys.readouterr().out
    path = tmp_path / "run" / "evaluation.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "mean": 500.0}))
    with pytest.raises(SystemExit) as caught:
        app.main(["verify", str(tmp_path / "run")])
    assert caught.value.code == 1
    assert f"mean: 500.0, {result['mean']}" in capsys.readouterr().out


def test_the_command_repeats_the_returns_of_an_evaluation_if_they_were_written(
    run_dir, tmp_path, capsys
):
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run" / "evaluation.json"
    result = json.loads(path.read_text())
    returns = result.pop("returns")
    path.write_text(json.dumps(result))  # as older versions did
    app.main(["verify", str(tmp_path / "run")])
    path.write_text(json.dumps({**result, "returns": [*returns[:3], 7.5]}))
    with pytest.raises(SystemExit):
        app.main(["verify", str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"  return of episode 3: 7.5, {returns[3]}"
    path.write_text("[]")
    with pytest.raises(SystemExit) as caught:
        app.main(["verify", str(tmp_path / "run")])
    assert caught.value.code == 2


def test_a_sample_starts_at_each_checkpoint(tmp_path):
    config = pgjax.TrainConfig(
        "CartPole-v1", updates=9, episodes_per_update=2, hidden_sizes=(4,), run_dir=tmp_path / "r",
        checkpoint_seconds=0,
    )  # fmt: skip
    run = training.train(config)
    best = pgjax.load(run.path, checkpoint="best").state.step.item()
    starts = sorted({0, best, 7, 8})
    ends = [*starts[1:], 9]
    expected = [
        (start + 1, min(start + 2, end))
        for start, end in zip(starts, ends, strict=True)
        if start < end
    ]
    found = pgjax.verify(run.path, sample=2)
    assert found["identical"]
    assert [(of["first"], of["last"]) for of in found["samples"]] == expected
    assert verdict(found).startswith("identical in the updates 1 to ")
    change = {"mean_return": 1.5}
    edit_lines(run.path, "metrics.jsonl", lambda rows: [*rows[:8], {**rows[8], **change}])
    with pytest.warns(pgjax.RunWarning, match="using an earlier checkpoint"):
        found = pgjax.verify(run.path, sample=9)
    # The checkpoint of update 9 no longer fits its log; that of update 8 does.
    assert [of["identical"] for of in found["samples"]][-1] is False
    assert "update 9 is the first that differs" in verdict(found)


@pytest.mark.parametrize(("options", "message"), [
    ({"sample": 0}, "--sample must be"),
    ({"sample": 1, "updates": "1:2"}, "exclude each other"),
])  # fmt: skip
def test_a_sample_must_be_a_number_and_alone(options, message, whole):
    with pytest.raises(pgjax.ConfigError, match=message):
        pgjax.verify(whole.path, **options)


def test_a_sample_of_what_is_no_run(tmp_path):
    with pytest.raises(pgjax.RunError):
        pgjax.verify(tmp_path, sample=1)
