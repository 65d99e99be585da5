"""The functional environments against Gymnasium's own, and the combinators."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional, CartPoleParams

import pgjax
from pgjax import envs
from pgjax.envs.classic import CLASSIC

SEED = 0


def gymnasium_state(state):
    """A functional state as Gymnasium's."""
    leaves = jax.tree.leaves(state[0])
    return np.array(leaves[0] if len(leaves) == 1 else leaves, np.float64)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_physics_step_by_step(env_id):
    """From the same state, Gymnasium's step and ours give the same; benchmarks/physics.py: more."""
    theirs, ours = gym.make(env_id), envs.make(env_id)
    step = jax.jit(ours.step)
    for seed in range(2):
        state, obs = ours.reset(jax.random.key(seed))
        theirs.reset(seed=seed)
        theirs.action_space.seed(seed)
        steps, ended = 0, False
        while not ended:
            if steps % 40 < 30:  # set back, then left alone for a while
                theirs.unwrapped.state = gymnasium_state(state)
            action = theirs.action_space.sample()
            state, obs, reward, terminated, truncated = step(
                jax.random.key(SEED), state, jnp.asarray(action)
            )
            obs_, reward_, terminated_, truncated_, _ = theirs.step(action)
            np.testing.assert_allclose(obs, obs_, rtol=1e-4, atol=2e-4)
            if steps % 40 < 30:
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
    # Uniform in the same bounds: the extremes of 300 draws lie near them, and the means agree.
    spread = np.ptp(expected, 0)
    np.testing.assert_array_less(np.abs(first.min(0) - expected.min(0)), 0.1 * spread + 1e-6)
    np.testing.assert_array_less(np.abs(first.max(0) - expected.max(0)), 0.1 * spread + 1e-6)
    np.testing.assert_array_less(np.abs(first.mean(0) - expected.mean(0)), 0.12 * spread + 1e-6)


def counter():
    """Counts its steps; the observation is the count and what it was sent."""

    def reset(key):
        return jnp.zeros(()), jnp.zeros((2, 1))

    def step(key, state, action):
        state = state + 1
        obs = jnp.stack([state, jnp.float32(action).sum()])[:, None]
        return state, obs, state, state >= 5, jnp.zeros((), bool)

    space = envs.Box(-np.inf, np.inf, (2, 1))
    return envs.Env(reset, step, space, envs.Box(np.array([-1, 0]), np.array([1, np.inf]), (2,)))


def test_time_limit_truncates_and_nests():
    env = envs.time_limit(envs.time_limit(counter(), 3), 7)
    assert env.max_episode_steps == 3
    state, _ = env.reset(jax.random.key(SEED))
    for t in range(1, 6):
        state, _, reward, terminated, truncated = env.step(
            jax.random.key(SEED), state, jnp.zeros(2)
        )
        assert (float(reward), bool(terminated), bool(truncated)) == (t, t == 5, t >= 3)


def test_observations_scaled_and_flattened():
    env = envs.flatten_observations(envs.scale_observations(counter(), 10.0, offset=1.0))
    state, obs = env.reset(jax.random.key(SEED))
    np.testing.assert_array_equal(obs, [-10.0, -10.0])
    _, obs, *_ = env.step(jax.random.key(SEED), state, jnp.array([2.0, 3.0]))
    np.testing.assert_array_equal(obs, [0.0, 40.0])
    assert env.observation_space.shape == (2,)


def test_discrete_observations_become_one_hot():
    one_of_three = envs.Discrete(3, start=4)
    env = envs.map_observations(counter(), lambda obs: jnp.int32(obs[0, 0]) + 4, one_of_three)
    env = envs.flatten_observations(env)
    state, obs = env.reset(jax.random.key(SEED))
    np.testing.assert_array_equal(obs, [1, 0, 0])
    np.testing.assert_array_equal(env.step(jax.random.key(SEED), state, jnp.zeros(2))[1], [0, 1, 0])


@pytest.mark.parametrize(
    ("space", "squash", "raw", "sent"),
    [
        (envs.Discrete(3, start=-1), False, 0, -1),
        (envs.Box(-1.0, 2.0, (2,)), False, [-3.0, 1.5], [-1.0, 1.5]),
        (envs.Box(np.array([-np.inf, 0]), np.array([1, np.inf]), (2,)), False, [-9, -9], [-9, 0]),
        (envs.Box(-1.0, 3.0, (2,)), True, [0.0, 50.0], [1.0, 3.0]),
        (envs.Box(np.array([-1.0, 0.0]), 1.0, (2,)), False, [-3.0, 0.5], [-1.0, 0.5]),
        (envs.Box(0, 9, (2, 1), np.int32), False, [1.6, 99.0], [[2], [9]]),
    ],
)
def test_actions_within_bounds(space, squash, raw, sent):
    """As pgjax.spaces sends them to a Gymnasium environment of the same space."""
    got = []

    def step(key, state, action):
        got.append(action)
        return state, jnp.zeros(1), jnp.zeros(()), jnp.ones((), bool), jnp.zeros((), bool)

    env = envs.Env(lambda key: (0, jnp.zeros(1)), step, envs.Box(0.0, 0.0, (1,)), space)
    envs.bound_actions(env, squash).step(jax.random.key(SEED), 0, jnp.asarray(raw))
    np.testing.assert_allclose(got[0], sent, rtol=1e-6)
    assert got[0].dtype == space.dtype
    theirs = pgjax.actions.actions(envs.as_gymnasium(env).action_space, squash)
    np.testing.assert_allclose(got[0], theirs.send(np.asarray(raw)[None])[0], rtol=1e-6)


def test_bounding_twice_is_bounding_once():
    env = envs.bound_actions(envs.make("Pendulum-v1"), squash=True)
    twice = envs.bound_actions(env)
    state, _ = env.reset(jax.random.key(SEED))
    for raw in (-30.0, 0.3, 30.0):
        once, again = (e.step(None, state, jnp.array([raw])) for e in (env, twice))
        for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(x, y)
    # At full torque the reward loses 0.001 * 2**2 against none.
    full, none = (env.step(None, state, jnp.array([raw]))[2] for raw in (50.0, 0.0))
    np.testing.assert_allclose(none - full, 0.004, rtol=1e-2)


def test_a_limit_set_by_hand_limits():
    env = envs.bound_actions(counter())._replace(max_episode_steps=4)
    env = envs.flatten_observations(env)
    algorithm = pgjax.reinforce(pgjax.GaussianPolicy(2), optax.sgd(0.1))
    state = pgjax.init_on_device(algorithm, env, jax.random.key(SEED))
    for rollout in (
        pgjax.collect_episodes_on_device(env, algorithm, state, 2),
        pgjax.collect_episodes(envs.as_gymnasium(env), algorithm, state, 2),
    ):
        np.testing.assert_array_equal(rollout.weight.sum(0), [4, 4])
        assert np.asarray(rollout.truncated)[3].all()


@jax.tree_util.register_pytree_node_class
class Opaque:
    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return "Opaque"

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def test_errors_say_what_to_do():
    with pytest.raises(pgjax.ConfigError, match="CartPole-v1, Pendulum-v1"):
        envs.make("Walker2d-v5")
    for limit in (0, 2**31):
        with pytest.raises(pgjax.ConfigError, match="at least 1"):
            envs.time_limit(counter(), limit)
    with pytest.raises(pgjax.ConfigError, match="at least 1"):
        envs.make("CartPole-v1", 0)
    with pytest.raises(pgjax.SpaceError, match="finite bounds"):
        envs.bound_actions(counter(), squash=True)
    bad = {
        "state must keep": lambda k, s, a: (jnp.int32(s), *counter().step(k, s, a)[1:]),
        "observation must keep": lambda k, s, a: (
            s + 1,
            jnp.zeros(3),
            *counter().step(k, s, a)[2:],
        ),
        "reward must be a scalar": lambda k, s, a: (
            *counter().step(k, s, a)[:2],
            jnp.zeros(2),
            *counter().step(k, s, a)[3:],
        ),
        "its space says": lambda k, s, a: counter().step(k, s, a),
        "truncated must be a scalar bool": lambda k, s, a: (*counter().step(k, s, a)[:4], s),
        "must return": lambda k, s, a: counter().step(k, s, a)[:4],
    }
    for message, step in bad.items():
        space = envs.Discrete(3) if "space" in message else counter().observation_space
        with pytest.raises(pgjax.ConfigError, match=message):
            envs.check(counter()._replace(step=step, observation_space=space))
    others = {
        "reset must return": {"reset": lambda k: jnp.int32(0)},
        "spaces must be": {"action_space": gym.spaces.Discrete(2)},
        "the observation is {'x'": {
            "reset": lambda k: (jnp.int32(0), {"x": jnp.zeros(1)}),
            "step": lambda k, s, a: (s, {"x": jnp.zeros(1)}, *counter().step(k, s, a)[2:]),
        },
        "state must keep": {  # of a class that prints alike whatever it holds
            "reset": lambda k: (Opaque(jnp.zeros(2)), counter().reset(k)[1]),
            "step": lambda k, s, a: (
                Opaque(jnp.zeros(3)),
                *counter().step(k, jnp.int32(0), a)[1:],
            ),
        },
    }
    for message, changes in others.items():
        with pytest.raises(pgjax.ConfigError, match=message):
            envs.check(counter()._replace(**changes))


def test_gymnasiums_own_functional_environment():
    """CartPole of gymnasium.envs.phys2d, with the pole it should have, is our CartPole."""
    theirs = envs.from_func_env(CartPoleFunctional(), 500, CartPoleParams(polemass_length=0.05))
    ours = envs.make("CartPole-v1")
    state, obs = theirs.reset(jax.random.key(SEED))
    same = (tuple(obs), jnp.int32(0))
    for t in range(20):
        state, obs, reward, terminated, truncated = theirs.step(
            jax.random.key(SEED), state, jnp.int32(t % 2)
        )
        same, *expected = ours.step(jax.random.key(SEED), same, jnp.int32(t % 2))
        np.testing.assert_allclose(obs, expected[0], rtol=1e-5, atol=1e-6)
        assert (reward, terminated, truncated) == tuple(expected[1:])
    blackjack = CartPoleFunctional()
    blackjack.observation_space = gym.spaces.Tuple([gym.spaces.Discrete(32)])
    with pytest.raises(pgjax.SpaceError, match="Tuple"):
        envs.from_func_env(blackjack, 10)
