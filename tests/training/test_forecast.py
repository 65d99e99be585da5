"""What `verify` says before it begins."""

import json
import os
import shutil
import warnings

import pytest

import pgjax
from pgjax.cli import app
from pgjax.runs import recorder, store
from pgjax.training import forecast
from pgjax.training.verify import verify


@pytest.fixture
def run(run_dir, tmp_path):
    """A copy of a run of three updates that took 1, 10 and 100 s."""
    path = shutil.copytree(run_dir, tmp_path / "run")
    rows = [
        {"update": 1, "seconds": 1.0, "steps_per_second": 5.0},
        {"update": 2, "seconds_collecting": 4.0, "seconds_updating": 6.0, "steps_per_second": 5.0},
        {"update": 3, "seconds": 100.0, "steps_per_second": 5.0},
    ]
    (path / "timings.jsonl").write_bytes(recorder.json_lines(rows))
    (path / "checkpoints" / "00000002.ckpt").unlink(missing_ok=True)  # of a slow machine
    # The checkpoints know the timings that they were written with.
    logs = store.logs_at(path, recorder.LOGS, {})
    for at in [store.read(p) for p in (path / "checkpoints").iterdir()]:
        ends = {name: (path / name).read_bytes().splitlines(True) for name in logs}
        marks = {
            name: (len(data), store.hashlib.sha256(data).hexdigest())
            for name, lines in ends.items()
            for data in [b"".join(lines[: at.update])]
        }
        body = at.body()
        at.path.unlink()
        store.commit(at.path.parent, at.update, at.score, at.settings, marks, body)
    return path


def updates_of_checkpoints(run):
    return sorted(int(p.stem) for p in (run / "checkpoints").iterdir())


def test_the_expected_time_begins_at_the_last_checkpoint(run):
    assert updates_of_checkpoints(run) == [1, 3]
    assert forecast.expected_seconds(run) == 111.0
    assert forecast.expected_seconds(run, 1, 2) == 11.0
    assert forecast.expected_seconds(run, 2) == 110.0  # from the checkpoint of update 1
    assert forecast.expected_seconds(run, 3, 3) == 110.0
    assert forecast.expected_seconds(str(run), 4) == 0.0
    (run / "checkpoints" / "00000001.ckpt").unlink()
    assert forecast.expected_seconds(run, 3, 3) == 111.0


@pytest.mark.parametrize(
    "line", ["", "{", "[1]\n", "[" * 100_000, '{"update": 1, "seconds": "x"}\n', "{}\n"]
)
def test_unreadable_timings_give_no_time_and_no_error(line, run):
    (run / "timings.jsonl").write_text(line)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert forecast.expected_seconds(run) in (None, 0.0)
    assert not seen  # verify itself reports damage
    (run / "timings.jsonl").unlink()
    assert forecast.expected_seconds(run) is None
    os.mkfifo(run / "timings.jsonl")  # reading it would wait for ever
    assert forecast.expected_seconds(run) is None


def test_the_command_says_how_long_it_takes_first(run, capsys):
    app.main(["verify", str(run)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "about 2 min, which these updates took in the run"
    assert lines[-1].startswith("identical through update 3")
    app.main(["verify", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["identical"] is True


class Watch:
    def start(self, run):
        assert self.seen  # reported before the first update

    def update(self, metrics, timings):
        pass

    def stop(self):
        pass


def test_another_machine_is_reported_first(run):
    manifest = store.read_sealed(run / "manifest.json")
    machine = {**manifest["machine"], "jax version": "0.0.1", "cpu features": "abacus"}
    machine |= {"threads": 77, "devices": 99}  # these change no result
    store.write_sealed(run / "manifest.json", {**manifest, "machine": machine})
    watch = Watch()
    with warnings.catch_warnings(record=True) as watch.seen:
        warnings.simplefilter("always")
        assert verify(run, [watch])["identical"]
    [warning] = [w for w in watch.seen if w.category is pgjax.RunWarning]
    text = str(warning.message)
    assert "this machine differs from that of the run" in text
    assert "jax version: " in text
    assert "here, 0.0.1 there" in text
    assert "abacus" in text
    assert "77" not in text
    assert "99" not in text


def test_the_same_machine_gives_no_warning(run_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verify(run_dir)["identical"]
