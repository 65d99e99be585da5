"""Environments as slots: an error is reported with its slot, step and advice."""

import time

import failing_envs
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from probe_envs import Scripted

import pgjax
from pgjax.gym import stepping
from pgjax.gym.results import EnvError, StepArrays
from pgjax.gym.serial import SerialEnvs


def arrays(slots, size):
    """Empty arrays for a step."""
    flags = np.zeros((2, slots), bool)
    numbers = np.zeros((slots, size), np.float32), np.zeros(slots, np.float32)
    return StepArrays(*numbers, *flags, np.full(slots, np.nan))


class Gives(gym.Env):
    """An environment whose steps return what it is given."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, result):
        self.result = result

    def step(self, action):
        return self.result


OBS = np.arange(3, dtype=np.float32)


@pytest.mark.parametrize("obs", [OBS, OBS.astype(float), OBS.tolist(), OBS.astype(int)])
@pytest.mark.parametrize(("reward", "flags"), [
    (1.5, (False, True)), (np.float64(1.5), (np.True_, np.False_)), (np.float32(1.5), (1, 0)),
    (np.array([1.5]), (False, False)),
])  # fmt: skip
def test_a_step_is_written_whatever_the_types_of_its_numbers(obs, reward, flags):
    envs = SerialEnvs([Gives(None), Gives((obs, reward, *flags, {}))])
    into = arrays(2, 3)
    assert envs.step([0, 0], [1], into) == any(flags)
    np.testing.assert_array_equal(into.successors, [[0, 0, 0], [0, 1, 2]])
    assert into.reward.tolist() == [0.0, 1.5]
    assert (into.terminated[1], into.truncated[1]) == tuple(map(bool, flags))
    assert not into.terminated[0]


@pytest.mark.parametrize(("result", "reason", "delay"), [
    ((OBS, 1.0, "False", False, {}), "terminated is 'False' (str), not True or False", 0),
    ((OBS, 1.0, False, None, {}), "truncated is None (NoneType), not True or False", 0),
    ((OBS, "1.5", False, False, {}), "the reward is '1.5' (str), not a number", 0),
    ((OBS, 1e39, False, False, {}), "the reward is 1e+39, more than float32 can hold", 0),
    ((OBS[:2], 1.0, False, False, {}),
     "the observation has shape (2,), but the space needs shape (3,)", 1),
    ((OBS[:1], 1.0, False, False, {}),  # would be broadcast
     "the observation has shape (1,), but the space needs shape (3,)", 1),
    ((OBS, 1.0, False, {}),
     "step returned 4 values, not (observation, reward, terminated, truncated, info)", 0),
])  # fmt: skip
def test_a_malformed_step_is_named(result, reason, delay):
    envs = SerialEnvs([Gives((OBS, 1.0, False, False, {})), Gives(result)])
    with pytest.raises(EnvError) as caught:
        envs.step([0, 0], [0, 1], arrays(2, 3))
    assert (caught.value.reason, caught.value.slot) == (reason, 1)
    assert caught.value.delay == delay


def test_an_exception_is_reported_with_its_slot_and_cause():
    class Raises(Scripted):
        def reset(self, *, seed=None, options=None):
            if seed == 8:
                raise KeyError("a\nlevel")
            return super().reset(seed=seed)

    envs = SerialEnvs([Scripted(), Scripted(), Raises()])
    with pytest.raises(
        EnvError, match=r"^the environment raised KeyError: 'a\\nlevel' \(in test_st"
    ) as caught:
        envs.reset({0: 1, 2: 8, 1: 2}, np.zeros((3, 3)))
    assert caught.value.slot == 2
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_step_that_hangs_is_interrupted():
    class Hangs(Scripted):
        def step(self, action):
            while True:
                time.sleep(0.01)

    envs = SerialEnvs([Scripted(), Hangs()])
    envs.reset({0: 1, 1: 1}, np.zeros((2, 3)))
    with (
        envs.step_timeout(0.1),
        pytest.raises(EnvError, match="the environment has not returned for more than 0.1 s") as e,
    ):
        envs.step([0, 0], [0, 1], arrays(2, 3))
    assert e.value.slot == 1
    assert e.value.advice == "correct it, or raise --step-timeout"


def vector(mode):
    return VectorWrapper(SyncVectorEnv([Scripted] * 2, autoreset_mode=mode))


def test_the_adapter_of_each_kind_of_environment():
    assert type(stepping.adapt(Scripted())) is SerialEnvs
    plain = SyncVectorEnv([Scripted] * 2)
    assert type(stepping.adapt(plain)) is type(stepping.adapt_stream(plain)) is SerialEnvs
    disabled = vector(AutoresetMode.DISABLED)
    assert type(stepping.adapt(disabled)) is stepping.ManualResetVector
    assert type(stepping.adapt_stream(disabled)) is stepping.ManualResetVector
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        assert type(stepping.adapt_stream(vector(mode))) is stepping.AutoresetVector
        with pytest.raises(pgjax.SpaceError, match=r"AutoresetMode\.DISABLED"):
            stepping.adapt(vector(mode))


def test_a_vector_that_loses_steps_is_refused():
    env = gym.make_vec("phys2d/CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(pgjax.SpaceError, match="loses a step"):
        stepping.adapt_stream(env)


@pytest.mark.parametrize(("error", "advice"), [
    (gym.error.DependencyNotInstalled("pygame is not installed"), "install what is missing"),
    (ModuleNotFoundError("No module named 'cv'"), "install what is missing"),
    (ValueError("wrong"), "correct the environment"),
])  # fmt: skip
def test_a_missing_package_is_to_be_installed(error, advice):
    envs = SerialEnvs([failing_envs.Returns("reset", error)])
    with pytest.raises(EnvError) as caught:
        envs.reset({0: 1}, np.zeros((1, 3)))
    assert caught.value.advice == advice


def test_a_vector_that_does_not_say_when_it_resets_is_refused_unless_told():
    env = vector(AutoresetMode.NEXT_STEP)
    env.metadata = {}
    with pytest.raises(pgjax.SpaceError, match=r"autoreset_mode=gymnasium"):
        pgjax.Stream(env)
    assert stepping.adapt_stream(env, AutoresetMode.NEXT_STEP).mode == AutoresetMode.NEXT_STEP
    with pytest.raises(pgjax.SpaceError, match=r"AutoresetMode\.DISABLED"):
        stepping.adapt(env)


@pytest.mark.parametrize("name", ["single_action_space", "single_observation_space"])
def test_a_vector_without_the_spaces_of_one_environment_is_refused(name):
    class Bare(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
        num_envs = 2
        single_action_space = gym.spaces.Discrete(2)
        single_observation_space = gym.spaces.Box(-1.0, 1.0, (3,))

    bare = Bare()
    setattr(bare, name, None)
    for adapt in (stepping.adapt_stream, pgjax.Stream):
        with pytest.raises(pgjax.SpaceError, match=f"no {name}"):
            adapt(bare)


def test_what_is_no_gymnasium_environment_is_refused():
    functional = pgjax.envs.make("CartPole-v1")
    for adapt in (stepping.adapt, stepping.adapt_stream):
        for env, words in (
            ("CartPole-v1", r"gymnasium.make\('CartPole-v1'\)"),
            (functional, "collect_episodes_on_device.*as_gymnasium"),
            (Scripted, "a Gymnasium environment is needed"),
            (None, "a Gymnasium environment is needed"),
        ):
            with pytest.raises(pgjax.ConfigError, match=words):
                adapt(env)


class Informs(Scripted):
    """The arrays in the infos of two environments have different shapes."""

    def __init__(self, size, fails=False):
        super().__init__()
        self._info, self._fails = np.zeros(size), fails

    def reset(self, *, seed=None, options=None):
        if self._fails:
            raise ValueError("of its own")
        return super().reset(seed=seed)[0], {"array": self._info}


def test_a_vector_that_fails_itself_is_told_from_its_environments():
    for mode in (AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP):
        envs = [lambda: Informs(1), lambda: Informs(2)]
        wrapped = VectorWrapper(SyncVectorEnv(envs, autoreset_mode=mode))
        with pytest.raises(
            EnvError, match="the vector, not one of its environments, raised Val"
        ) as e:
            stepping.adapt_stream(wrapped).reset({0: 1, 1: 2}, np.zeros((2, 3)))
        assert "infos" in e.value.advice
        envs[1] = lambda: Informs(1, fails=True)
        wrapped = VectorWrapper(SyncVectorEnv(envs, autoreset_mode=mode))
        with pytest.raises(EnvError, match="the environment raised ValueError: of its own") as e:
            stepping.adapt_stream(wrapped).reset({0: 1, 1: 2}, np.zeros((2, 3)))
        assert e.value.advice == "correct the environment"
