"""Every kind of space: the rollout matches the environment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from spaces_envs import FEW_KINDS, SPACES, algorithm_for, ends, make, script

import pgjax
from pgjax.collect.noise import episode_keys, reset_seeds


def assert_as_scripted(kind, rollout, seeds):
    """Check every field except the action against the script."""
    space = SPACES[kind]
    for b, seed in enumerate(seeds):
        rows = np.stack([spaces.flatten(space, obs) for obs in script(space, seed)])
        length = len(rows) - 1
        np.testing.assert_allclose(rollout.obs[:length, b], rows[:-1], rtol=1e-6)
        np.testing.assert_allclose(rollout.next_obs[:length, b], rows[1:], rtol=1e-6)
        np.testing.assert_array_equal(rollout.reward[:length, b], np.arange(1, length + 1))
        last = np.arange(len(rollout.weight)) == length - 1
        terminated, truncated = ends(seed)
        np.testing.assert_array_equal(rollout.terminated[:, b], last & terminated)
        np.testing.assert_array_equal(rollout.truncated[:, b], last & truncated)
        np.testing.assert_array_equal(rollout.weight[:, b], np.arange(len(rollout.weight)) < length)


def seeds_of(state, count):
    numbers = jnp.arange(count, dtype=jnp.uint32)
    return np.asarray(reset_seeds(episode_keys(state.key, numbers))).tolist()


@FEW_KINDS
def test_the_rollout_matches_the_environment(kind):
    algorithm, state = algorithm_for(kind, kind)
    one = pgjax.collect_episodes(make(kind, kind), algorithm, state, 5)
    assert_as_scripted(kind, one, seeds_of(state, 5))
    side_by_side = SyncVectorEnv([functools.partial(make, kind, kind)] * 3)
    many = pgjax.collect_episodes(side_by_side, algorithm, state, 5)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)
    # The public act draws the same action, and an update accepts the rollout.
    key = jax.random.fold_in(jax.random.fold_in(state.key, 4), 1)
    act = algorithm.act(state.params, key, one.obs[1, 4])
    np.testing.assert_allclose(act, one.action[1, 4], rtol=1e-6)
    _, info = algorithm.update(state, one)
    assert np.isfinite(info["grad_norm"])
    assert info["grad_norm"] > 0


@pytest.mark.parametrize(
    ("obs_kind", "action_kind"),
    [("nested", "nested"), pytest.param("Tuple", "Dict", marks=pytest.mark.slow)]
    + [pytest.param(kind, kind, marks=pytest.mark.slow) for kind in SPACES if kind != "nested"],
)
def test_a_vector_of_processes_gives_the_same_rollout(obs_kind, action_kind):
    algorithm, state = algorithm_for(obs_kind, action_kind)
    env = AsyncVectorEnv(
        [functools.partial(make, obs_kind, action_kind)] * 2,
        context="spawn",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    try:
        theirs = pgjax.collect_episodes(env, algorithm, state, 3)
    finally:
        env.close()
    assert_as_scripted(obs_kind, theirs, seeds_of(state, 3))
    ours = pgjax.collect_episodes(make(obs_kind, action_kind), algorithm, state, 3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
