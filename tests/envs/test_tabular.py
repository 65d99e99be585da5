"""Exact values against closed forms, and the environment of an MDP against its tables."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pgjax
from pgjax.envs import tabular

ROOT2 = np.sqrt(2)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def always(mdp, *probabilities):
    """The same distribution in every state."""
    return jnp.broadcast_to(jnp.array(probabilities)[None], (len(mdp.initial), len(probabilities)))


def corridor_value(p):
    """J of going right with probability p, derived from Sutton & Barto, Example 13.1."""
    return (2 * p - 4) / (p * (1 - p))


@pytest.mark.parametrize("p", [0.05, 0.5, 2 - ROOT2, 0.95])
def test_value_and_gradient_of_the_short_corridor(p):
    mdp = tabular.short_corridor()
    j = tabular.objective(mdp, always(mdp, 1 - p, p))
    np.testing.assert_allclose(j, corridor_value(p), rtol=1e-12)
    slope = jax.grad(lambda p: tabular.objective(mdp, always(mdp, 1 - p, p)))(p)
    by_differences = (corridor_value(p + 1e-6) - corridor_value(p - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, by_differences, rtol=1e-6, atol=1e-6)


def test_best_policy_of_the_short_corridor():
    mdp = tabular.short_corridor()
    best = 2 - ROOT2
    np.testing.assert_allclose(
        tabular.objective(mdp, always(mdp, 1 - best, best)), -(6 + 4 * ROOT2), rtol=1e-12
    )
    slope = jax.grad(lambda p: tabular.objective(mdp, always(mdp, 1 - p, p)))(best)
    assert abs(slope) < 1e-9
    assert (mdp.obs == mdp.obs[0]).all()


def test_values_and_visits_of_the_chain_by_hand():
    """Advancing takes 1 / 0.8 steps per state, and the last step pays 1."""
    mdp, gamma = tabular.two_state_chain(slip=0.2), 0.5
    advance = always(mdp, 0.0, 1.0)
    np.testing.assert_allclose(tabular.visits(mdp, advance), [1.25, 1.25, 0.0])
    # v1 = 0.8 + 0.2 gamma v1; v0 = gamma (0.8 v1 + 0.2 v0)
    v1 = 0.8 / 0.9
    np.testing.assert_allclose(tabular.state_values(mdp, advance, gamma), [0.4 * v1 / 0.9, v1, 0.0])
    np.testing.assert_allclose(
        tabular.occupancies(mdp, advance, 3), [[1, 0, 0], [0.2, 0.8, 0], [0.04, 0.32, 0]]
    )
    # In two steps, only the second can pay, and only if both succeed.
    np.testing.assert_allclose(tabular.truncated_objective(mdp, advance, gamma, 2), gamma * 0.64)
    # Staying pays 0.3 in each step.
    stay = always(mdp, 1.0, 0.0)
    np.testing.assert_allclose(tabular.truncated_objective(mdp, stay, gamma, 3), 0.3 * 1.75)
    np.testing.assert_allclose(tabular.objective(mdp, stay, gamma), 0.6)


@pytest.mark.parametrize(
    ("mdp", "horizon"),
    [
        (tabular.two_state_chain(), 4),
        (tabular.random_mdp(3), 3),
        (tabular.layered_mdp(2), 3),
        (tabular.short_corridor(), 5),
    ],
)
def test_trajectories_are_complete_and_distinct(mdp, horizon):
    rollout, by_environment = tabular.trajectories(mdp, horizon)
    pi = jax.random.dirichlet(jax.random.key(0), jnp.ones(2), (len(mdp.initial),))
    one_hot = mdp._replace(obs=np.eye(len(mdp.initial)))
    state = tabular.trajectories(one_hot, horizon).rollout.obs.argmax(-1)
    chosen = np.where(rollout.weight > 0, np.asarray(pi)[state, rollout.action], 1.0)
    probability = by_environment * chosen.prod(0)
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-12)
    discount = 0.9 ** np.arange(horizon)[:, None]
    expected = (probability * (discount * rollout.reward).sum(0)).sum()
    np.testing.assert_allclose(
        expected, tabular.truncated_objective(mdp, pi, 0.9, horizon), rtol=1e-12
    )
    ends = (rollout.terminated | rollout.truncated) & (rollout.weight > 0)
    np.testing.assert_array_equal(ends.sum(0), 1)
    assert not (rollout.terminated & rollout.truncated).any()
    np.testing.assert_array_equal(rollout.truncated[:-1], False)
    last = mdp.obs[mdp.terminal]
    after = rollout.next_obs[rollout.terminated]
    np.testing.assert_array_equal(after, np.broadcast_to(last[:1], after.shape))


def test_environment_follows_the_tables():
    mdp = tabular.random_mdp(5)
    with jax.enable_x64(False):
        env = tabular.as_env(mdp)
        pgjax.envs.check(env)
        keys = jax.random.split(jax.random.key(0), 20_000)
        state, obs = jax.vmap(env.reset)(keys)
        np.testing.assert_allclose(np.bincount(state, minlength=3) / 20_000, mdp.initial, atol=0.02)
        np.testing.assert_array_equal(obs, mdp.obs.astype(np.float32)[state])
        after, obs, reward, terminated, truncated = jax.vmap(env.step, (0, None, None))(keys, 1, 0)
    frequency = np.bincount(after, minlength=3) / 20_000
    np.testing.assert_allclose(frequency, mdp.transition[1, 0], atol=0.02)
    np.testing.assert_allclose(reward, mdp.reward[1, 0][after], rtol=1e-6)
    np.testing.assert_array_equal(terminated, mdp.terminal[after])
    assert not truncated.any()


@pytest.mark.slow
def test_sampled_returns_agree_with_the_linear_system():
    mdp = tabular.two_state_chain()
    with jax.enable_x64(False):
        env = tabular.as_env(mdp, max_episode_steps=32)
        policy = pgjax.SoftmaxPolicy(2, (3,))
        algorithm = pgjax.reinforce(policy, optax.identity())
        state = pgjax.init_on_device(algorithm, env, jax.random.key(1))
        rollout = pgjax.collect_episodes_on_device(env, algorithm, state, 4096)
        pi = tabular.action_probabilities(mdp, policy, state.params)
        discount = 0.9 ** np.arange(len(rollout.reward))[:, None]
        returns = np.where(rollout.weight > 0, discount * rollout.reward, 0.0).sum(0)
        expected = tabular.truncated_objective(mdp, pi, 0.9, 32)
    assert abs(returns.mean() - expected) < 5 * returns.std() / 64


def test_too_many_trajectories_are_refused():
    with pytest.raises(pgjax.ConfigError, match="shorten the horizon"):
        tabular.trajectories(tabular.random_mdp(0), 30)


def test_a_horizon_below_1_is_refused():
    mdp = tabular.short_corridor()
    pi = np.full((4, 2), 0.5)
    for compute in (
        lambda: tabular.occupancies(mdp, pi, 0),
        lambda: tabular.truncated_objective(mdp, pi, 1.0, 0),
        lambda: tabular.trajectories(mdp, 0),
    ):
        with pytest.raises(pgjax.ConfigError, match="horizon must be an integer of at least 1"):
            compute()
