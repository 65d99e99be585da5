"""Environments are made with the arguments of their config, wherever they are made."""

import json

import numpy as np
import pytest
from sized_env import Sized

import pgjax
from pgjax.cli import app
from pgjax.config.env import open_env
from pgjax.config.json_object import JsonObject

SMALL = dict(updates=2, episodes_per_update=2, num_envs=2, hidden_sizes=(4,), eval_episodes=2)
KWARGS = {"size": 5, "names": ["a", {"b": None}]}
STREAMS = {"collect": "steps", "critic": True, "num_steps": 4}


def options(**settings):
    """The settings as words of the command line."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        words += ["--" + name.replace("_", "-"), *map(str, values)]
    return words


def use_everywhere(path, *more):
    """Evaluate, render, verify and extend a run at the command line."""
    app.main(["evaluate", str(path), "--episodes", "2", *more])
    app.main(["render", str(path), "--out", str(path / "video.gif"), *more])
    app.main(["verify", str(path), *more])
    app.main(["resume", str(path), "--updates", "3", *more])


def test_every_environment_of_a_run_gets_the_arguments(tmp_path):
    Sized.made.clear()
    path = tmp_path / "run"
    words = options(**SMALL, env_kwargs=json.dumps(KWARGS), run_dir=path)
    app.main(["train", "Sized-v0", *words])
    assert json.loads((path / "config.json").read_text())["env_kwargs"] == KWARGS
    trained = len(Sized.made)
    use_everywhere(path)
    assert len(Sized.made) > trained > 0
    assert all(made == KWARGS for made in Sized.made)
    run = pgjax.load(path)
    assert run.config.env_kwargs == KWARGS
    assert int(run.state.step) == 3
    shape = run.state.params["params"]["Dense_0"]["kernel"].shape
    assert shape == (5, 4)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_processes_get_the_arguments_too(vectorization):
    config = pgjax.TrainConfig(
        "sized_env:Sized-v0", num_envs=2, vectorization=vectorization, env_kwargs={"size": 7}
    )
    with open_env(config) as env:
        obs, _ = env.env.reset(seed=[0, 1])
        assert obs.shape == (2, 7)


def test_an_argument_decides_what_the_environment_does(tmp_path):
    """On ice, the first step right from the start of FrozenLake leads to another place."""
    for slippery, places in ((False, {1}), (True, {0, 1, 4})):
        config = pgjax.TrainConfig(
            "FrozenLake-v1", num_envs=1, env_kwargs={"is_slippery": slippery}
        )
        with open_env(config) as env:
            seen = set()
            for seed in range(20):
                env.env.reset(seed=seed)
                seen.add(int(env.env.step(2)[0]))
        assert seen == places


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"env_kwargs": '{"colour": 1, "size": 2}'}, "unexpected keyword argument 'colour'"),
        ({"env_kwargs": '{"id": 1}'}, "argument 'id'"),
        ({"env_kwargs": '{"size": 2'}, "--env-kwargs must be a JSON object"),
        ({"env_kwargs": '{"max_episode_steps": 2}'}, "use --max-episode-steps"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(settings, words, tmp_path, capfd):
    with pytest.raises(SystemExit) as caught:
        app.main(["train", "Sized-v0", *options(**settings, run_dir=tmp_path / "run")])
    assert caught.value.code == 2
    [line] = capfd.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_json_object_is_a_value():
    given = {"b": np.float32(0.5), "a": (1, [True, None]), "c": {"d": np.arange(2)}}
    same = JsonObject('{"c": {"d": [0, 1]}, "b": 0.5, "a": [1, [true, null]]}')
    assert JsonObject(given) == same
    assert hash(JsonObject(given)) == hash(same)
    assert dict(same) == {"a": [1, [True, None]], "b": 0.5, "c": {"d": [0, 1]}}
    same["a"].append(2)  # of a copy
    assert same["a"] == [1, [True, None]]
    assert JsonObject({"a": 1}) != JsonObject({"a": True})
    assert len({JsonObject({"a": 1}), JsonObject({"a": True}), JsonObject({"a": 1})}) == 2
