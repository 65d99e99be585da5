import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import pgjax
from pgjax import distributions
from pgjax.collect.noise import split_noise

OBS = np.array([0.3, -1.0], np.float32)


class CoinPolicy(nn.Module):
    """A user-defined policy whose distribution combines its key directly with its parameters."""

    def __call__(self, obs):
        return distributions.Bernoulli(obs)


class MultiPolicy(nn.Module):
    def __call__(self, obs):
        return distributions.MultiCategorical((obs, obs[..., :1]))


@pytest.mark.parametrize(
    "policy",
    [
        pgjax.SoftmaxPolicy(3, (4,)),
        pgjax.GaussianPolicy(2, (4,)),
        pgjax.GaussianPolicy(2, (4,), squash=True),
        pgjax.LessonGaussianPolicy(2, (4,)),
        CoinPolicy(),
        MultiPolicy(),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_acting_on_drawn_noise_equals_acting_with_the_key(policy):
    algorithm = pgjax.reinforce(policy, optax.sgd(0.1))
    state = algorithm.init(jax.random.key(0), OBS)
    draw, act_on = split_noise(algorithm.act, state.params, state.key, OBS)
    for seed in range(5):
        noise = jax.jit(draw)(jax.random.key(seed))
        assert all(isinstance(np.asarray(x), np.ndarray) for x in noise)
        expected = algorithm.act(state.params, jax.random.key(seed), OBS)
        np.testing.assert_allclose(jax.jit(act_on)(state.params, noise, OBS), expected, rtol=1e-6)


def test_acting_on_noise_generates_no_random_bits():
    algorithm = pgjax.reinforce(pgjax.GaussianPolicy(2, (4,)), optax.sgd(0.1))
    state = algorithm.init(jax.random.key(0), OBS)
    draw, act_on = split_noise(algorithm.act, state.params, state.key, OBS)
    noise = draw(jax.random.key(0))
    assert "random_bits" in str(jax.make_jaxpr(draw)(jax.random.key(0)))
    assert "random_bits" not in str(jax.make_jaxpr(act_on)(state.params, noise, OBS))


def test_nothing_is_drawn_for_a_policy_that_does_not_sample():
    def act(params, key, obs):
        return obs * params

    draw, act_on = split_noise(act, 2.0, jax.random.key(0), OBS)
    assert draw(jax.random.key(1)) == ()
    np.testing.assert_allclose(act_on(3.0, (), OBS), 3 * OBS)
