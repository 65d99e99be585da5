"""A run that is interrupted anywhere and resumed ends with the same bytes."""

import dataclasses
import functools
import importlib.machinery
import json
import shutil
import struct
import sys
import types
import warnings

import pytest
from conftest import assert_trees_equal, rows_of

import pgjax
from pgjax.cli import app
from pgjax.runs import digests, export, folder, recorder, store
from pgjax.training import train as training
from pgjax.training.verify import verify

UPDATES = 6
SAME = ("config.json", "metrics.jsonl", "digests.jsonl")
SMALL = dict(updates=UPDATES, episodes_per_update=2, num_envs=2, hidden_sizes=(8,), eval_episodes=2)


def settings(on_device=False, **overrides):
    return pgjax.TrainConfig(
        "CartPole-v1", on_device=on_device, num_shards=1, **{**SMALL, **overrides}
    )


class StopAfter:
    """An observer that acts like Ctrl-C after a number of updates of this process."""

    def __init__(self, count):
        self.left = count

    def start(self, run):
        pass

    def stop(self):
        pass

    def update(self, metrics, timings):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def stopped(path, count, config=None):
    """Advance a new run, or the one in `path`, by `count` updates, then interrupt it."""
    advance = functools.partial(pgjax.resume, path)
    if config is not None:
        advance = functools.partial(pgjax.train, dataclasses.replace(config, run_dir=path))
    with pytest.raises(KeyboardInterrupt):
        advance([StopAfter(count)])


def assert_same_run(a, b):
    assert_trees_equal(pgjax.load(a).state, pgjax.load(b).state)
    for name in SAME:
        assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without an interruption."""
    return training.train(settings(run_dir=tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize("on_device", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_the_same_bytes(on_device, whole, tmp_path):
    if on_device:
        whole = training.train(settings(True, run_dir=tmp_path / "whole"))
    stopped(tmp_path / "run", 1, whole.config)
    stopped(tmp_path / "run", 3)
    [run] = training.resume(tmp_path / "run")
    assert_trees_equal(run.state, whole.state)
    assert_same_run(tmp_path / "run", whole.path)
    manifest = store.read_sealed(tmp_path / "run" / "manifest.json")
    first, second = (of["update"] for of in manifest["resumed"])
    assert first == 1
    assert second in (4, 5)  # on the device a dispatch is always finished
    assert manifest["params_sha256"] == digests.params_sha256(whole.state.params)


@pytest.mark.slow
@pytest.mark.parametrize("on_device", [False, True])
def test_split_at_each_of_20_updates(on_device, tmp_path):
    config = settings(on_device, updates=20)
    training.train(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    for k in range(1, 21):
        stopped(tmp_path / str(k), k, config)
        training.resume(tmp_path / str(k))
        assert_same_run(tmp_path / str(k), tmp_path / "whole")
    [again] = training.resume(tmp_path / "whole")  # nothing left to train
    assert int(again.state.step) == 20


def test_lines_after_the_checkpoint_are_dropped(whole, tmp_path):
    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    # As if killed while writing the third update: some lines are there, one of them incomplete.
    for name in recorder.LOGS:
        line = (whole.path / name).read_bytes().splitlines(keepends=True)[2]
        with (path / name).open("ab") as file:
            file.write(line + line[:10])
    (path / "checkpoints" / ".00000003.ckpt.tmp").write_bytes(b"half of it")
    training.resume(path)
    assert_same_run(path, whole.path)
    assert not list((path / "checkpoints").glob(".*"))


def test_without_a_checkpoint_a_run_starts_again(whole, tmp_path):
    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    shutil.rmtree(path / "checkpoints")
    training.resume(path)
    assert_same_run(path, whole.path)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(whole, tmp_path):
    path = tmp_path / "run"
    stopped(path, 1, whole.config)
    stopped(path, 2)
    newest = max((path / "checkpoints").iterdir())
    data = bytearray(newest.read_bytes())
    data[-9] ^= 4
    newest.write_bytes(data)
    with pytest.warns(pgjax.RunWarning, match=r"00000003.ckpt is damaged.*an earlier checkpoint"):
        assert int(pgjax.load(path).state.step) == 2
    with pytest.warns(pgjax.RunWarning, match="is damaged"):
        training.resume(path)
    assert_same_run(path, whole.path)


def test_a_finished_run_can_be_extended(tmp_path):
    config = settings()
    training.train(dataclasses.replace(config, updates=3, run_dir=tmp_path / "run"))
    training.resume(tmp_path / "run", updates=UPDATES)
    training.train(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(pgjax.ConfigError, match="already has 6: choose more"):
        training.resume(tmp_path / "run", updates=5)
    with pytest.raises(pgjax.ConfigError, match="--updates must be"):
        training.resume(tmp_path / "run", updates=0)


def test_a_run_with_an_annealed_learning_rate_cannot_be_extended(tmp_path):
    config = settings(updates=2, anneal_lr=True, run_dir=tmp_path / "run")
    training.train(config)
    with pytest.raises(pgjax.ConfigError, match="over 2 updates"):
        training.resume(tmp_path / "run", updates=3)


def test_several_seeds_resume_together(tmp_path):
    config = settings(on_device=True, checkpoint_seconds=0.0)
    training.train_seeds(dataclasses.replace(config, run_dir=tmp_path / "whole"), 3)
    with pytest.raises(KeyboardInterrupt):
        training.train_seeds(
            dataclasses.replace(config, run_dir=tmp_path / "run"), 3, [StopAfter(3)]
        )
    folders = folder.seed_folders(tmp_path / "run")
    # As if killed while saving: the second seed lacks its last checkpoint, the third has none.
    max((folders[1] / "checkpoints").iterdir()).unlink()
    again = training.resume(tmp_path / "run")
    assert [run.config.seed for run in again] == [0, 1, 2]
    for a, b in zip(folders, folder.seed_folders(tmp_path / "whole"), strict=True):
        assert_same_run(a, b)
    shutil.rmtree(folders[2])
    training.resume(tmp_path / "run")
    assert_same_run(folders[2], tmp_path / "whole" / "seed-2")


def test_verify(whole, tmp_path, capsys):
    assert verify(whole.path) == {"identical": True, "first": 1, "last": UPDATES}
    shutil.copytree(whole.path, tmp_path / "run")
    digests = folder.read_lines(tmp_path / "run" / "digests.jsonl")
    digests[3]["params"] = "0" * 16
    (tmp_path / "run" / "digests.jsonl").write_bytes(recorder.json_lines(digests))
    with pytest.warns(pgjax.RunWarning, match="digests.jsonl was changed"):
        found = verify(tmp_path / "run")
    assert found["update"] == 4
    [recorded, here] = found["differs"]["params"]
    assert recorded == "0" * 16
    assert here == folder.read_lines(whole.path / "digests.jsonl")[3]["params"]
    with pytest.raises(pgjax.ConfigError, match="1:6 are recorded"):
        verify(whole.path, last=7)
    app.main(["verify", str(whole.path), "--updates", "6:6", "--json"])
    assert json.loads(capsys.readouterr().out) == {"identical": True, "first": 6, "last": 6}


def test_orbax_round_trip(whole, tmp_path, capsys):
    app.main(["export", str(whole.path), "--out", str(tmp_path / "orbax")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "orbax")
    assert_trees_equal(export.from_orbax(tmp_path / "orbax", whole.state), whole.state)
    other = settings(hidden_sizes=(4,), updates=1, run_dir=tmp_path / "other")
    with pytest.raises(pgjax.RunError, match="does not hold a matching TrainState"):
        export.from_orbax(tmp_path / "orbax", training.train(other).state)
    with pytest.raises(pgjax.RunError, match="exists"):
        export.to_orbax(whole, tmp_path / "orbax")


def test_tensorboard_holds_every_update_once_after_a_resumption(whole, tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    app.main(["resume", str(path), "--tensorboard"])
    [events] = (path / "tensorboard").iterdir()
    data, seen = events.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length :][:4])[0] == masked_crc32c(record)
        event = Event.FromString(record)
        for value in event.summary.value:
            seen.setdefault(value.tag, []).append((event.step, value.simple_value))
        data = data[16 + length :]
    rows = rows_of(whole)
    for name in ("mean_return", "entropy", "total_env_steps"):
        assert seen[name] == [(row["update"], pytest.approx(row[name])) for row in rows]
    assert_same_run(path, whole.path)


class StandIn(types.ModuleType):
    """Stands in for wandb, which is too heavy for the tests, and keeps what it receives."""

    Settings = staticmethod(dict)

    def init(self, **options):
        self.options, self.logged = options, []
        return self

    def log(self, values, step):
        self.logged.append({"update": step, **values})

    def finish(self):
        self.logged.append("finished")


@pytest.mark.slow
def test_weights_and_biases_logs_every_update_once_offline(whole, tmp_path, monkeypatch):
    wandb = StandIn("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    app.main(["resume", str(path), "--wandb"])
    assert wandb.logged == [*rows_of(whole), "finished"]
    assert wandb.options["mode"] == "offline"
    assert wandb.options["dir"] == str(path)
    assert_same_run(path, whole.path)


def test_only_one_process_may_use_a_run_folder(whole, tmp_path):
    with (
        folder.locked_folder(tmp_path / "run", new=True),
        pytest.raises(pgjax.RunError, match="another process"),
        folder.locked_folder(tmp_path / "run", new=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was written
    with (
        folder.locked_folder(whole.path, new=False),
        pytest.raises(pgjax.RunError, match="another process"),
    ):
        training.resume(whole.path)
    assert not (whole.path / ".lock").exists()


@pytest.mark.parametrize("log", ["metrics.jsonl", "digests.jsonl", "timings.jsonl"])
def test_a_log_that_was_changed_early_costs_no_checkpoint(log, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run" / log
    whole = path.read_bytes()
    path.write_bytes(whole[:12] + b"7" + whole[13:])
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    for again in (pgjax.resume, pgjax.load):
        with (
            warnings.catch_warnings(action="ignore"),  # each checkpoint that is not used
            pytest.raises(pgjax.RunError, match=f"{log} was changed .* nothing was deleted"),
        ):
            again(tmp_path / "run")
        assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    path.write_bytes(whole)
    [resumed] = training.resume(tmp_path / "run")
    assert int(resumed.state.step) == 3
