"""A policy that does not fit the action space is refused before the first step."""

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from spaces_envs import F32, KINDS, SPACES, algorithm_for

import pgjax
from pgjax import envs
from pgjax.collect.policy_fit import check_action, choices_of, raw_actions
from pgjax.gym.actions import actions


class Untouched(gym.Env):
    """An environment that must not be stepped."""

    observation_space = SPACES["Box"]

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        raise AssertionError(action)


def _collect_steps(env, algorithm, state, num_steps):
    return pgjax.collect_steps(pgjax.Stream(env), algorithm, state, num_steps)


HALF = pgjax.JointPolicy((pgjax.SoftmaxPolicy(4, ()), pgjax.GaussianPolicy(2, ())), (4,))


@pytest.mark.parametrize(("policy", "space", "words"), [
    (pgjax.SoftmaxPolicy(4, (4,)), "Discrete", "one of 4 values, but the action space has 3"),
    (pgjax.SoftmaxPolicy(2, (4,)), "Discrete", "one of 2 values, but the action space has 3"),
    (pgjax.GaussianPolicy(2, (4,)), "Discrete", "the action space needs discrete"),
    (pgjax.SoftmaxPolicy(2, (4,)), "Box", "the action space needs continuous"),
    (pgjax.GaussianPolicy(3, (4,)), "Box", "the action space needs continuous"),
    (pgjax.MultiSoftmaxPolicy((2, 5, 4), (4,)), "MultiDiscrete", "one of 5 values, .* has 3"),
    (pgjax.BernoulliPolicy(3, (4,)), "MultiDiscrete", "one of 2 values, .* has 3"),
    (pgjax.MultiSoftmaxPolicy((2, 2, 3), (4,)), "MultiBinary", "one of 3 values, .* has 2"),
    (HALF, "Dict", "one of 4 values, .* has 3"),
    (pgjax.GaussianPolicy(3, (4,)), "Dict", "the policy chose .* whole numbers"),
])  # fmt: skip
@pytest.mark.parametrize("collect", [pgjax.collect_episodes, _collect_steps])
def test_a_policy_that_does_not_fit_is_refused_before_the_first_step(policy, space, words, collect):
    algorithm = pgjax.reinforce(policy, optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(2, F32))
    with pytest.raises(pgjax.SpaceError, match=words):
        collect(Untouched(SPACES[space]), algorithm, state, 20)


@KINDS
def test_the_number_of_choices_is_read_from_the_policy(kind):
    algorithm, state = algorithm_for("Box", kind)
    sends = actions(SPACES[kind])
    like, choices = choices_of(algorithm.act, state.params, state.key, np.zeros(2, F32))
    assert like.shape == sends.shape
    check_action(sends, like, choices)
    if sends.discrete:
        assert choices == sends.choices


def test_a_functional_space_requires_the_same_as_gymnasium():
    assert raw_actions(envs.Discrete(3)) == (True, (), (3,))
    assert raw_actions(envs.Box(-1.0, 1.0, (2, 3))) == (False, (6,), ())
