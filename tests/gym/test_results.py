"""What environments return is checked, and a fault names the slot, the field and its type."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from probe_envs import Scripted

from pgjax.gym.results import CheckedEnv, EnvError, success_in, write_obs, write_step
from pgjax.gym.spaces import observations

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
    info = {"colour": "red"}
    ends = write_step((OBS + 4, 2, True, 0, info), 1, successors, rewards, encode)
    assert ends == (True, False, info)
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
        ((OBS, None, True, False, {}), 0, "the reward is None (NoneType), not a number"),
        ((OBS, OBS, True, False, {}), 0, "the reward is array("),
        ((OBS, "1.5", True, False, {}), 0, "the reward is '1.5' (str), not a number"),
        ((OBS, 10**400, True, False, {}), 0, "the reward is "),
        ((OBS, 1e300, True, False, {}), 0, "the reward is 1e+300, more than float32 can hold"),
        (
            (OBS, [[1.0], [1.0, 2.0]], True, False, {}),
            0,
            "the reward is [[1.0], [1.0, 2.0]] (list)",
        ),
        ((OBS, 1j, True, False, {}), 0, "the reward is 1j (complex), not a number"),
        ((OBS, 1.0, OBS == 0, False, {}), 0, "terminated is array("),
        ((OBS, 1.0, None, False, {}), 0, "terminated is None (NoneType), not True or False"),
        ((OBS, 1.0, False, "False", {}), 0, "truncated is 'False' (str), not True or False"),
        ((OBS, 1.0, [], False, {}), 0, "terminated is [] (list), not True or False"),
        ((OBS, 1.0, float("nan"), False, {}), 0, "terminated is nan (float), not True or False"),
        ((OBS, 1.0, 2, False, {}), 0, "terminated is 2 (int), not True or False"),
        ((OBS, 1.0, False, [[1], [1, 2]], {}), 0, "truncated is [[1], [1, 2]] (list), not True"),
    ],
)
def test_a_malformed_result_is_refused_with_its_slot(result, delay, reason):
    successors, rewards = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    with pytest.raises(EnvError) as caught:
        write_step(result, 1, successors, rewards, encode)
    assert caught.value.reason.startswith(reason)
    assert (caught.value.slot, caught.value.delay) == (1, delay)


@pytest.mark.parametrize(
    "one", [1, True, np.float64(1), np.array([1.0]), np.array([[1]]), np.float32(1), np.uint8(1)]
)
def test_a_reward_of_one_number_is_accepted_whatever_its_type(one):
    rewards = np.zeros(1, np.float32)
    write_step((OBS, one, False, False, {}), 0, np.zeros((1, 3)), rewards, encode)
    assert rewards[0] == 1.0


def test_a_reward_of_several_numbers_is_answered_with_a_wrapper():
    with pytest.raises(EnvError) as caught:
        write_step((OBS, np.ones(2), False, False, {}), 0, np.zeros((1, 3)), np.zeros(1), encode)
    assert "LinearReward" in caught.value.advice


@pytest.mark.parametrize(
    ("yes", "no"), [(True, False), (np.True_, np.False_), (1, 0), (np.array([True]), np.array(0))]
)
def test_flags_of_any_boolean_type(yes, no):
    row = np.zeros((1, 3))
    ends = write_step((OBS, 0.0, yes, no, {}), 0, row, np.zeros(1), encode)
    assert ends == (True, False, {})


@pytest.mark.parametrize(
    ("info", "success"),
    [
        ({"is_success": True}, 1.0),
        ({"success": np.False_}, 0.0),
        ({"success": 0.25, "other": None}, 0.25),
        ({"is_success": np.array([1], np.uint8), "success": 0}, 1.0),
        ({"is_success": None, "success": 1}, 1.0),
        *(
            (info, None)
            for info in (
                {}, None, [], {"is_success": "yes"}, {"success": [0, 1]}, {"success": np.nan},
                {"is_success": math.inf}, {"success": {"a": 1}}, {"success": [[1], [1, 2]]},
            )
        ),
    ],
)  # fmt: skip
def test_the_success_that_an_info_tells(info, success):
    found = success_in(info)
    assert math.isnan(found) if success is None else found == success


@pytest.mark.parametrize(
    ("space", "obs", "reason"),
    [
        (spaces.Box(0, 255, (2,), np.uint8), np.array([-1, 5]), "needs 0 to 255"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([300, 5]), "needs 0 to 255"),
        (spaces.Box(0, 255, (2,), np.uint8), [300, 5], "(list), but the space needs 0 to 255"),
        (spaces.Box(-9, 9, (2,), np.int8), np.array([0, 128]), "needs -128 to 127"),
        (spaces.MultiBinary(2), np.array([0, 7]), "needs 0 to 1"),
        (spaces.MultiBinary(2), np.array([0, -1], np.int8), "needs 0 to 1"),
        (spaces.Discrete(5), np.array([3]), "has shape (1,), but the space needs shape ()"),
        (spaces.Discrete(5), 3.0, "is 3.0 (float), but the space needs an integer"),
        (spaces.Discrete(5), "3", "is '3' (str), but the space needs an integer"),
        (spaces.MultiDiscrete([2, 3]), np.array([0.0, 1.0]), "needs integers"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), "needs [0, 0] to [1, 2]"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 9, (1,), np.uint8)]), (0, np.array([256])),
         "needs 0 to 255"),
    ],
)  # fmt: skip
def test_an_observation_that_its_space_cannot_hold_is_refused(space, obs, reason):
    with pytest.raises(ValueError, match="the observation") as caught:
        observations(space).encode(obs)
    assert reason in str(caught.value)


def test_an_observation_of_another_integer_type_is_accepted_if_it_fits():
    space = spaces.Box(0, 255, (2,), np.uint8)
    np.testing.assert_array_equal(observations(space).encode(np.array([255, 0])), [255, 0])


def test_integers_of_several_types_become_float32():
    """Their common type would have 64 bits, and JAX has 32: 3e9 would wrap around."""
    large = spaces.Box(0, 2**32 - 1, (1,), np.uint32)
    seen = observations(spaces.Tuple([large, spaces.Box(-9, 9, (1,), np.int32)]))
    row = seen.encode((np.array([3_000_000_000], np.uint32), np.array([-3], np.int32)))
    assert row.dtype == seen.dtype == np.float32
    assert row.tolist() == [3e9, -3.0]


class Informs(Scripted):
    """Returns infos of all kinds, and tells options of None from {}."""

    def reset(self, *, seed=None, options=None):
        assert options is None
        obs, _ = super().reset(seed=seed)
        return obs, None

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, np.array([reward]), terminated, truncated, {"ragged": [[1], [2, 3]], 5: None}


def test_a_process_sends_checked_results_and_no_infos():
    env = CheckedEnv(Informs(), encode, np.zeros(3, np.float32))
    obs, info = env.reset(seed=3, options={})
    plain = Informs()
    expected, _ = plain.reset(seed=3)
    np.testing.assert_array_equal(obs, expected)
    result, same = env.step(0), plain.step(0)
    np.testing.assert_array_equal(result[0], same[0])
    assert result[1:] == (same[1].item(), same[2], same[3], {})
    assert info == {}
