"""The store alone: without JAX, so that it can be killed thousands of times."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_script import NAMES, UPDATES, body, contents, line, script

from pgjax.runs import store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    script(folder)
    return folder


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


def test_files_at_the_end(whole):
    assert sorted(contents(whole)) == [
        # the last three, and the best
        *(f"checkpoints/{n:08d}.ckpt" for n in (3, 4, 5, 6)), *NAMES
    ]  # fmt: skip
    for name in NAMES:
        lines = b"".join(line(name, update) for update in range(1, UPDATES + 1))
        assert (whole / name).read_bytes() == lines


def test_leftover_checkpoints_are_removed_on_resume(whole, tmp_path):
    folder = copy(whole, tmp_path / "run")
    old = folder / "checkpoints" / "00000001.ckpt"
    store.commit(tmp_path, 1, -2.0, "a run", {}, body(1))
    shutil.copy(tmp_path / old.name, old)
    script(folder)
    assert contents(folder) == contents(whole)


class Killing:
    """`os`, except that the n-th call that touches the disk ends the process, before or after."""

    CALLS = """open close fsync fstat pwrite pread ftruncate replace unlink makedirs lstat
        listdir""".split()

    def __init__(self, at, after):
        self.left, self.after, self.count = at, after, 0

    def __getattr__(self, name):
        call = getattr(os, name)
        if name not in self.CALLS:
            return call

        def counted(*args, **kwargs):
            self.count += 1
            if self.count == self.left and not self.after:
                os._exit(9)
            result = call(*args, **kwargs)
            if self.count == self.left:
                os._exit(9)
            return result

        return counted


def killed(folder, at, after):
    """Run the script in a child that is killed at its n-th call; return whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            store.os = Killing(at, after)
            script(folder)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


CHILDREN = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {here!r} + "/runs"]
import test_store as t
assert "jax" not in sys.modules
print(*getattr(t, {what!r})(Path({folder!r})))
"""


def in_a_process_without_jax(what, folder):
    """Run `what(folder)` in a new process: forking is not safe once JAX has threads."""
    here = str(Path(__file__).parents[1])
    source = CHILDREN.format(here=here, what=what, folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def kill_at_every_call(folder):
    """Return (points, points that did not recover to the same bytes)."""
    (folder / "whole").mkdir()
    script(folder / "whole")
    expected, points, bad = contents(folder / "whole"), 0, 0
    for after in (False, True):
        at = 0
        while True:
            at += 1
            here = folder / f"{at}-{after}"
            here.mkdir()
            if not killed(here, at, after):
                break
            points += 1
            again = copy(here, folder / f"{at}-{after}-again")
            script(here)
            bad += contents(here) != expected
            # Kill it again while it recovers, at a call that depends on the point.
            killed(again, 1 + at % 40, not after)
            script(again)
            bad += contents(again) != expected
    return points, bad


@pytest.mark.slow
def test_killed_at_every_call_it_recovers_to_the_same_bytes(tmp_path):
    points, bad = in_a_process_without_jax("kill_at_every_call", tmp_path)
    assert points >= 200
    assert bad == 0


def restored(folder):
    """Return the update that is restored (0 for none), and check everything before it."""
    warned = 0
    for at in store.checkpoints(folder / "checkpoints", folder):
        if isinstance(at, store.DamagedError):
            warned += 1
            continue
        assert at.body() == body(at.update)
        for name in NAMES:
            lines = b"".join(line(name, update) for update in range(1, at.update + 1))
            assert (folder / name).read_bytes()[: at.logs[name][0]] == lines
        return at.update, warned
    return 0, warned


def test_no_damage_is_restored_silently(whole, tmp_path):
    rng = np.random.default_rng(0)
    names = sorted(contents(whole))
    here = copy(whole, tmp_path / "here")
    for i in range(300):
        name = names[i % len(names)]
        data = bytearray((whole / name).read_bytes())
        if i % 5 == 4:
            data = data[: rng.integers(len(data))]
        else:
            bit = int(rng.integers(8 * len(data)))
            data[bit // 8] ^= 1 << bit % 8
        (here / name).write_bytes(data)
        update, warned = restored(here)
        newest = f"checkpoints/{UPDATES:08d}.ckpt"
        if name == newest or name in NAMES:
            assert update < UPDATES
            assert warned
        else:
            assert (update, warned) == (UPDATES, 0)
        (here / name).write_bytes((whole / name).read_bytes())
    assert restored(here) == (UPDATES, 0)


def test_links_are_not_followed(whole, tmp_path):
    here = copy(whole, tmp_path / "here")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((here / NAMES[0]).read_bytes())
    (here / NAMES[0]).unlink()
    (here / NAMES[0]).symlink_to(elsewhere)
    assert restored(here)[0] == 0
    with pytest.raises(OSError, match="symbolic|link"):
        store.append(here, store.logs_at(here, NAMES, {}), {NAMES[0]: b"x"})
    assert elsewhere.read_bytes() == (whole / NAMES[0]).read_bytes()


def test_a_link_in_place_of_the_checkpoints_is_not_written_through(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "checkpoints").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="not a folder"):
        store.commit(tmp_path / "here" / "checkpoints", 1, 0.0, "a run", {}, b"")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_log_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    mark = 1, hashlib.sha256(b"x").hexdigest()
    store.commit(tmp_path / "run" / "checkpoints", 1, 0.0, "a run", {"../secret": mark}, b"")
    [found] = store.checkpoints(tmp_path / "run" / "checkpoints", tmp_path / "run")
    assert isinstance(found, store.DamagedError)
    assert "outside the folder" in str(found)


def test_sealed_json_detects_every_change(tmp_path):
    path = tmp_path / "config.json"
    store.write_sealed(path, {"gamma": 0.99, "sizes": [16, 16]})
    assert store.read_sealed(path) == {"gamma": 0.99, "sizes": [16, 16]}
    whole = path.read_bytes()
    for i in range(8 * len(whole)):
        data = bytearray(whole)
        data[i // 8] ^= 1 << i % 8
        path.write_bytes(data)
        try:
            # Only white space between the values may change.
            assert store.read_sealed(path) == {"gamma": 0.99, "sizes": [16, 16]}
            assert whole[i // 8 : i // 8 + 1].isspace()
        except store.DamagedError:
            pass
