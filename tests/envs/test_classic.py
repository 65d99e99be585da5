"""The classic control tasks against Gymnasium's own."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import envs
from pgjax.envs.classic import CLASSIC

SEED = 0


def gymnasium_state(state):
    """Convert the state of a functional environment to Gymnasium's."""
    leaves = jax.tree.leaves(state[0])
    return np.array(leaves[0] if len(leaves) == 1 else leaves, np.float64)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_physics_step_by_step(env_id):
    """The same state and action lead to the same step; benchmarks/physics.py has more episodes.

    For 30 of every 40 steps, Gymnasium's state is set to ours; in the other 10 both run freely.
    """
    theirs, ours = gym.make(env_id), envs.make(env_id)
    step = jax.jit(ours.step)
    for seed in range(2):
        state, obs = ours.reset(jax.random.key(seed))
        theirs.reset(seed=seed)
        theirs.action_space.seed(seed)
        steps, ended = 0, False
        while not ended:
            same_state = steps % 40 < 30
            if same_state:
                theirs.unwrapped.state = gymnasium_state(state)
            action = theirs.action_space.sample()
            state, obs, reward, terminated, truncated = step(
                jax.random.key(SEED), state, jnp.asarray(action)
            )
            obs_, reward_, terminated_, truncated_, _ = theirs.step(action)
            np.testing.assert_allclose(obs, obs_, rtol=1e-4, atol=2e-4)
            if same_state:
                np.testing.assert_allclose(obs, obs_, rtol=1e-5, atol=3e-6)
            np.testing.assert_allclose(reward, reward_, rtol=1e-4, atol=1e-5)
            assert (bool(terminated), bool(truncated)) == (terminated_, truncated_)
            steps, ended = steps + 1, terminated_ or truncated_
        assert obs.dtype == obs_.dtype
        assert theirs.observation_space.contains(np.asarray(obs))


@pytest.mark.parametrize("env_id", CLASSIC)
def test_spaces_and_resets_are_gymnasiums(env_id):
    theirs, ours = gym.make(env_id), envs.as_gymnasium(envs.make(env_id))
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.observation_space.low, theirs.observation_space.low)
    np.testing.assert_array_equal(ours.observation_space.high, theirs.observation_space.high)
    n = 300
    first = np.array([ours.reset(seed=s)[0] for s in range(n)])
    expected = np.array([theirs.reset(seed=s)[0] for s in range(n)])
    # Uniform between the same bounds: extremes and means of 300 draws nearly agree.
    spread = np.ptp(expected, 0)
    np.testing.assert_array_less(np.abs(first.min(0) - expected.min(0)), 0.1 * spread + 1e-6)
    np.testing.assert_array_less(np.abs(first.max(0) - expected.max(0)), 0.1 * spread + 1e-6)
    np.testing.assert_array_less(np.abs(first.mean(0) - expected.mean(0)), 0.12 * spread + 1e-6)


def test_make_returns_the_same_object_for_the_same_arguments():
    assert envs.make("CartPole-v1") is envs.make("CartPole-v1")
    assert envs.make("CartPole-v1", 10).max_episode_steps == 10


def test_make_names_what_it_can_make():
    with pytest.raises(pgjax.ConfigError, match="CartPole-v1, Pendulum-v1"):
        envs.make("Walker2d-v5")
    with pytest.raises(pgjax.ConfigError, match="at least 1"):
        envs.make("CartPole-v1", 0)


def test_a_time_limit_is_a_count():
    assert envs.make("CartPole-v1", np.int64(7)) is envs.make("CartPole-v1", 7)
    envs.make("CartPole-v1", 1)
    with pytest.raises(pgjax.ConfigError, match="n must be an integer"):
        envs.Discrete(True)
    for limit in (True, 2.0):  # equal to limits for which there is an environment
        with pytest.raises(pgjax.ConfigError, match="max_episode_steps must be an integer"):
            envs.make("CartPole-v1", limit)
