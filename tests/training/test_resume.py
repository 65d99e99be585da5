"""Stopped anywhere and gone on with, a run ends with the same bytes."""

import dataclasses
import functools
import importlib.machinery
import json
import shutil
import struct
import sys
import types

import pytest
from conftest import assert_trees_equal

import pgjax
from pgjax.cli import app
from pgjax.runs import checkpoints, digests, export, folder, recorder, store
from pgjax.training.verify import verify

UPDATES = 6
SAME = ("config.json", "metrics.jsonl", "digests.jsonl")
SMALL = dict(updates=UPDATES, episodes_per_update=2, num_envs=2, hidden_sizes=(8,), eval_episodes=2)


def settings(on_device=False, **overrides):
    return pgjax.TrainConfig(
        "CartPole-v1", on_device=on_device, num_shards=1, **{**SMALL, **overrides}
    )


class StopAfter:
    """A Ctrl-C after so many updates of this process."""

    def __init__(self, count):
        self.left = count

    def start(self, configs, paths, env, policy):
        pass

    def update(self, metrics, timings):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def stopped(path, count, config=None):
    """A new run, or what is in `path`, brought on by so many updates."""
    go_on = functools.partial(pgjax.resume, path)
    if config is not None:
        go_on = functools.partial(pgjax.train, dataclasses.replace(config, run_dir=path))
    with pytest.raises(KeyboardInterrupt):
        go_on(StopAfter(count))


def assert_same_run(a, b):
    assert_trees_equal(pgjax.load(a).state, pgjax.load(b).state)
    for name in SAME:
        assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    return pgjax.train(settings(run_dir=tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize("on_device", [False, True])
def test_stopped_and_resumed_it_ends_with_the_same_bytes(on_device, whole, tmp_path):
    if on_device:
        whole = pgjax.train(settings(True, run_dir=tmp_path / "whole"))
    stopped(tmp_path / "run", 1, whole.config)
    stopped(tmp_path / "run", 3)
    [run] = pgjax.resume(tmp_path / "run")
    assert_trees_equal(run.state, whole.state)
    assert_same_run(tmp_path / "run", whole.path)
    manifest = store.read_sealed(tmp_path / "run" / "manifest.json")
    first, second = (of["update"] for of in manifest["resumed"])
    assert first == 1
    assert second in (4, 5)  # on the device a dispatch is always made whole
    assert manifest["params_sha256"] == digests.params_sha256(whole.state.params)


@pytest.mark.slow
@pytest.mark.parametrize("on_device", [False, True])
def test_split_at_each_of_20_updates(on_device, tmp_path):
    config = settings(on_device, updates=20)
    pgjax.train(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    for k in range(1, 21):
        stopped(tmp_path / str(k), k, config)
        pgjax.resume(tmp_path / str(k))
        assert_same_run(tmp_path / str(k), tmp_path / "whole")
    [again] = pgjax.resume(tmp_path / "whole")  # there is nothing left to do
    assert int(again.state.step) == 20


def test_what_came_after_the_checkpoint_is_dropped(whole, tmp_path):
    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    # Killed while it wrote the third update: some lines are there, one of them torn.
    for name in recorder.LOGS:
        line = (whole.path / name).read_bytes().splitlines(keepends=True)[2]
        with (path / name).open("ab") as file:
            file.write(line + line[:10])
    (path / "checkpoints" / ".00000003.ckpt.tmp").write_bytes(b"half of it")
    pgjax.resume(path)
    assert_same_run(path, whole.path)
    assert not list((path / "checkpoints").glob(".*"))


def test_without_a_checkpoint_it_begins_again(whole, tmp_path):
    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    shutil.rmtree(path / "checkpoints")
    pgjax.resume(path)
    assert_same_run(path, whole.path)


def test_a_damaged_checkpoint_is_told_and_the_one_before_used(whole, tmp_path):
    path = tmp_path / "run"
    stopped(path, 1, whole.config)
    stopped(path, 2)
    newest = max((path / "checkpoints").iterdir())
    data = bytearray(newest.read_bytes())
    data[-9] ^= 4
    newest.write_bytes(data)
    with pytest.warns(pgjax.RunWarning, match=r"00000003.ckpt is damaged.*going back"):
        assert int(pgjax.load(path).state.step) == 2
    with pytest.warns(pgjax.RunWarning, match="is damaged"):
        pgjax.resume(path)
    assert_same_run(path, whole.path)


def test_a_finished_run_can_be_extended(tmp_path):
    config = settings()
    pgjax.train(dataclasses.replace(config, updates=3, run_dir=tmp_path / "run"))
    pgjax.resume(tmp_path / "run", updates=UPDATES)
    pgjax.train(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(pgjax.ConfigError, match="6 are made"):
        pgjax.resume(tmp_path / "run", updates=5)
    with pytest.raises(pgjax.ConfigError, match="--updates must be"):
        pgjax.resume(tmp_path / "run", updates=0)


def test_one_whose_rate_is_annealed_cannot(tmp_path):
    config = settings(updates=2, anneal=True, run_dir=tmp_path / "run")
    pgjax.train(config)
    with pytest.raises(pgjax.ConfigError, match="to zero over 2 updates"):
        pgjax.resume(tmp_path / "run", updates=3)


def test_runs_of_earlier_versions_are_known_again():
    """Digests of settings as the version before --collect and --normalize-obs wrote them."""
    before = {
        "01e19eb49e5972169c5c9edef0a643f9ff1188e3db6732e6c6d84318dc218e97": {},
        "d6b767c1a40b1a508e7cca9eb2177b1ffaf8d0cd8c0c06444aaf8e45152bb8d6": dict(
            anneal=True, seed=3
        ),
    }
    for digest, settings_of in before.items():
        config = pgjax.TrainConfig("CartPole-v1", **settings_of)
        assert checkpoints.settings_digest(config) == digest
        changed = dataclasses.replace(config, normalize_obs=True)
        assert checkpoints.settings_digest(changed) != digest


def test_several_seeds_go_on_together(tmp_path):
    config = settings(on_device=True, checkpoint_seconds=0.0)
    pgjax.train_seeds(dataclasses.replace(config, run_dir=tmp_path / "whole"), 3)
    with pytest.raises(KeyboardInterrupt):
        pgjax.train_seeds(dataclasses.replace(config, run_dir=tmp_path / "run"), 3, StopAfter(3))
    folders = folder.seed_folders(tmp_path / "run")
    # Killed while it saved: the second seed's last checkpoint is missing, and the third has none.
    max((folders[1] / "checkpoints").iterdir()).unlink()
    again = pgjax.resume(tmp_path / "run")
    assert [run.config.seed for run in again] == [0, 1, 2]
    for a, b in zip(folders, folder.seed_folders(tmp_path / "whole"), strict=True):
        assert_same_run(a, b)
    shutil.rmtree(folders[2])
    pgjax.resume(tmp_path / "run")
    assert_same_run(folders[2], tmp_path / "whole" / "seed-2")


def test_verify(whole, tmp_path, capsys):
    assert verify(whole.path) == {"identical": True, "first": 1, "last": UPDATES}
    shutil.copytree(whole.path, tmp_path / "run")
    digests = folder.read_lines(tmp_path / "run" / "digests.jsonl")
    digests[3]["params"] = "0" * 16
    (tmp_path / "run" / "digests.jsonl").write_bytes(recorder.json_lines(digests))
    with pytest.warns(pgjax.RunWarning, match="digests.jsonl is damaged"):
        found = verify(tmp_path / "run")
    assert found["update"] == 4
    [recorded, here] = found["differs"]["params"]
    assert recorded == "0" * 16
    assert here == folder.read_lines(whole.path / "digests.jsonl")[3]["params"]
    with pytest.raises(pgjax.ConfigError, match="1:6 are recorded"):
        verify(whole.path, last=7)
    app.main(["verify", str(whole.path), "--updates", "6:6", "--json"])
    assert json.loads(capsys.readouterr().out) == {"identical": True, "first": 6, "last": 6}


def test_orbax_there_and_back(whole, tmp_path, capsys):
    app.main(["export", str(whole.path), "--out", str(tmp_path / "orbax")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "orbax")
    assert_trees_equal(export.from_orbax(tmp_path / "orbax", whole.state), whole.state)
    other = settings(hidden_sizes=(4,), updates=1, run_dir=tmp_path / "other")
    with pytest.raises(pgjax.RunError, match="does not hold such a state"):
        export.from_orbax(tmp_path / "orbax", pgjax.train(other).state)
    with pytest.raises(pgjax.RunError, match="exists"):
        export.to_orbax(whole, tmp_path / "orbax")


def test_tensorboard_holds_every_update_once_though_it_was_resumed(whole, tmp_path):
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
    rows = whole.metrics
    for name in ("mean_return", "entropy", "total_env_steps"):
        assert seen[name] == [(row["update"], pytest.approx(row[name])) for row in rows]
    assert_same_run(path, whole.path)


class StandIn(types.ModuleType):
    """In place of wandb, which is too heavy for the tests: what it is given."""

    Settings = staticmethod(dict)

    def init(self, **options):
        self.options, self.logged = options, []
        return self

    def log(self, values, step):
        self.logged.append({"update": step, **values})

    def finish(self):
        self.logged.append("finished")


def test_weights_and_biases_is_told_every_update_once_offline(whole, tmp_path, monkeypatch):
    wandb = StandIn("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    path = tmp_path / "run"
    stopped(path, 2, whole.config)
    app.main(["resume", str(path), "--wandb"])
    assert wandb.logged == [*whole.metrics, "finished"]
    assert wandb.options["mode"] == "offline"
    assert wandb.options["dir"] == str(path)
    assert_same_run(path, whole.path)


def test_a_folder_is_one_process_s_alone(whole, tmp_path):
    with (
        folder.locked_folder(tmp_path / "run", new=True),
        pytest.raises(pgjax.RunError, match="another process"),
        folder.locked_folder(tmp_path / "run", new=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # nothing was put in
    with (
        folder.locked_folder(whole.path, new=False),
        pytest.raises(pgjax.RunError, match="another process"),
    ):
        pgjax.resume(whole.path)
    assert not (whole.path / ".lock").exists()
