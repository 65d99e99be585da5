"""The first value that is not finite, among observations, actions and rewards."""

import numpy as np
import pytest

from pgjax.collect.finite import find_nonfinite

NAN, INF = np.nan, np.inf


def block():
    """Return fields of 5 steps in 3 environments."""
    obs, action, reward = np.zeros((5, 3, 2)), np.zeros((5, 3, 2)), np.zeros((5, 3))
    return {"obs": obs, "action": action, "reward": reward, "next_obs": np.zeros((5, 3, 2))}


@pytest.mark.parametrize(
    ("values", "num_steps", "message"),
    [
        # t steps precede the observation and the action at step t, and t + 1 its reward.
        ({("obs", 2, 1): NAN}, 2, "step 2: the observation is nan, not a finite number: correct"),
        ({("next_obs", 2, 1): INF}, 3, "step 3: the observation is inf"),
        ({("action", 2, 1): NAN}, 2, "step 2: the action is nan, not a finite number: the policy"),
        ({("reward", 2, 1): -INF}, 3, "step 2: the reward is -inf"),
        # The earliest in time, in any field.
        ({("obs", 3, 1): NAN, ("reward", 2, 1): INF, ("action", 4, 1): NAN}, 3, "step 2: the rew"),
        ({("obs", 3, 1): NAN, ("next_obs", 1, 1): INF}, 2, "step 2: the observation is inf"),
        # Within a step, the cause comes before the effect.
        ({("reward", 2, 1): NAN, ("action", 2, 1): NAN}, 2, "step 2: the action"),
        ({("action", 2, 1): NAN, ("next_obs", 1, 1): INF}, 2, "step 2: the observation"),
    ],
)
def test_the_earliest_value_is_found(values, num_steps, message):
    fields = block()
    assert find_nonfinite(**fields) is None
    for (name, *index), value in values.items():
        fields[name][*index] = value
    made, error = find_nonfinite(**fields)
    assert made == num_steps
    assert error.after(made).startswith(message)
    assert error.slot == 1
    advice = "lower the learning rate" if "action" in message else "correct the environment"
    assert error.after(made).endswith(advice)


def test_steps_of_one_environment_with_their_last_successor():
    obs, action, reward = np.zeros((6, 2)), np.zeros(5, np.int32), np.zeros(5)
    assert find_nonfinite(obs, action, reward, slot=4) is None
    obs[5, 1] = NAN
    made, error = find_nonfinite(obs, action, reward, slot=4)
    assert (made, error.slot) == (5, 4)
    assert error.after(made).startswith("step 5: the observation is nan")
