"""Environments as slots: an error is reported with its slot, step and advice."""

import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from probe_envs import Scripted

import pgjax
from pgjax.gym import stepping
from pgjax.gym.stepping import EnvError, SerialEnvs, write_obs, write_step

OBS = np.zeros(3, np.float32)


def encode(obs):
    if obs is None:
        raise ValueError("the observation is None")
    return obs


@pytest.mark.parametrize(
    ("error", "num_steps", "message"),
    [
        (EnvError("it hung", 2), 0, "reset: it hung: correct the environment"),
        (EnvError("it hung", 2), 1, "step 0: it hung: correct the environment"),
        (EnvError("the observation is None", 2, 1), 0, "step 0: the observation is None: correct"),
        (EnvError("the action is nan", 2, 1, "do so"), 7, "step 7: the action is nan: do so"),
    ],
)
def test_an_error_is_described_with_its_step(error, num_steps, message):
    assert error.after(num_steps).startswith(message)
    assert error.env == "environment 2"
    assert EnvError("it hung").env == "one of the environments"


def test_results_are_written_to_the_slot_of_their_environment():
    successors, rewards = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    assert write_step((OBS + 4, 2, True, 0, {}), 1, successors, rewards, encode) == (True, False)
    np.testing.assert_array_equal(successors, [[0, 0, 0], [4, 4, 4]])
    np.testing.assert_array_equal(rewards, [0, 2])
    write_obs(successors, 0, encode, OBS + 5)
    np.testing.assert_array_equal(successors, [[5, 5, 5], [4, 4, 4]])


@pytest.mark.parametrize(
    ("result", "delay", "reason"),
    [
        ((OBS, 1.0, True, {}), 0, "step returned 4 values, not (observation, reward,"),
        (7, 0, "step returned 7, not"),
        ((None, 1.0, True, False, {}), 1, "the observation is None"),
        ((np.zeros(4), 1.0, True, False, {}), 1, "could not broadcast"),
        ((OBS, None, True, False, {}), 0, "the reward is None, not a number"),
        ((OBS, OBS, True, False, {}), 0, "the reward is array("),
        ((OBS, 1.0, OBS == 0, False, {}), 0, "(terminated, truncated) is (array("),
    ],
)
def test_a_malformed_result_is_refused_with_its_slot(result, delay, reason):
    successors, rewards = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    with pytest.raises(EnvError) as caught:
        write_step(result, 1, successors, rewards, encode)
    assert caught.value.reason.startswith(reason)
    assert (caught.value.slot, caught.value.delay) == (1, delay)


def test_an_exception_is_reported_with_its_slot_and_cause():
    class Raises(Scripted):
        def reset(self, *, seed=None, options=None):
            if seed == 8:
                raise KeyError("a\nlevel")
            return super().reset(seed=seed)

    envs = SerialEnvs([Scripted(), Scripted(), Raises()])
    with pytest.raises(EnvError, match=r"^the environment raised KeyError: 'a\\nlevel'$") as caught:
        envs.reset({0: 1, 2: 8, 1: 2})
    assert caught.value.slot == 2
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_step_that_hangs_is_interrupted():
    class Hangs(Scripted):
        def step(self, action):
            while True:
                time.sleep(0.01)

    envs = SerialEnvs([Scripted(), Hangs()])
    envs.reset({0: 1, 1: 1})
    with (
        envs.step_timeout(0.1),
        pytest.raises(EnvError, match="the environment has not returned for more than 0.1 s") as e,
    ):
        envs.step([0, 0], [0, 1])
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
