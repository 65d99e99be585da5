"""Adapters, tested on small environments with the interfaces of Brax and gymnax.

The slow tests use the environments of both, where they are installed.
"""

import sys

import chex
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional, CartPoleParams

import pgjax
from pgjax import envs
from pgjax.envs.adapters import gymnasium_space

KEY = jax.random.key(0)


@chex.dataclass(frozen=True)
class State:
    """The fields that the adapters read from a state of Brax or gymnax."""

    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    time: int


class BraxLike:
    """The action moves a point from 0; `done` is a float, 1.0 from a distance of 2."""

    observation_size, action_size = 1, 1

    def reset(self, rng):
        return State(obs=jnp.zeros(1), reward=jnp.zeros(()), done=jnp.zeros(()), time=0)

    def step(self, state, action):
        obs = state.obs + action
        done = (jnp.abs(obs[0]) >= 2).astype(jnp.float32)
        time = jnp.float32(state.time + 1)  # reset returns an int
        return State(obs=obs, reward=obs[0], done=done, time=time)


@chex.dataclass(frozen=True)
class Params:
    max_steps_in_episode: int = 3


class Discrete:
    n = 2


class Box:
    low, high, shape, dtype = -1.0, 1.0, (1,), jnp.int32  # but GymnaxLike returns float32


class GymnaxLike:
    """Counts steps; `done` both at its time limit and after action 1."""

    default_params = Params()

    def reset_env(self, key, params):
        return jnp.zeros(1), State(obs=jnp.zeros(1), reward=0.0, done=False, time=0)

    def step_env(self, key, state, action, params):
        time = state.time + 1
        done = (action == 1) | (time >= params.max_steps_in_episode)
        obs = jnp.full(1, 1.0 * time)
        return obs, State(obs=obs, reward=0.0, done=done, time=time), 1.0, done, {}

    def observation_space(self, params):
        return Box()

    def action_space(self, params):
        return Discrete()


def rewards_and_ends(env, actions):
    envs.check(env)
    state, _ = env.reset(KEY)
    for action in actions:
        state, _, *row = env.step(KEY, state, action)
        yield [float(row[0]), bool(row[1]), bool(row[2])]


def test_brax_terminates_by_done_and_truncates_at_the_limit():
    env = envs.from_brax(BraxLike(), max_episode_steps=3)
    assert (env.observation_space.shape, env.action_space.low) == ((1,), -1.0)
    one = jnp.ones(1)
    assert list(rewards_and_ends(env, [one, one])) == [[1, False, False], [2, True, False]]
    half = one / 2
    expected = [[0.5, False, False], [1.0, False, False], [1.5, False, True]]
    assert list(rewards_and_ends(env, [half] * 3)) == expected


def test_gymnax_truncation_is_not_termination():
    env = envs.from_gymnax(GymnaxLike())
    assert (env.max_episode_steps, env.action_space.n) == (3, 2)
    assert env.observation_space.dtype == jnp.float32
    expected = [[1, False, False], [1, False, False], [1, False, True]]
    assert list(rewards_and_ends(env, [jnp.int32(0)] * 3)) == expected
    assert list(rewards_and_ends(env, [jnp.int32(1)])) == [[1, True, False]]


class ShowsItsLimit(GymnaxLike):
    """The observation is the share of the time that is left, and the last step pays for it."""

    def step_env(self, key, state, action, params):
        obs, state, _, done, info = super().step_env(key, state, action, params)
        left = 1.0 - state.time / params.max_steps_in_episode
        return left * jnp.ones(1), state.replace(obs=obs), jnp.where(left > 0, 0.0, 9.0), done, info


def test_a_gymnax_environment_may_use_its_limit():
    env = envs.from_gymnax(ShowsItsLimit(), Params(max_steps_in_episode=4))
    state, _ = env.reset(KEY)
    seen = []
    for _ in range(4):
        state, obs, reward, terminated, truncated = env.step(KEY, state, jnp.int32(0))
        seen.append((float(obs[0]), float(reward), bool(terminated), bool(truncated)))
    assert seen[:3] == [(left, 0.0, False, False) for left in (0.75, 0.5, 0.25)]
    assert seen[3] == (0.0, 9.0, False, True)


def test_a_gymnax_environment_without_a_limit_needs_one():
    class Unlimited(GymnaxLike):
        default_params = None

        def step_env(self, key, state, action, params):
            return super().step_env(key, state, action, Params(max_steps_in_episode=100))

    with pytest.raises(pgjax.ConfigError, match="max_episode_steps="):
        envs.from_gymnax(Unlimited())
    env = envs.from_gymnax(Unlimited(), max_episode_steps=2)
    ends = list(rewards_and_ends(env, [jnp.int32(0)] * 2))
    assert ends == [[1, False, False], [1, False, True]]


def test_unusable_environments_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)  # as if not installed
    with pytest.raises(pgjax.ConfigError, match=r"pgjax\[brax\]"):
        envs.from_brax("ant")
    env = BraxLike()
    env.observation_size = {"pixels": (8, 8)}
    with pytest.raises(pgjax.SpaceError, match="one array"):
        envs.from_brax(env)
    dict_like = GymnaxLike()
    dict_like.action_space = lambda params: {}
    with pytest.raises(pgjax.SpaceError, match="dict is not supported"):
        envs.from_gymnax(dict_like)


def test_gymnasiums_functional_cartpole_is_ours():
    """With the pole length of CartPole-v1, which gymnasium.envs.phys2d gets wrong."""
    theirs = envs.from_func_env(CartPoleFunctional(), 500, CartPoleParams(polemass_length=0.05))
    ours = envs.make("CartPole-v1")
    state, obs = theirs.reset(KEY)
    same = (tuple(obs), jnp.int32(0))
    for t in range(20):
        state, obs, reward, terminated, truncated = theirs.step(KEY, state, jnp.int32(t % 2))
        same, *expected = ours.step(KEY, same, jnp.int32(t % 2))
        np.testing.assert_allclose(obs, expected[0], rtol=1e-5, atol=1e-6)
        assert (reward, terminated, truncated) == tuple(expected[1:])
    blackjack = CartPoleFunctional()
    blackjack.observation_space = gym.spaces.Tuple([gym.spaces.Discrete(32)])
    with pytest.raises(pgjax.SpaceError, match="Tuple"):
        envs.from_func_env(blackjack, 10)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (envs.Discrete(3, start=-1), gym.spaces.Discrete(3, start=-1)),
        (envs.Box(-1.0, np.inf, (2, 3)), gym.spaces.Box(-1.0, np.inf, (2, 3))),
        (
            envs.Box(np.array([0, -2]), 5, (2,), np.int32),
            gym.spaces.Box(np.array([0, -2]), np.array([5, 5]), dtype=np.int32),
        ),
    ],
)
def test_spaces_convert_to_gymnasiums(space, expected):
    assert gymnasium_space(space) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_brax_itself():
    pytest.importorskip("brax")
    for name in ("inverted_pendulum", "ant", "hopper", "reacher"):
        envs.check(envs.from_brax(name))
    with pytest.raises(pgjax.ConfigError, match="no environment 'aunt'"):
        envs.from_brax("aunt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gymnax_itself():
    gymnax = pytest.importorskip("gymnax")
    for name in ("CartPole-v1", "Pendulum-v1", "Catch-bsuite", "Breakout-MinAtar"):
        env = envs.from_gymnax(*gymnax.make(name))
        envs.check(env)
        assert np.prod(env.observation_space.shape) >= 1
