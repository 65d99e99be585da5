from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import KINDS, OBS, algorithm_case, gaussian_actions, with_critic
from conftest import assert_trees_equal, make_rollout

import pgjax


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [np.nan, 1e30, -np.inf])
@pytest.mark.parametrize(
    "time", [*(pytest.param(n, marks=pytest.mark.slow) for n in (128, 512)), 2048]
)
def test_padding_changes_no_bit(kind, padding, time):
    algorithm, state, rollout = algorithm_case(kind)
    lengths = [5, 90, 37]
    expected = algorithm.update(state, rollout(np.random.default_rng(0), lengths, time=128))
    filled = rollout(np.random.default_rng(0), lengths, time=128, padding=padding)
    longer = pgjax.Rollout(
        *(np.concatenate([x, np.broadcast_to(x[-1:], (time - 128, *x.shape[1:]))]) for x in filled)
    )
    longer = longer._replace(
        weight=np.where(np.arange(time)[:, None] < 128, np.resize(filled.weight, (time, 3)), 0)
    )
    assert_trees_equal(algorithm.update(state, longer), expected)


def test_chunks_sum_to_the_whole(rng):
    batch = make_rollout(rng, [100, 60, 3], action=gaussian_actions(rng))
    whole, chunked = with_critic(chunk_size=None), with_critic(chunk_size=16)
    params = whole.init(jax.random.key(0), OBS).params
    (a, info_a), (b, info_b) = (x.loss(params, batch) for x in (whole, chunked))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), info_a, info_b)


def test_custom_parts_may_be_undefined_on_padding(rng):
    """A density that is undefined at 0, an infinite entropy, and NaN advantages on padding."""

    class LogNormal(NamedTuple):
        mean: jax.Array

        def sample(self, key):
            return jnp.exp(self.mean + jax.random.normal(key, self.mean.shape))

        def log_prob(self, action):
            return jnp.sum(-0.5 * (jnp.log(action) - self.mean) ** 2 - jnp.log(action), -1)

        def entropy(self):
            return jnp.full(self.mean.shape[:-1], jnp.inf)

        def mode(self):
            return jnp.exp(self.mean - 1.0)

    class Policy(nn.Module):
        @nn.compact
        def __call__(self, obs):
            return LogNormal(nn.Dense(2)(obs))

    def careless(rollout, value, next_value):
        return jnp.where(rollout.weight > 0, rollout.reward, jnp.nan)

    algorithm = pgjax.reinforce(Policy(), optax.sgd(0.1), estimator=careless)
    state = algorithm.init(jax.random.key(0), OBS)
    batch = make_rollout(rng, [3, 7], action=lambda shape: np.exp(gaussian_actions(rng)(shape)))
    state, info = algorithm.update(state, batch)
    assert np.isfinite(info["grad_norm"])
    assert np.isfinite(info["policy_loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
