"""Per-episode gradients and their summary."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_rollout
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax import advantages, diagnostics
from pgjax.gradcheck import compare


@pytest.mark.parametrize(
    ("policy", "action"),
    [
        (pgjax.SoftmaxPolicy(2, (3,)), None),
        pytest.param(
            pgjax.GaussianPolicy(2, (3,)),
            lambda shape: np.ones((*shape, 2), np.float32),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["softmax", "gaussian"],
)
def test_mean_episode_gradient_is_the_gradient_of_the_loss(rng, policy, action):
    estimator = advantages.normalized(advantages.reward_to_go(0.9))
    algorithm = pgjax.reinforce(policy, optax.identity(), estimator=estimator)
    rollout = make_rollout(rng, [5, 2, 1, 8], action=action, padding=np.nan)
    params = algorithm.init(jax.random.key(0), rollout.obs[0, 0]).params
    each = diagnostics.episode_gradients(algorithm, params, rollout, estimator(rollout))
    whole = jax.grad(lambda p: algorithm.loss(p, rollout)[0])(params)
    assert each.shape == (4, ravel_pytree(params)[0].size)
    np.testing.assert_allclose(each.mean(0), -ravel_pytree(whole)[0], rtol=1e-4, atol=1e-6)


def test_padded_columns_and_padded_first_rows_count_for_nothing(rng):
    """The log of a padded action of 0 is not finite, and its weight is 0."""

    class LogNormal(NamedTuple):
        mean: jax.Array

        def log_prob(self, action):
            return jnp.sum(-0.5 * (jnp.log(action) - self.mean) ** 2, -1)

    class Policy(nn.Module):
        @nn.compact
        def __call__(self, obs):
            return LogNormal(nn.Dense(1)(obs))

    policy = Policy()
    algorithm = pgjax.reinforce(policy, optax.identity())
    params = policy.init(jax.random.key(0), np.zeros(4))
    rollout = make_rollout(rng, [3, 2, 4], action=lambda shape: np.ones((*shape, 1), np.float32))
    rollout.weight[:, 1] = 0.0
    rollout.weight[0, 0] = 0.0
    each = diagnostics.episode_gradients(algorithm, params, rollout, rollout.reward)
    np.testing.assert_array_equal(each[1], 0.0)
    # d/db of -(0 - mean)^2 / 2 is -mean
    mean = policy.apply(params, rollout.obs).mean[..., 0]
    by_hand = (-mean * rollout.reward * rollout.weight).sum(0)
    np.testing.assert_allclose(each[:, 0], by_hand, rtol=1e-4, atol=1e-6)


def test_variance_of_episode_gradients_is_exact():
    """Over all trajectories of an MDP, weighted by their probability."""
    case = compare.CASES[0]
    rollout, theirs = case.task.trajectories
    with jax.enable_x64(True):
        algorithm = pgjax.reinforce(case.task.policy, optax.identity(), estimator=case.estimator)
        params = jax.tree.map(
            lambda x: jnp.full(x.shape, 0.3) * jnp.arange(1.0, x.size + 1).reshape(x.shape),
            jax.eval_shape(algorithm.init, jax.random.key(0), rollout.obs[0, 0]).params,
        )
        mean, variance = compare.moments(
            algorithm, case.task.policy, params, case.task.trajectories, num_episodes=1
        )
        each = diagnostics.episode_gradients(algorithm, params, rollout, case.estimator(rollout))
        log_prob = algorithm.log_prob(params, rollout.obs, rollout.action)
        p = theirs * jnp.exp(jnp.where(rollout.weight > 0, log_prob, 0.0).sum(0))
        np.testing.assert_allclose(p @ each, -ravel_pytree(mean)[0], atol=1e-12)
        spread = p @ (each**2).sum(1) - ((p @ each) ** 2).sum()
        np.testing.assert_allclose(spread, variance, rtol=1e-10)


def test_summary_by_hand():
    gradients = jnp.array([[3.0, 0.0], [0.0, 4.0], [3.0, 0.0], [0.0, 4.0]])
    # mean (1.5, 2); deviations plus or minus (1.5, -2), with squared length 6.25
    found = diagnostics.summary(gradients)
    np.testing.assert_allclose(found["grad_norm"], 2.5)
    np.testing.assert_allclose(found["grad_variance"], 4 * 6.25 / 3, rtol=1e-6)
    np.testing.assert_allclose(found["grad_snr"], 6.25 / (4 * 6.25 / 3 / 4), rtol=1e-6)
    np.testing.assert_allclose(found["grad_cosine"], 0.0)
    same = diagnostics.summary(jnp.ones((6, 3)))
    np.testing.assert_allclose(same["grad_cosine"], 1.0, rtol=1e-6)
    nothing = diagnostics.summary(jnp.zeros((6, 3)))
    assert all(float(x) == 0.0 for x in nothing.values())


def test_pure_noise_has_snr_one_and_cosine_zero():
    gradients = jax.random.normal(jax.random.key(0), (400, 500))
    found = diagnostics.summary(gradients)
    np.testing.assert_allclose(found["grad_snr"], 1.0, atol=0.25)
    np.testing.assert_allclose(found["grad_cosine"], 0.0, atol=0.2)


def test_summary_of_one_gradient_raises():
    with pytest.raises(pgjax.ConfigError, match="at least 2"):
        diagnostics.summary(jnp.ones((1, 3)))


def test_a_rollout_that_does_not_fit_is_refused(rng):
    policy = pgjax.SoftmaxPolicy(2, ())
    algorithm = pgjax.reinforce(policy, optax.identity())
    rollout = make_rollout(rng, [3, 2])
    params = policy.init(jax.random.key(0), rollout.obs[0, 0])
    x = rollout.reward
    for wrong, advantage, words in (
        (rollout, x[:, :1], r"advantage has shape \(3, 1\)"),
        (rollout, x[..., None], r"advantage has shape \(3, 2, 1\)"),
        (rollout._replace(weight=x[:, 0]), x, "rollout.weight"),
        (rollout._replace(obs=rollout.obs[:, :1]), x, "rollout.obs"),
        (rollout._replace(action=rollout.action[..., None]), x, r"action has shape \(3, 1\)"),
    ):
        with pytest.raises(pgjax.ConfigError, match=words):
            diagnostics.episode_gradients(algorithm, params, wrong, advantage)
    with pytest.raises(pgjax.ConfigError, match="an? pgjax.Algorithm is needed"):
        diagnostics.episode_gradients(policy, params, rollout, x)
    with pytest.raises(pgjax.ConfigError, match=r"gradients must be \[B, P\]"):
        diagnostics.summary(jnp.ones(5))
