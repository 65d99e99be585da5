"""Environments are made with the arguments of their config, wherever they are made."""

import functools
import json
import re

import gymnasium as gym
import jax
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


def use_everywhere(path):
    """Evaluate, render, verify and extend a run at the command line."""
    app.main(["evaluate", str(path), "--episodes", "2"])
    app.main(["render", str(path), "--out", str(path / "video.gif")])
    app.main(["verify", str(path)])
    app.main(["resume", str(path), "--updates", "3"])


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


OWN = tuple(f"sized_env:{name}" for name in ("with_its_length", "doubled", "four_choices"))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_wrappers_apply_in_order_before_frames_are_stacked(vectorization):
    config = pgjax.TrainConfig(
        "sized_env:Sized-v0", wrappers=OWN, num_envs=2, frame_stack=2, vectorization=vectorization
    )
    with open_env(config) as env:
        obs, _ = env.env.reset(seed=[0, 1])
        assert env.action_space.n == 4
    value = obs[0, 0, 0]
    of_one = [value, value, 2, value, value, 2]  # with its length, then doubled
    np.testing.assert_array_equal(obs[0], [of_one, of_one])


def test_a_run_is_wrapped_everywhere(tmp_path):
    """The policy fits the spaces of the wrapped environment, and so does what uses it later."""
    path = tmp_path / "run"
    app.main(["train", "Sized-v0", *options(**SMALL, wrappers=OWN, run_dir=path)])
    assert json.loads((path / "config.json").read_text())["wrappers"] == list(OWN)
    use_everywhere(path)
    run = pgjax.load(path)
    kernels = [run.state.params["params"][f"Dense_{i}"]["kernel"].shape for i in (0, 1)]
    assert kernels == [(6, 4), (4, 4)]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["machine"]["sized_env version"] == "not installed"


def test_wrappers_of_streams_and_of_gymnasium(tmp_path):
    config = pgjax.TrainConfig(
        "CliffWalking-v1", wrappers=["gymnasium.wrappers:TimeAwareObservation"], updates=1,
        max_episode_steps=9, hidden_sizes=(4,), run_dir=tmp_path / "run", **STREAMS,
    )  # fmt: skip
    with pytest.warns(pgjax.RunWarning, match="restarts its episodes"):
        pgjax.train(config)
    run = pgjax.load(tmp_path / "run")  # Gymnasium's own need no trust
    assert run.config.wrappers == ("gymnasium.wrappers:TimeAwareObservation",)
    assert (49, 4) in {x.shape for x in jax.tree.leaves(run.state.params)}  # 48 places, and time


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        ("no_such_module:f", "cannot import the wrapper no_such_module:f: it raised ModuleNot"),
        ("sized_env:no_such", "cannot import the wrapper sized_env:no_such: it raised Attribute"),
        ("sized_env:nothing", "the wrapper sized_env:nothing returned None: it must take an env"),
        ("sized_env:fails", "raised KeyError: 'no such colour' (in sized_env.py, line"),
        ("sized_env:SIZE.x", "cannot import the wrapper sized_env:SIZE.x"),
        ("gymnasium.wrappers:RescaleAction", "missing 2 required positional arguments"),
        ("sized_env", "each a string of the form module:function, got ('sized_env',)"),
        ("../evil:f", "of the form module:function"),
    ],
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_wrapper_that_cannot_wrap_is_one_line(wrapper, words, vectorization, tmp_path, capfd):
    given = options(wrappers=wrapper, vectorization=vectorization, run_dir=tmp_path / "run")
    with pytest.raises(SystemExit) as caught:
        app.main(["train", "Sized-v0", *given])
    assert caught.value.code == 2
    [line] = capfd.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()


def sized_at_home(size=3):
    return Sized(size)


@pytest.mark.parametrize(
    "env",
    [sized_at_home, Sized, gym.spec("Sized-v0"), lambda **kwargs: gym.make("Sized-v0", **kwargs)],
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_is_given_in_python(env, vectorization):
    config = pgjax.TrainConfig(
        env=env, num_envs=2, env_kwargs={"size": 5}, wrappers=["sized_env:doubled"],
        max_episode_steps=2, vectorization=vectorization,
    )  # fmt: skip
    with open_env(config) as opened:
        assert opened.time_limit == 2
        obs, _ = opened.env.reset(seed=[0, 1])
        assert obs.shape == (2, 10)
        for _ in range(2):
            *_, truncated, _ = opened.env.step(np.array([0, 1]))
        assert truncated.all()


def test_a_run_whose_environment_has_no_name_takes_it_again(tmp_path, capsys):
    path, env = tmp_path / "run", functools.partial(sized_at_home, size=4)
    config = pgjax.TrainConfig(env=env, max_episode_steps=9, run_dir=path, **SMALL)
    run = pgjax.train(config)
    assert json.loads((path / "config.json").read_text())["env_id"] == "<sized_at_home>"
    assert pgjax.verify(run)["identical"]
    assert pgjax.plot(path).exists()  # no environment is needed
    result = pgjax.evaluate(run, 2)
    uses = {
        "load": lambda **given: pgjax.load(path, **given).config.env,
        "evaluate": lambda **given: pgjax.evaluate(path, 2, **given),
        "verify": lambda **given: pgjax.verify(path, **given)["identical"],
        "export": lambda **given: pgjax.export(path, **given).name,
        "frames": lambda **given: len(pgjax.video.frames(path, **given)),
        "render": lambda **given: pgjax.render(path, path / "a.gif", **given).name,
        "resume": lambda **given: int(pgjax.resume(path, updates=3, **given)[0].state.step),
    }
    words = r"the environment <sized_at_home> of .*run was given in Python .* env=\.\.\.\)"
    for use in uses.values():
        with pytest.raises(pgjax.ConfigError, match=words):
            use()
    for name, *options in (["evaluate"], ["render"], ["verify"], ["resume", "--updates", "3"]):
        with pytest.raises(SystemExit) as caught:
            app.main([name, str(path), *options])
        assert caught.value.code == 2
        assert re.search(words, capsys.readouterr().err)

    def rendered(render_mode=None):
        return Sized(4, render_mode=render_mode)

    given = {name: use(env=rendered) for name, use in uses.items()}
    assert given == {
        "load": rendered, "evaluate": result, "verify": True, "export": "orbax", "frames": 4,
        "render": "a.gif", "resume": 3,
    }  # fmt: skip
    assert int(pgjax.resume(run, updates=4)[0].state.step) == 4  # a Run knows its environment
    with pytest.raises(pgjax.ConfigError, match="let the function of env take render_mode"):
        pgjax.video.frames(run)
    always = functools.partial(Sized, 4, render_mode="rgb_array")
    assert len(pgjax.video.frames(path, env=lambda: always())) == 4


def test_an_environment_that_has_a_name_is_not_given(run_dir):
    for use in (pgjax.load, pgjax.evaluate, pgjax.resume, pgjax.verify):
        with pytest.raises(pgjax.ConfigError, match="run is CartPole-v1: leave out env"):
            use(run_dir, env=Sized)


def test_one_environment_cannot_be_several():
    env = Sized()
    with (
        pytest.raises(pgjax.ConfigError, match="<lambda> is made only once: return a new one"),
        open_env(pgjax.TrainConfig(env=lambda: env, num_envs=2)),
    ):
        pass


def test_what_a_function_returns_or_raises_is_one_line():
    for env, words in (
        (dict, "cannot make the environment '<dict>': it raised TypeError: The environment must"),
        (lambda: 1 / 0, "cannot make the environment '<lambda>': it raised ZeroDivisionError"),
    ):
        with pytest.raises(pgjax.ConfigError, match=words), open_env(pgjax.TrainConfig(env=env)):
            pass


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
