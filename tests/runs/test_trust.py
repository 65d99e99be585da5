"""Run folders that are damaged, hostile, full, or used by several processes."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, rows_of

import pgjax
from pgjax.collect.noise import episode_keys, reset_seeds
from pgjax.runs import checkpoints, store
from pgjax.training import train as training

SMALL = dict(updates=5, episodes_per_update=2, num_envs=2, hidden_sizes=(8,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    config = pgjax.TrainConfig("CartPole-v1", checkpoint_seconds=0.0, run_dir=path, **SMALL)
    return training.train(config)


def damages(names, sizes, rng, flips, cuts, deletions):
    """Yield (file, what to do to its bytes), taking the files in turn."""

    def flip(data):
        bit = int(rng.integers(8 * len(data)))
        return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]

    kinds = [flip] * flips + [lambda data: data[: rng.integers(len(data))]] * cuts
    kinds += [lambda data: None] * deletions
    yield from zip(itertools.cycle(names), kinds)


def restored(path):
    """Return the loaded run and whether there was a warning; None if it is rejected."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            run = pgjax.load(path)
        except pgjax.PgjaxError:
            return None
    return run, bool(warned)


@pytest.mark.parametrize(
    ("flips", "cuts", "deletions"),
    [(20, 8, 4), pytest.param(1000, 200, 50, marks=pytest.mark.slow)],
)
def test_no_damage_to_a_run_folder_is_restored_silently(whole, tmp_path, flips, cuts, deletions):
    names = sorted(str(p.relative_to(whole.path)) for p in whole.path.rglob("*") if p.is_file())
    good, rng = {name: (whole.path / name).read_bytes() for name in names}, np.random.default_rng(0)
    states = {
        at.update: checkpoints.restore(at, lambda: whole.agent.init(0))
        for at in checkpoints.valid_checkpoints(whole.path, whole.config)
    }
    assert sorted(states) == [2, 3, 4, 5] or sorted(states) == [3, 4, 5]
    here = tmp_path / "run"
    shutil.copytree(whole.path, here)
    outcomes = dict.fromkeys(("refused", "warned", "whole"), 0)
    for name, harm in damages(names, good, rng, flips, cuts, deletions):
        data = harm(good[name])
        if data is None:
            (here / name).unlink()
        else:
            (here / name).write_bytes(data)
        back = restored(here)
        if back is None:
            outcomes["refused"] += 1
        else:
            run, warned = back
            assert_trees_equal(run.state, states[int(run.state.step)])
            assert run.config.to_json() == whole.config.to_json()
            newest_gone = data is None and name.endswith("00000005.ckpt")
            assert warned or newest_gone or int(run.state.step) == 5
            if not warned:
                assert rows_of(run) == rows_of(whole)
            outcomes["warned" if warned else "whole"] += 1
        (here / name).write_bytes(good[name])
    print(outcomes)
    assert outcomes["refused"] > 0
    assert outcomes["warned"] > 0


class Full:
    """`os` on a disk that is full from the n-th write on."""

    def __init__(self, left):
        self.left = left

    def __getattr__(self, name):
        return getattr(os, name)

    def pwrite(self, *args):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(*args)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_checkpoints_stay_intact(whole, tmp_path, monkeypatch):
    for writes in itertools.count():
        path = tmp_path / str(writes)
        monkeypatch.setattr(store, "os", Full(writes))
        config = pgjax.TrainConfig("CartPole-v1", checkpoint_seconds=0.0, run_dir=path, **SMALL)
        errors = ""
        try:
            training.train(config)
            break
        except pgjax.RunError as e:
            errors = str(e)
        assert "No space left" in errors
        assert "free some space" in errors
        monkeypatch.setattr(store, "os", os)
        if (path / "config.json").exists():
            training.resume(path)
            assert_trees_equal(pgjax.load(path).state, whole.state)
            for name in ("metrics.jsonl", "digests.jsonl"):
                assert (path / name).read_bytes() == (whole.path / name).read_bytes()
    assert writes > 10


def test_no_two_runs_share_the_seed_of_an_episode():
    """10,000 pairs (seed, episode) of adjacent seeds; 32 random bits collide 1 time in 100."""
    seeds = [
        np.asarray(reset_seeds(episode_keys(jax.random.key(seed), np.arange(100, dtype=np.uint32))))
        for seed in range(100)
    ]
    assert len(np.unique(np.concatenate(seeds))) == 100 * 100


@pytest.mark.slow
def test_only_one_of_ten_processes_gets_the_folder(tmp_path):
    argv = [
        sys.executable, "-m", "pgjax", "train", "CartPole-v1", "--updates", "40", "--eval-episodes",
        "2", "--run-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
        )
        for _ in range(10)
    ]
    errors = [process.communicate()[1].strip().splitlines() for process in started]
    codes = sorted(process.returncode for process in started)
    assert codes == [0] + [2] * 9
    for process, lines in zip(started, errors, strict=True):
        if process.returncode == 2:
            assert len(lines) == 1
            assert "in use by another process" in lines[0] or "is not empty" in lines[0]
    assert len(rows_of(pgjax.load(tmp_path / "run"))) == 40


OWN = "sized_env:Sized-v0"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a run whose environment is imported, and the user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "runs" / "own"
    few = {**SMALL, "updates": 1}
    pgjax.train(pgjax.TrainConfig(OWN, run_dir=path, **few))
    return path, tmp_path / "state"


def test_ones_own_folder_needs_no_permission_and_a_copy_of_it_does(own, monkeypatch):
    path, state = own
    assert pgjax.load(path).config.env_id == OWN
    monkeypatch.chdir(path.parent)
    assert int(pgjax.resume("own", updates=2)[0].state.step) == 2
    assert pgjax.load(path.name).config.updates == 2
    (path.parent / "link").symlink_to(path)
    pgjax.load(path.parent / "link")
    copy = path.parent / "copy"
    shutil.copytree(path, copy)
    with pytest.raises(pgjax.ConfigError, match="PGJAX_ALLOW_ENV_IMPORT=1, if you trust"):
        pgjax.load(copy)
    pgjax.load(copy, allow_env_import=True)  # once does not mean for ever
    with pytest.raises(pgjax.ConfigError, match="if you trust"):
        pgjax.evaluate(copy, 1)
    monkeypatch.setenv("PGJAX_ALLOW_ENV_IMPORT", "1")
    assert pgjax.evaluate(copy, 1)["episodes"] == 1
    assert [len(list(state.rglob("*"))), len(list((state / "pgjax" / "trusted").iterdir()))] == [
        3,
        1,
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"env_id": "evil:Sized-v0"},
        {"wrappers": ["evil:f"]},
        {"env_kwargs": {"names": "evil:f"}},
    ],
)
def test_ones_own_folder_whose_names_were_changed_needs_permission(own, changed):
    path, _ = own
    change(path, **changed)
    with pytest.raises(pgjax.ConfigError, match="import .*evil:.*if you trust"):
        pgjax.load(path)


@pytest.mark.parametrize("value", ["0", "", "yes"])
def test_the_variable_allows_only_with_1(own, value, monkeypatch):
    path, state = own
    shutil.rmtree(state)
    monkeypatch.setenv("PGJAX_ALLOW_ENV_IMPORT", value)
    with pytest.raises(pgjax.ConfigError, match="if you trust"):
        pgjax.load(path)


def test_a_state_folder_that_cannot_be_written_costs_only_the_permission(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    few = {**SMALL, "updates": 1}
    pgjax.train(pgjax.TrainConfig(OWN, run_dir=tmp_path / "run", **few))
    with pytest.raises(pgjax.ConfigError, match="if you trust"):
        pgjax.load(tmp_path / "run")
    pgjax.load(tmp_path / "run", allow_env_import=True)


def test_a_run_that_imports_nothing_leaves_nothing_in_the_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    few = {**SMALL, "updates": 1}
    pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / "run", **few))
    assert not (tmp_path / "state").exists()


HOSTILE = """
import contextlib, io, os, sys, warnings
from pathlib import Path
import pgjax
from pgjax.cli import app
good, folders = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
allowed = [str(Path(name).resolve()) for name in sys.argv[2:]] + ["/dev/", "/proc/"]
watched, events = [False], []
HARMFUL = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
ASKS_GIT = ["git", "-C", os.path.dirname(pgjax.__file__)]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def hook(event, args):
    if not watched[0]:
        return
    # Asking git about pgjax's own folder reads nothing of the run folder.
    harmful = event in HARMFUL and list(args[1][:3] if args[1:] else []) != ASKS_GIT
    if event == "import" and args[0].split(".")[0] == "evil" or harmful:
        events.append((event, str(args)))
    paths = []
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)) and args[2] & WRITES:
        unnamed = args[2] & os.O_TMPFILE == os.O_TMPFILE  # a file without a name, in this folder
        paths = [os.path.join(os.fsdecode(args[0]), "x") if unnamed else args[0]]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = args[:2]
    elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"):
        there = event == "os.mkdir" and os.path.isdir(args[0])
        paths = [] if there or isinstance(args[0], int) else args[:1]
    for path in paths:
        path = os.path.join(os.path.realpath(os.path.dirname(os.fsdecode(path))), "x")
        if not any(path.startswith(start) for start in allowed):
            events.append((event, str(args)))


def use(folder):
    for argv in (
        ["evaluate", folder, "--episodes", "1"], ["plot", folder], ["verify", folder],
        ["render", folder, "--out", folder / "video.gif"], ["resume", folder],
        ["evaluate", folder, "--episodes", "1"],
    ):
        error = io.StringIO()
        try:
            more = ["--no-compile-cache"] * (argv[0] not in ("plot", "render"))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
                app.main([str(word) for word in argv] + more)
        except SystemExit as e:
            print(folder.name, argv[0], e.code, error.getvalue().strip())
        else:
            print(folder.name, argv[0], 0, error.getvalue().strip())


sys.addaudithook(hook)
use(good)  # imports and one-time set-up are not watched
for folder in folders:
    watched[0] = True
    use(folder)
    watched[0] = False
print("events", events)
assert not events
"""


def change(path, **values):
    """Change the settings as an attacker can, digest included."""
    store.write_sealed(path / "config.json", {**store.read_sealed(path / "config.json"), **values})


def link(name):
    def harm(path, outside):
        target = outside / f"{name.replace('/', '-')}"
        if (path / name).is_dir():
            (path / name).rename(target)
        else:
            shutil.copy(path / name, target) if (path / name).exists() else target.write_text("x")
            (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)

    return harm


def body(data):
    def harm(path, outside):
        newest = max((path / "checkpoints").iterdir())
        at = store.read(newest)
        for other in (path / "checkpoints").iterdir():
            other.unlink()
        store.commit(path / "checkpoints", at.update, at.score, at.settings, at.logs, data)

    return harm


def logs(path, outside):
    at = store.read(max((path / "checkpoints").iterdir()))
    (outside / "log").write_bytes(b"x")
    marks = {**at.logs, "../outside/log": (1, store.hashlib.sha256(b"x").hexdigest())}
    store.commit(path / "checkpoints", 6, at.score, at.settings, marks, at.body())


def fifo(path, outside):
    (path / "timings.jsonl").unlink()
    os.mkfifo(path / "timings.jsonl")


def deep(path, outside):
    (path / "config.json").write_text("[" * 100000)


HARMS = {
    "module": lambda path, outside: change(path, env_id="evil:CartPole-v1"),
    "wrapper": lambda path, outside: change(path, wrappers=["evil:f"]),
    "wrapped": lambda path, outside: change(path, wrappers=["gymnasium.wrappers:vector.evil"]),
    "argument": lambda path, outside: change(
        path, env_id="GymV21Environment-v0", env_kwargs={"env_id": "evil:CartPole-v1"}
    ),
    "path": lambda path, outside: change(path, env_id="../../evil-v0"),
    "wide": lambda path, outside: change(path, hidden_sizes=[10**6, 10**6]),
    "many": lambda path, outside: change(path, num_envs=10**9),
    "unknown": lambda path, outside: change(path, __class__="evil"),
    "typed": lambda path, outside: change(path, updates="import evil"),
    "seeds": lambda path, outside: store.write_sealed(
        path / "seeds.json", {"first": "../../", "count": 10**12}
    ),
    "pickle": body(b"cposix\nsystem\n(S'touch evil'\ntR."),
    "object": body(bytes.fromhex("81a6706172616d73c7100393c4016fa14f01") + b"\0" * 64),
    "huge": body(b"\xdf\xff\xff\xff\xff"),
    "nested": body(b"\x91" * 3000),
    "empty": body(b""),
    "logs": logs,
    "fifo": fifo,
    "deep": deep,
    **{
        f"link-{name.replace('/', '-')}": link(name)
        for name in (
            "checkpoints", "metrics.jsonl", "timings.jsonl", "config.json", "manifest.json",
            "evaluation.json", "learning_curve.png", "video.gif", ".lock", ".config.json.tmp",
            "checkpoints/00000005.ckpt",
        )
    },
}  # fmt: skip


@pytest.mark.slow
def test_hostile_folders_run_nothing_and_write_nothing_outside(whole, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folders = []
    for name, harm in HARMS.items():
        folder = tmp_path / name
        shutil.copytree(whole.path, folder)
        harm(folder, outside)
        folders.append(folder)
    before = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    good = shutil.copytree(whole.path, tmp_path / "good")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(good), *map(str, folders)],
        capture_output=True, text=True, env=env, check=False, cwd=tmp_path,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} == before
    assert len(HARMS) >= 20
    for line in done.stdout.splitlines():
        assert "Traceback" not in line
