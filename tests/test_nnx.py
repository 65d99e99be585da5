"""Policies and critics in Flax NNX, and those without Flax, learn as linen's do."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, make_rollout
from flax import nnx

import pgjax

OBS = np.zeros(4, np.float32)


class Policy(nnx.Module):
    def __init__(self, num_actions, *, rngs):
        self.hidden = nnx.Linear(4, 16, rngs=rngs)
        self.head = nnx.Linear(16, num_actions, rngs=rngs)

    def __call__(self, obs):
        return pgjax.distributions.Categorical(self.head(nnx.relu(self.hidden(obs))))


class Critic(nnx.Module):
    def __init__(self, *, rngs):
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, obs):
        return self.head(obs).squeeze(-1)


class LinenPolicy(nn.Module):
    @nn.compact
    def __call__(self, obs):
        hidden = nn.relu(nn.Dense(16, name="hidden")(obs))
        return pgjax.distributions.Categorical(nn.Dense(2, name="head")(hidden))


class LinenCritic(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1, name="head")(obs).squeeze(-1)


class PlainPolicy:
    """The same policy as two pure functions; its parameters are a list."""

    def init(self, key, obs):
        params = LinenPolicy().init(key, obs)["params"]
        return {"params": [params["hidden"], params["head"]]}

    def apply(self, params, obs):
        hidden, head = params["params"]
        return pgjax.distributions.Categorical(dense(head, jax.nn.relu(dense(hidden, obs))))


def dense(layer, x):
    product = x @ layer["kernel"]
    return product + jnp.broadcast_to(layer["bias"], product.shape)


POLICY, CRITIC = (
    pgjax.from_nnx(functools.partial(Policy, 2)),
    pgjax.from_nnx(Critic),
)
MAKERS = {
    "reinforce": lambda policy, critic: pgjax.reinforce(policy, optax.adam(0.01), critic=critic),
    "ppo": lambda policy, critic: pgjax.ppo(
        policy, optax.adam(0.01), critic=critic, minibatch_size=8, num_epochs=2
    ),
    "npg": lambda policy, critic: pgjax.npg(
        policy, critic=critic, critic_optimizer=optax.adam(0.01), minibatch_size=8
    ),
}


def linen_params(params):
    """The parameters of POLICY and CRITIC as those of the linen modules."""
    return {"params": params["params"]["nnx"], "critic": params["critic"]["nnx"]}


@pytest.mark.parametrize(
    "name", ["reinforce", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "npg"))]
)
def test_an_update_is_that_of_the_linen_modules_with_the_same_weights(name, rng):
    of_nnx = MAKERS[name](POLICY, CRITIC)
    of_linen = MAKERS[name](LinenPolicy(), LinenCritic())
    rollout = make_rollout(rng, [5, 9, 3])
    state = of_nnx.init(jax.random.key(0), OBS)
    like = of_linen.init(jax.random.key(0), OBS)._replace(params=linen_params(state.params))
    (grads, _), (expected, _) = (
        jax.grad(of.loss, has_aux=True)(params, rollout)
        for of, params in ((of_nnx, state.params), (of_linen, like.params))
    )
    assert_trees_equal(linen_params(grads), expected)
    assert float(optax.tree.norm(expected)) > 0.01
    (new, info), (linen, linen_info) = of_nnx.update(state, rollout), of_linen.update(like, rollout)
    assert_trees_equal(linen_params(new.params), linen.params)
    assert_trees_equal(info, linen_info)


def test_a_constructor_draws_from_the_key_and_a_module_keeps_its_weights():
    first, second = (POLICY.init(jax.random.key(i), OBS)["params"]["nnx"] for i in range(2))
    assert not np.array_equal(first["head"]["kernel"], second["head"]["kernel"])
    module = Policy(2, rngs=nnx.Rngs(5))
    before = np.array(module.head.kernel[...])
    policy = pgjax.from_nnx(module)
    params = policy.init(jax.random.key(7), OBS)
    np.testing.assert_array_equal(params["params"]["nnx"]["head"]["kernel"], before)
    obs = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(policy.apply(params, obs).logits, module(obs).logits)
    algorithm = pgjax.reinforce(policy, optax.sgd(1.0))
    state = algorithm.init(jax.random.key(0), OBS)
    rollout = make_rollout(np.random.default_rng(0), [5, 9])
    new, _ = algorithm.update(state, rollout)
    assert not np.array_equal(new.params["params"]["nnx"]["head"]["kernel"], before)
    np.testing.assert_array_equal(module.head.kernel[...], before)  # it was left as it is


def test_it_can_be_wrapped_and_be_a_torso():
    class Torso(nnx.Module):
        def __init__(self, *, rngs):
            self.layer = nnx.Linear(4, 8, rngs=rngs)

        def __call__(self, obs):
            return nnx.tanh(self.layer(obs))

    wrapped = pgjax.NormalizedObs(POLICY)
    with_torso = pgjax.SoftmaxPolicy(2, (), torso=pgjax.from_nnx(Torso))
    for policy in (wrapped, with_torso):
        params = policy.init(jax.random.key(0), jnp.zeros(4))
        assert policy.apply(params, np.ones((3, 4), np.float32)).logits.shape == (3, 2)
    assert set(params["params"]) == {"torso", "Dense_0"}


def test_a_policy_without_flax_has_the_updates_of_the_linen_one(rng):
    plain, linen = (
        pgjax.reinforce(policy, optax.adam(0.01)) for policy in (PlainPolicy(), LinenPolicy())
    )
    rollout = make_rollout(rng, [5, 9, 3])
    states = [of.init(jax.random.key(0), OBS) for of in (plain, linen)]
    (new, info), (expected, _) = (
        of.update(state, rollout) for of, state in zip((plain, linen), states, strict=True)
    )
    hidden, head = new.params["params"]
    for name, layer in (("hidden", hidden), ("head", head)):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            layer,
            dict(expected.params["params"][name]),
        )
    assert info["grad_norm"] > 0


def test_a_bare_module_and_something_else_are_refused():
    with pytest.raises(pgjax.ConfigError, match="from_nnx makes one"):
        pgjax.reinforce(Policy(2, rngs=nnx.Rngs(0)), optax.sgd(1.0))
    with pytest.raises(pgjax.ConfigError, match="a module of Flax NNX or a function of rngs"):
        pgjax.from_nnx(3)


@pytest.mark.parametrize("variables", [[jnp.zeros(3)], {"w": jnp.zeros(3)}, None])
def test_init_must_return_params(variables):
    class Wrong(PlainPolicy):
        def init(self, key, obs):
            return variables

    algorithm = pgjax.reinforce(Wrong(), optax.sgd(1.0))
    with pytest.raises(pgjax.ConfigError, match="a dict whose entry 'params' is trained"):
        algorithm.init(jax.random.key(0), OBS)
