"""Reading a run back; every public function that takes a run takes a Run, a Path and a str."""

import json
import os
import shutil
from pathlib import Path

import flax.serialization
import gymnasium as gym
import jax
import numpy as np
import pytest

import pgjax
from pgjax.runs import folder, store
from pgjax.runs.export import from_orbax
from pgjax.runs.run import as_run, load, run_path

SMALL = dict(updates=2, episodes_per_update=2, num_envs=2, hidden_sizes=(8,), eval_episodes=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=path, **SMALL))


def plain(state):
    """The leaves of a TrainState as bytes; the key by its data."""
    state = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def export(run, out, like):
    assert pgjax.export(run, out / "orbax") == out / "orbax"
    return plain(from_orbax(out / "orbax", like))


def resume(run, out, like):
    [resumed] = pgjax.resume(run)  # it is finished: nothing is left to do
    return resumed.path, resumed.config.to_json(), plain(resumed.state)


VERBS = {
    "evaluate": lambda run, out, like: pgjax.evaluate(run, 2, seed=3),
    "compare": lambda run, out, like: pgjax.evaluate(run, 3, save=True) and pgjax.compare(run),
    "plot": lambda run, out, like: pgjax.plot(run, out / "curve.png").read_bytes(),
    "render": lambda run, out, like: pgjax.render(run, out / "video.gif").read_bytes(),
    "verify": lambda run, out, like: pgjax.verify(run),
    "export": export,
    "resume": resume,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_and_its_folder_give_the_same(verb, trained, tmp_path):
    results = []
    for i, run in enumerate((trained, trained.path, str(trained.path))):
        (tmp_path / str(i)).mkdir()
        results.append(VERBS[verb](run, tmp_path / str(i), trained.state))
    assert results[0]
    assert results[0] == results[1] == results[2]


def test_verify_and_resume_of_a_run_keep_its_result(trained):
    assert pgjax.verify(trained) == {
        "identical": True, "first": 1, "last": 2, "evaluated": 3, "evaluation": {},
    }  # fmt: skip
    [resumed] = pgjax.resume(trained)
    assert plain(resumed.state) == plain(trained.state)


@pytest.mark.parametrize("as_type", [Path, str, lambda path: pgjax.load(path)])
def test_files_are_written_to_the_run_folder_unless_another_place_is_named(as_type, trained):
    run = as_type(trained.path)
    assert pgjax.plot(run) == trained.path / "learning_curve.png"
    (trained.path / "learning_curve.png").unlink()


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_without_a_run_is_refused(verb, trained, tmp_path):
    for nowhere in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(pgjax.RunError, match="nowhere is not a run folder"):
            VERBS[verb](nowhere, tmp_path, trained.state)
    assert list(tmp_path.iterdir()) == []


def test_as_run_reads_only_folders(trained):
    assert as_run(trained) is trained
    assert plain(as_run(str(trained.path)).state) == plain(trained.state)
    assert run_path(trained) == run_path(str(trained.path)) == trained.path


@pytest.mark.parametrize("name", ["npz", "", "Orbax", None])
def test_export_refuses_other_formats(name, trained):
    before = sorted(trained.path.iterdir())
    with pytest.raises(pgjax.ConfigError, match='format must be "orbax" or "csv"'):
        pgjax.export(trained, format=name)
    assert sorted(trained.path.iterdir()) == before


def test_load_restores_a_run(run_dir):
    run = load(run_dir)
    assert json.loads(json.dumps(run.config.to_json())) == store.read_sealed(
        run_dir / "config.json"
    )
    assert int(run.state.step) == 3
    # training continues as it would have
    env = gym.make("CartPole-v1")
    rollout = pgjax.collect_episodes(env, run.agent.algorithm, run.state, 4)
    state, _ = run.agent.algorithm.update(run.state, rollout)
    assert int(state.step) == 4


def test_a_folder_cannot_make_pgjax_import_a_module(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    config = store.read_sealed(tmp_path / "run" / "config.json")
    config["env_id"] = "antigravity:CartPole-v1"
    store.write_sealed(tmp_path / "run" / "config.json", config)
    with pytest.raises(pgjax.ConfigError, match="--allow-env-import"):
        pgjax.load(tmp_path / "run")
    config = {**config, "env_id": "json:CartPole-v1"}  # a harmless module
    store.write_sealed(tmp_path / "run" / "config.json", config)
    allowed = folder.read_config(tmp_path / "run", allow_env_import=True)
    assert allowed.env_id == "json:CartPole-v1"
    with pytest.raises(pgjax.RunError, match="another run"):
        load(tmp_path / "run", allow_env_import=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"wrappers": ["gymnasium.wrappers:ClipReward"]}, ""),
        ({"wrappers": ["gymnasium.wrappers:ClipReward", "antigravity:f"]}, "antigravity:f"),
        ({"wrappers": ["gymnasium.wrappers:vector.gym"]}, "gymnasium.wrappers:vector.gym"),
        ({"wrappers": ["gymnasium.wrappers:importlib"]}, "gymnasium.wrappers:importlib"),
        ({"wrappers": ["gymnasium.utils.play:play"]}, "gymnasium.utils.play:play"),
        ({"env_kwargs": {"map_name": "8x8", "a": [1, None, "rgb_array"]}}, ""),
        ({"env_kwargs": {"env_id": "antigravity:X"}}, "antigravity:X"),
        ({"env_kwargs": {"a": [{"b": "evil.xml"}]}}, "evil.xml"),
        ({"env_kwargs": {"a": [{"/evil": 1}]}}, "/evil"),
    ],
)
def test_settings_that_may_import_code_need_trust(run_dir, tmp_path, settings, named):
    shutil.copytree(run_dir, tmp_path / "run")
    config = store.read_sealed(tmp_path / "run" / "config.json")
    store.write_sealed(tmp_path / "run" / "config.json", {**config, **settings})
    if named:
        with pytest.raises(pgjax.ConfigError, match=f"import '{named}': .*--allow-env-import"):
            folder.read_config(tmp_path / "run", allow_env_import=False)
    folder.read_config(tmp_path / "run", allow_env_import=bool(named))


class Moves(gym.Wrapper):
    """Changes the current folder."""

    def reset(self, **options):
        os.chdir("/")
        return self.env.reset(**options)


gym.register("Moves-v0", entry_point=lambda **_: Moves(gym.make("CartPole-v1")))


@pytest.mark.parametrize("given", ["runs/a", "~/runs/a", None])
def test_paths_are_made_absolute_before_an_environment_can_move(given, tmp_path, monkeypatch):
    home = tmp_path / "home"
    for there in (home, tmp_path / "here"):
        there.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    run = pgjax.train(pgjax.TrainConfig("Moves-v0", run_dir=given, **SMALL))
    start = home if given and given.startswith("~") else tmp_path / "here"
    assert run.path.is_relative_to(start / "runs")
    assert (run.path / "manifest.json").exists()
    assert Path.cwd() == Path("/")
    monkeypatch.chdir(start)
    relative = run.path.relative_to(start)
    assert pgjax.evaluate(str(relative), 2)["episodes"] == 2
    monkeypatch.chdir(start)
    assert pgjax.plot(relative, "curve.png") == start / "curve.png"
    assert not [p for p in tmp_path.rglob("~")]


def test_two_runs_in_the_same_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "strftime", lambda *_: "now")
    paths = [pgjax.train(pgjax.TrainConfig("CartPole-v1", **SMALL)).path for _ in range(2)]
    assert len({path.name for path in paths}) == 2


def test_a_state_of_ones_own_loop_is_saved_with_flax_and_with_orbax(trained, tmp_path):
    state, like = trained.state, trained.agent.init(5)
    out = pgjax.runs.to_orbax(state, str(tmp_path / "orbax"))
    data = flax.serialization.to_bytes(pgjax.runs.with_key_data(state))
    raw = flax.serialization.from_bytes(pgjax.runs.with_key_data(like), data)
    for again in (from_orbax(str(out), like), pgjax.runs.with_typed_key(raw)):
        assert plain(again) == plain(state)
        assert jax.numpy.issubdtype(again.key.dtype, jax.dtypes.prng_key)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(again))
