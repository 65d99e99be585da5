"""What each wrapper changes in an environment, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probe_envs import counter

import pgjax
from pgjax import envs

KEY = jax.random.key(0)


def test_time_limits_truncate_and_nest():
    env = envs.time_limit(envs.time_limit(counter(), 3), 7)
    assert env.max_episode_steps == 3
    state, _ = env.reset(KEY)
    for t in range(1, 6):
        state, _, reward, terminated, truncated = env.step(KEY, state, jnp.zeros(2))
        assert (float(reward), bool(terminated), bool(truncated)) == (t, t == 5, t >= 3)


@pytest.mark.parametrize("limit", [0, 2**31])
def test_impossible_time_limits_are_refused(limit):
    with pytest.raises(pgjax.ConfigError, match="at least 1"):
        envs.time_limit(counter(), limit)


def test_a_limit_set_by_hand_truncates_in_both_engines():
    env = envs.bound_actions(counter())._replace(max_episode_steps=4)
    env = envs.flatten_observations(env)
    algorithm = pgjax.reinforce(pgjax.GaussianPolicy(2), optax.sgd(0.1))
    state = pgjax.init_on_device(algorithm, env, KEY)
    for rollout in (
        pgjax.collect_episodes_on_device(env, algorithm, state, 2),
        pgjax.collect_episodes(envs.as_gymnasium(env), algorithm, state, 2),
    ):
        np.testing.assert_array_equal(rollout.weight.sum(0), [4, 4])
        assert np.asarray(rollout.truncated)[3].all()


def test_observations_scaled_and_flattened():
    env = envs.flatten_observations(envs.scale_observations(counter(), 10.0, offset=1.0))
    state, obs = env.reset(KEY)
    np.testing.assert_array_equal(obs, [-10.0, -10.0])
    _, obs, *_ = env.step(KEY, state, jnp.array([2.0, 3.0]))
    np.testing.assert_array_equal(obs, [0.0, 40.0])
    assert env.observation_space.shape == (2,)


def test_scaling_maps_the_bounds_too():
    """A negative scale swaps the bounds, and integers become float32."""
    space = envs.Box(np.array([0, 10]), 20, (2,), np.int32)
    env = envs.map_observations(counter(), lambda obs: jnp.int32(obs.ravel()), space)
    env = envs.scale_observations(env, np.array([1.0, -0.5], np.float32), np.array([0, 10]))
    envs.check(env)
    np.testing.assert_array_equal(env.observation_space.low, [0, -5])
    np.testing.assert_array_equal(env.observation_space.high, [20, 0])
    assert env.observation_space.dtype == np.float32
    _, obs, *_ = env.step(KEY, jnp.zeros(()), jnp.array([2.0, 14.0]))
    np.testing.assert_array_equal(obs, [1.0, -3.0])


def test_only_a_box_can_be_scaled():
    env = counter()._replace(observation_space=envs.Discrete(3))
    with pytest.raises(pgjax.SpaceError, match="needs Box"):
        envs.scale_observations(env, 2.0)


def test_discrete_observations_become_one_hot():
    space = envs.Discrete(3, start=4)
    env = envs.map_observations(counter(), lambda obs: jnp.int32(obs[0, 0]) + 4, space)
    env = envs.flatten_observations(env)
    state, obs = env.reset(KEY)
    np.testing.assert_array_equal(obs, [1, 0, 0])
    np.testing.assert_array_equal(env.step(KEY, state, jnp.zeros(2))[1], [0, 1, 0])


@pytest.mark.parametrize(
    ("space", "squash", "raw", "sent"),
    [
        (envs.Discrete(3, start=-1), False, 0, -1),
        (envs.Box(-1.0, 2.0, (2,)), False, [-3.0, 1.5], [-1.0, 1.5]),
        (envs.Box(np.array([-np.inf, 0]), np.array([1, np.inf]), (2,)), False, [-9, -9], [-9, 0]),
        (envs.Box(-1.0, 3.0, (2,)), True, [0.0, 50.0], [1.0, 3.0]),
        (envs.Box(np.array([-1.0, 0.0]), 1.0, (2,)), False, [-3.0, 0.5], [-1.0, 0.5]),
        (envs.Box(0, 9, (2, 1), np.int32), False, [1.6, 99.0], [[2], [9]]),
        (envs.Box(-3e38, 3e38, (2,)), True, [0.0, -50.0], [0.0, -3e38]),
        (envs.Box(-3e38, 3e38, (2,)), False, [np.inf, -1e30], [3e38, -1e30]),
        (envs.Box(-(2**31), 2**31 - 1, (2,), np.int32), False, [1e30, -7.6], [2**31 - 1, -8]),
        (envs.Box(-(2**31), 2**31 - 1, (2,), np.int32), True, [0.0, -50.0], [0, -(2**31)]),
        (envs.Box(0, 255, (2,), np.uint8), True, [0.0, 50.0], [128, 255]),
    ],
)
def test_actions_are_mapped_into_their_space(space, squash, raw, sent):
    """As pgjax.gym.actions maps them for a Gymnasium environment with the same space."""
    got = []

    def step(key, state, action):
        got.append(action)
        return state, jnp.zeros(1), jnp.zeros(()), jnp.ones((), bool), jnp.zeros((), bool)

    env = envs.Env(lambda key: (0, jnp.zeros(1)), step, envs.Box(0.0, 0.0, (1,)), space)
    envs.bound_actions(env, squash).step(KEY, 0, jnp.asarray(raw))
    np.testing.assert_allclose(got[0], sent, rtol=1e-6)
    assert got[0].dtype == space.dtype
    theirs = pgjax.actions.actions(envs.as_gymnasium(env).action_space, squash)
    np.testing.assert_allclose(got[0], theirs.send(np.asarray(raw)[None])[0], rtol=1e-6)


def test_bounding_twice_is_bounding_once():
    env = envs.bound_actions(envs.make("Pendulum-v1"), squash=True)
    twice = envs.bound_actions(env)
    state, _ = env.reset(KEY)
    for raw in (-30.0, 0.3, 30.0):
        once, again = (e.step(None, state, jnp.array([raw])) for e in (env, twice))
        for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(x, y)
    # Full torque costs 0.001 * 2**2 more than none.
    full, none = (env.step(None, state, jnp.array([raw]))[2] for raw in (50.0, 0.0))
    np.testing.assert_allclose(none - full, 0.004, rtol=1e-2)


def test_squashing_needs_finite_bounds():
    with pytest.raises(pgjax.SpaceError, match="finite bounds"):
        envs.bound_actions(counter(), squash=True)
