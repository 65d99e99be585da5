"""Environments of Brax and gymnax, by small ones of the same interface, and (slow) by their own."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pgjax
from pgjax import envs

KEY = jax.random.key(0)


@chex.dataclass(frozen=True)
class State:
    """As Brax's, of what the adapter reads, or gymnax's."""

    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    time: int


class BraxLike:
    """Walks by its action, from zero; done, as a float, from a distance of 2 on."""

    observation_size, action_size = 1, 1

    def reset(self, rng):
        return State(obs=jnp.zeros(1), reward=jnp.zeros(()), done=jnp.zeros(()), time=0)

    def step(self, state, action):
        obs = state.obs + action
        done = (jnp.abs(obs[0]) >= 2).astype(jnp.float32)
        # a counter that comes as another type
        return State(obs=obs, reward=obs[0], done=done, time=jnp.float32(state.time + 1))


@chex.dataclass(frozen=True)
class Params:
    max_steps_in_episode: int = 3


class Discrete:
    n = 2


class Box:
    low, high, shape, dtype = -1.0, 1.0, (1,), jnp.int32  # and yet it gives float32


class GymnaxLike:
    """Counts, and is done, in one word, at its limit or by action 1."""

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


def test_brax_ends_by_done_and_by_our_limit():
    env = envs.from_brax(BraxLike(), max_episode_steps=3)
    assert (env.observation_space.shape, env.action_space.low) == ((1,), -1.0)
    one = jnp.ones(1)
    assert list(rewards_and_ends(env, [one, one])) == [[1, False, False], [2, True, False]]
    half = one / 2
    expected = [[0.5, False, False], [1.0, False, False], [1.5, False, True]]
    assert list(rewards_and_ends(env, [half] * 3)) == expected


def test_gymnax_tells_truncation_from_termination():
    env = envs.from_gymnax(GymnaxLike())
    assert (env.max_episode_steps, env.action_space.n) == (3, 2)
    assert env.observation_space.dtype == jnp.float32
    expected = [[1, False, False], [1, False, False], [1, False, True]]
    assert list(rewards_and_ends(env, [jnp.int32(0)] * 3)) == expected
    assert list(rewards_and_ends(env, [jnp.int32(1)])) == [[1, True, False]]


def test_what_they_cannot_give_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)  # as if it were not installed
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
