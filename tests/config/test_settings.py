"""TrainConfig accepts the documented types and ranges, refuses the rest, and survives JSON."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import pgjax
from pgjax.config.presets import ALGORITHMS, PRESETS
from pgjax.runs.checkpoints import settings_digest

# Lowest and highest value of each setting that is a number, written by hand.
INTEGERS = {
    "seed": (0, 4294967295),
    "updates": (1, 2147483647),
    "episodes_per_update": (1, 2147483647),
    "num_steps": (1, 1048576),
    "num_envs": (1, 16384),
    "num_shards": (1, 16384),
    "max_episode_steps": (1, 2147483647),
    "frame_stack": (1, 64),
    "chunk_size": (1, 128),
    "eval_episodes": (0, 2147483647),
    "eval_every": (0, 2147483647),
    "num_epochs": (1, 2147483647),
    "minibatch_size": (1, 2147483647),
    "cg_steps": (1, 2147483647),
}
NUMBERS = {
    "step_timeout": (0.01, 1e9),
    "learning_rate": (0.0, 1e38),
    "max_grad_norm": (1e-30, 1e38),
    "gamma": (0.0, 1.0),
    "gae_lambda": (0.0, 1.0),
    "reward_scale": (1e-30, 1e38),
    "entropy_coef": (0.0, 1e38),
    "value_coef": (0.0, 1e38),
    "checkpoint_seconds": (0.0, 1e9),
    "adam_eps": (1e-30, 1e38),
    "init_std": (1e-30, 1e38),
    "reward_clip": (1e-30, 1e38),
    "value_clip": (1e-30, 1e38),
    "target_kl": (1e-30, 1e38),
    "max_kl": (1e-30, 1e38),
    "damping": (0.0, 1e38),
}
CHOICES = {
    "algorithm": ("reinforce", "ppo", "npg"),
    "collect": ("episodes", "steps"),
    "vectorization": ("sync", "async", "envpool"),
    "activation": ("relu", "tanh"),
    "estimator": ("reward_to_go", "gae"),
    "mean_over": ("episodes", "steps"),
}
FLAGS = """on_device normalize_obs squash anneal_lr critic normalize_rewards leave_one_out
    normalize_advantages time_discount anneal_entropy
    orthogonal_init anneal_clip recompute_advantages line_search action_mask""".split()
OPTIONAL = {  # accept None
    "max_episode_steps", "max_grad_norm", "chunk_size", "run_dir", "minibatch_size", "reward_clip",
    "value_clip", "target_kl", "env",
}  # fmt: skip
NOT_IN_JSON = {"env", "run_dir"}
BOTH, PPO, NPG = ("ppo", "npg"), ("ppo",), ("npg",)
ONLY_WITH = {
    "num_epochs": BOTH, "minibatch_size": BOTH, "clip": PPO, "anneal_clip": PPO, "value_clip": PPO,
    "recompute_advantages": PPO, "target_kl": PPO, "max_kl": NPG, "damping": NPG, "cg_steps": NPG,
    "line_search": NPG,
}  # fmt: skip

# A valid value of each setting that is not its default, and what it needs to be valid.
CHANGES = {
    "env_id": "Pendulum-v1",
    "env": dict,
    "env_kwargs": {"g": 9.8, "names": ["a", None]},
    "wrappers": ("gymnasium.wrappers:FlattenObservation", "a.b:c.d"),
    "seed": 3,
    "updates": 50,
    "collect": "steps",
    "episodes_per_update": 5,
    "num_steps": 32,
    "num_envs": 3,
    "vectorization": "async",
    "step_timeout": 0.1 + 0.2,
    "num_shards": 4,
    "max_episode_steps": 70,
    "frame_stack": 2,
    "hidden_sizes": (8, 4, 2),
    "activation": "tanh",
    "learning_rate": 0.1 + 0.2,
    "max_grad_norm": 0.5,
    "gamma": 1,
    "estimator": "gae",
    "gae_lambda": 1 / 3,
    "reward_scale": 0.1,
    "entropy_coef": 1e-30,
    "value_coef": 0.7,
    "mean_over": "steps",
    "chunk_size": None,
    "checkpoint_seconds": 1e9,
    "eval_episodes": 7,
    "eval_every": 5,
    "algorithm": "ppo",
    "adam_eps": 1e-5,
    "init_std": 0.5,
    "reward_clip": 10,
    "num_epochs": 3,
    "minibatch_size": None,
    "clip": 0.1 + 0.2,
    "value_clip": 0.2,
    "target_kl": 0.01,
    "max_kl": 0.02,
    "damping": 0.3,
    "cg_steps": 7,
    "run_dir": Path("runs/elsewhere"),
    **{name: name != "normalize_advantages" for name in FLAGS},
}
NEEDS = {
    "collect": {"critic": True},
    "estimator": {"critic": True},
    **{name: {"algorithm": algorithms[0]} for name, algorithms in ONLY_WITH.items()},
}
# Settings that no update depends on. `updates` is one as long as nothing is annealed.
WITHOUT_EFFECT = {
    "updates",
    "step_timeout",
    "checkpoint_seconds",
    "eval_episodes",
    "eval_every",
    "run_dir",
}

NAMES = [field.name for field in dataclasses.fields(pgjax.TrainConfig)]


def option(name):
    return "--" + name.replace("_", "-")


def make(**settings):
    """A config whose algorithm has the settings."""
    [*algorithms] = {ONLY_WITH[name][0] for name in settings if name in ONLY_WITH}
    needed = {"algorithm": algorithms[0]} if algorithms else {}
    needed |= {"critic": True} if "value_clip" in settings else {}
    return pgjax.TrainConfig(**{"env_id": "CartPole-v1", **needed, **settings})


def changed(name):
    return make(**{name: CHANGES[name], **NEEDS.get(name, {})})


def accepted(name):
    """The words that a message uses for the values that a setting accepts."""
    return accepted_value(name) + " or None" * (name in OPTIONAL)


def shortened(value):
    """The value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def accepted_value(name):
    if name in INTEGERS:
        low, high = INTEGERS[name]
        return f"an integer from {low} to {high}"
    if name in NUMBERS:
        low, high = NUMBERS[name]
        return f"a number from {low:g} to {high:.12g}"
    if name == "clip":
        return "a number between 0 and 1, both excluded"
    if name in CHOICES:
        return " or ".join(map(repr, CHOICES[name]))
    if name == "hidden_sizes":
        return "a tuple of values, each an integer from 1 to 16384, at least one"
    others = {"env_id": "a string", "run_dir": "a path"}
    others["env"] = "a function that returns an environment or a gymnasium EnvSpec"
    others["wrappers"] = "a tuple of values, each a string of the form module:function"
    others["env_kwargs"] = 'a JSON object, such as {"name": 1}'
    return others.get(name, "True or False")


def of_wrong_type(name):
    """Values that a setting cannot have, whatever its range."""
    if name in INTEGERS:
        values = ["1", True, False, 2.0, 1 + 0j, [1], math.nan, math.inf]
    elif name in NUMBERS or name == "clip":
        values = ["0.5", True, False, 0.5 + 0j, [0.5], math.nan, math.inf, -math.inf]
    elif name in CHOICES:
        values = ["", "Episodes", "no such choice", 0, True, list(CHOICES[name]), CHOICES[name]]
    elif name in FLAGS:
        values = [0, 1, 1.0, "True", "", []]
    elif name == "hidden_sizes":
        values = [(), 8, "88", (0,), (16385,), (8, 8.0), (True,), ("8",), (None,), ((8,),)]
    elif name == "env":
        values = ["CartPole-v1", 3, True, gym.make("CartPole-v1")]
    elif name == "wrappers":
        values = ["a:b", ("a",), ("a:b", 3), ("a:b:c",), (":a",), ("a:",), ("../a:b",), ("a b:c",)]
        values += [("1:2",), (("a:b",),)]
    elif name == "env_kwargs":
        deep = json.loads("[" * 900 + "]" * 900)
        values = [3, True, [1], "", "[1]", "{g: 1}", {1: 2}, {"g": math.nan}, {"g": object()}]
        values += [{"g": {2: 1}}, {"g": deep}, '{"g": NaN}']
    elif name == "run_dir":
        values = [b"runs/run", 3, True]
    else:
        values = [3, b"CartPole-v1", ["CartPole-v1"], True]
    return values if name in OPTIONAL else [*values, None]


def assert_refused(name, value):
    with pytest.raises(pgjax.ConfigError) as caught:
        make(**{name: value})
    assert str(caught.value) == f"{option(name)} must be {accepted(name)}, got {shortened(value)}"


def test_the_tables_hold_every_setting():
    others = ["env_id", "env", "env_kwargs", "wrappers", "hidden_sizes", "run_dir", "clip"]
    tables = [*INTEGERS, *NUMBERS, *CHOICES, *FLAGS, *others]
    assert sorted(tables) == sorted(CHANGES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_types_are_refused(name):
    for value in of_wrong_type(name):
        assert_refused(name, value)


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_none_is_accepted_where_it_has_a_meaning(name):
    assert getattr(make(**{name: None}), name) is None


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_from_the_lowest_to_the_highest_are_accepted(name):
    low, high = INTEGERS[name]
    for value in (low, low + 1, high - 1, high):
        assert getattr(make(**{name: value}), name) == value
    for value in (low - 1, high + 1, -(10**30), 10**30):
        assert_refused(name, value)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_from_the_lowest_to_the_highest_are_accepted(name):
    low, high = NUMBERS[name]
    for value in (low, math.nextafter(low, math.inf), math.nextafter(high, 0), high, 1):
        assert getattr(make(**{name: value}), name) == value
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf), -1, 10**400):
        assert_refused(name, value)


def test_the_ends_of_the_range_of_clip_are_excluded():
    for value in (5e-324, 0.2, math.nextafter(1, 0)):
        assert make(clip=value).clip == value
    for value in (0, 0.0, 1, 1.0, -0.1, 1.1):
        assert_refused("clip", value)


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "npg"])
@pytest.mark.parametrize("name", sorted(ONLY_WITH))
def test_a_setting_of_one_algorithm_is_refused_with_another(name, algorithm):
    make(algorithm=algorithm, **{name: getattr(pgjax.TrainConfig("CartPole-v1"), name)})
    having = ONLY_WITH[name]
    if algorithm in having:
        make(algorithm=algorithm, **{name: CHANGES[name]})
        return
    with pytest.raises(pgjax.ConfigError) as caught:
        make(algorithm=algorithm, **{name: CHANGES[name]})
    advice = f"add --algorithm {' or '.join(having)}"
    assert str(caught.value) == f"{option(name)} is a setting of {' and '.join(having)}: {advice}"


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_accepted(name):
    for value in CHOICES[name]:
        streams = {"collect": "steps"} if value == "envpool" else {}
        config = make(critic=True, **{name: value, **streams})
        assert getattr(config, name) == value


def test_each_hidden_layer_has_1_to_16384_units():
    for sizes in ((1,), (16384,), (1, 16384, 64)):
        assert make(hidden_sizes=sizes).hidden_sizes == sizes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"estimator": "gae"}, "add --critic"),
        ({"collect": "steps"}, "add --critic"),
        ({"collect": "steps", "critic": True, "leave_one_out": True}, "whole episodes"),
        ({"collect": "steps", "critic": True, "time_discount": True}, "whole episodes"),
        (
            {"collect": "steps", "critic": True, "vectorization": "envpool", "frame_stack": 2},
            "leave out --vectorization envpool",
        ),
        ({"vectorization": "envpool"}, "add --collect steps"),
        (
            {"collect": "steps", "critic": True, "vectorization": "envpool", "on_device": True},
            "leave out --on-device",
        ),
        ({"action_mask": True, "on_device": True}, "--action-mask reads the infos"),
        ({"on_device": True, "frame_stack": 2}, "leave out --on-device"),
        ({"on_device": True, "env_kwargs": {"g": 1}}, "gymnasium.make: leave out --on-device"),
        (
            {
                "collect": "steps",
                "critic": True,
                "vectorization": "envpool",
                "env_kwargs": {"g": 1},
            },
            "gymnasium.make: leave out --vectorization envpool",
        ),
        ({"on_device": True, "env": dict}, "makes a Gymnasium environment: leave out --on-device"),
        ({"on_device": True, "wrappers": ("a:b",)}, "leave out --on-device"),
        (
            {"collect": "steps", "critic": True, "vectorization": "envpool", "wrappers": ("a:b",)},
            "leave out --vectorization envpool",
        ),
        ({"env_kwargs": {"max_episode_steps": 9}}, "use --max-episode-steps"),
        ({"leave_one_out": True, "episodes_per_update": 1}, "raise --episodes-per-update"),
        ({"value_clip": 0.2, "critic": False}, "--value-clip limits the loss of a critic"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        make(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_json_keeps_every_setting_but_the_folder(name):
    config = changed(name)
    values = json.loads(json.dumps(config.to_json()))
    assert sorted([*values, *NOT_IN_JSON]) == sorted(NAMES)
    read_back = pgjax.TrainConfig.from_json(values)
    assert read_back == dataclasses.replace(config, run_dir=None)
    assert read_back.env is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "env"])
def test_json_with_a_value_of_a_wrong_type_is_refused(name):
    values = make().to_json()
    for value in of_wrong_type(name):
        with pytest.raises(pgjax.ConfigError, match=f"{option(name)} must be"):
            pgjax.TrainConfig.from_json({**values, name: value})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_IN_JSON])
def test_json_without_a_setting_is_refused(name):
    values = make().to_json()
    del values[name]
    with pytest.raises(pgjax.ConfigError, match=name):
        pgjax.TrainConfig.from_json(values)


@pytest.mark.parametrize("name", ["normalise_obs", "__class__", "env", "option", ""])
def test_json_with_an_unknown_setting_is_refused(name):
    with pytest.raises(pgjax.ConfigError, match=f"does not know: {name}"):
        pgjax.TrainConfig.from_json({**make().to_json(), name: 1})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_EFFECT])
def test_digest_changes_with_every_setting_that_an_update_depends_on(name):
    without = make(**NEEDS.get(name, {}))
    assert settings_digest(changed(name)) != settings_digest(without)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"env": dict}, "<dict>"),
        ({"env": lambda: None}, "<lambda>"),
        ({"env": functools.partial(dict)}, "<dict>"),
        ({"env": EnvSpec("ns/My-v3", entry_point=dict)}, "<ns/My-v3>"),
        ({"env": dict, "env_id": "Mine"}, "<Mine>"),
        ({"env": dict, "env_id": "<Mine>"}, "<Mine>"),
    ],
)
def test_an_environment_given_in_python_has_no_name(given, name):
    for config in (pgjax.TrainConfig(**given), pgjax.TrainConfig.preset(**given)):
        assert config.env_id == name
        assert not config.named
        assert config.env is given["env"]
        assert dataclasses.replace(config, seed=3).env is given["env"]
        assert hash(config) == hash(dataclasses.replace(config, env=list))
        values = json.loads(json.dumps(config.to_json()))
        assert (values["env_id"], "env" in values) == (name, False)
        assert pgjax.TrainConfig.from_json(values) == config


@pytest.mark.parametrize("given", [(), ("",)])
def test_an_environment_is_needed(given):
    with pytest.raises(pgjax.ConfigError, match="its id, such as CartPole-v1, or env"):
        pgjax.TrainConfig(*given)


def test_digest_is_the_same_for_any_folder_and_after_json():
    config = make(run_dir=Path("runs/elsewhere"), learning_rate=0.1 + 0.2)
    read_back = pgjax.TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert settings_digest(config) == settings_digest(read_back)


@pytest.mark.parametrize("name", [None, "anneal_lr", "anneal_entropy", "anneal_clip"])
def test_digest_depends_on_the_number_of_updates_only_if_something_is_annealed(name):
    annealed = {} if name is None else {name: True}
    few, many = (settings_digest(make(updates=updates, **annealed)) for updates in (2, 3))
    assert (few == many) is (name is None)


def test_presets_exist_for_the_environments_of_the_readme():
    assert set(PRESETS["reinforce"]) == {
        "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "LunarLander-v3",
        "InvertedPendulum-v5", "HalfCheetah-v5",
    }  # fmt: skip
    assert pgjax.TrainConfig.preset("Pendulum-v1", seed=3).critic
    assert not pgjax.TrainConfig("Pendulum-v1").critic


@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [(algorithm, env_id) for algorithm, presets in PRESETS.items() for env_id in presets],
)
def test_arguments_override_the_preset_and_presets_the_defaults(algorithm, env_id):
    config = pgjax.TrainConfig.preset(env_id, algorithm=algorithm, seed=3, updates=7)
    general = {**ALGORITHMS[algorithm], "algorithm": algorithm}
    expected = {**general, "seed": 3, **PRESETS[algorithm][env_id], "updates": 7}
    assert config == pgjax.TrainConfig(env_id, **expected)
    other = pgjax.TrainConfig.preset("NoPreset-v0", algorithm=algorithm)
    assert other == pgjax.TrainConfig("NoPreset-v0", **general)


def test_a_path_may_be_a_string_and_a_tuple_a_list():
    config = make(run_dir="runs/run", hidden_sizes=[8, 4])
    assert config.run_dir == Path("runs/run")
    assert config.hidden_sizes == (8, 4)
    assert hash(config) == hash(make(run_dir=Path("runs/run"), hidden_sizes=(8, 4)))


@pytest.mark.parametrize("given", [[8, 4], (8, np.int64(4)), np.array([8, 4]), jnp.array([8, 4])])
def test_values_of_numpy_and_jax_become_plain(given):
    config = pgjax.TrainConfig(
        "CartPole-v1", hidden_sizes=given, updates=np.int64(3), gamma=np.float32(0.5),
        env_kwargs={"g": np.arange(2)}, critic=np.bool_(True), seed=np.array(7),
        learning_rate=jnp.float32(0.25),
    )  # fmt: skip
    plain = pgjax.TrainConfig(
        "CartPole-v1", hidden_sizes=(8, 4), updates=3, gamma=0.5, critic=True, seed=7,
        learning_rate=0.25, env_kwargs={"g": [0, 1]},
    )  # fmt: skip
    assert config == plain
    assert hash(config) == hash(plain)
    assert json.dumps(config.to_json()) == json.dumps(plain.to_json())
    assert [type(x) for x in config.hidden_sizes] == [int, int]
    assert pgjax.TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == plain


@pytest.mark.parametrize("name", ["updates", "num_envs", "seed", "chunk_size"])
@pytest.mark.parametrize("wrong", [True, np.bool_(True), np.array([3, 4]), np.float32(2.5)])
def test_what_is_no_count_is_refused(name, wrong):
    with pytest.raises(pgjax.ConfigError, match="must be an integer"):
        pgjax.TrainConfig("CartPole-v1", **{name: wrong})


@pytest.mark.parametrize("env_id", ["CartPol-v1", "CartPole", "Cartpole-v1"])
def test_a_name_near_that_of_a_preset_gives_a_warning(env_id):
    with pytest.warns(pgjax.RunWarning, match="CartPole-v1"):
        assert pgjax.TrainConfig.preset(env_id).updates == pgjax.TrainConfig("X").updates


def test_a_name_like_no_other_gives_none():
    assert pgjax.TrainConfig.preset("Taxi-v3").env_id == "Taxi-v3"
    for wrong in ("pp", None, 3, ["ppo"]):
        with pytest.raises(pgjax.ConfigError, match="--algorithm must be 'reinforce' or"):
            pgjax.TrainConfig.preset("CartPole-v1", algorithm=wrong)
    with pytest.raises(pgjax.ConfigError, match="named by its id|given by its id"):
        pgjax.TrainConfig.preset(3)
    for train in (pgjax.train, lambda config: pgjax.train_seeds(config, 2)):
        with pytest.raises(pgjax.ConfigError, match=r"TrainConfig\.preset"):
            train("CartPole-v1")


def test_help_describes_every_field():
    lines = pgjax.TrainConfig.__doc__.splitlines()
    for field in dataclasses.fields(pgjax.TrainConfig):
        [line] = [line for line in lines if line.startswith(f"  {field.name}: ")]
        assert line.endswith((".", ")"))
