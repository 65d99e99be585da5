from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import KINDS, OBS, algorithm_case, gaussian_actions, plain
from conftest import assert_trees_equal, make_rollout

import pgjax
from pgjax import advantages


def test_an_algorithm_is_five_functions():
    init, act, log_prob, loss, update = plain()
    state = init(jax.random.key(0), OBS)
    assert act(state.params, jax.random.key(1), OBS).shape == ()
    assert act(state.params, jax.random.key(2), np.zeros((5, 4), np.float32)).shape == (5,)
    assert log_prob(state.params, OBS, jnp.array(1)).shape == ()
    batch = make_rollout(np.random.default_rng(0), [3])
    assert loss(state.params, batch)[0].shape == ()
    assert int(update(state, batch)[0].step) == 1


def test_update_steps_along_the_gradient_of_the_loss(rng):
    batch = make_rollout(rng, [50, 20], action=gaussian_actions(rng))
    algorithm = pgjax.reinforce(
        pgjax.GaussianPolicy(2, (8,)), optax.sgd(0.5), critic=pgjax.ValueNetwork((8,)),
        estimator=advantages.gae(0.9, 0.9), entropy_coef=0.01,
    )  # fmt: skip
    state = algorithm.init(jax.random.key(0), OBS)
    gradient = jax.grad(algorithm.loss, has_aux=True)(state.params, batch)[0]
    stepped, info = algorithm.update(state, batch)
    for g, before, after in zip(
        *(jax.tree.leaves(x) for x in (gradient, state.params, stepped.params)), strict=True
    ):
        np.testing.assert_allclose(before - after, 0.5 * g, rtol=1e-3, atol=1e-4)
    # The norm of the gradient, not of the step.
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(info["grad_norm"], norm, rtol=1e-4)


def test_gradient_is_that_of_finite_differences_at_fixed_advantages():
    """In float64, with advantages as constants: no gradient must flow through the advantages."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batch = make_rollout(rng, [30, 11], action=gaussian_actions(rng))
        batch = pgjax.Rollout(
            *(x.astype(np.float64) if x.dtype == np.float32 else x for x in batch)
        )
        # Advantages depend on the parameters through the critic, which must not matter.
        algorithm = pgjax.reinforce(
            pgjax.GaussianPolicy(2, (5,), jnp.tanh), optax.sgd(1.0),
            critic=pgjax.ValueNetwork((5,)), estimator=advantages.gae(0.9, 0.9), value_coef=0.0,
        )  # fmt: skip
        state = algorithm.init(jax.random.key(0), batch.obs[0, 0])
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), state.params)
        critic = {"params": params["critic"]}
        net = pgjax.ValueNetwork((5,))
        fixed = advantages.gae(0.9, 0.9)(
            batch, net.apply(critic, batch.obs), net.apply(critic, batch.next_obs)
        )
        policy = pgjax.GaussianPolicy(2, (5,), jnp.tanh)

        @jax.jit
        def surrogate(params):
            log_prob = policy.apply(params, batch.obs).log_prob(batch.action)
            return -jnp.sum(batch.weight * fixed * log_prob) / 2  # two episodes

        gradient = jax.grad(algorithm.loss, has_aux=True)(params, batch)[0]
        assert all(np.all(g == 0) for g in jax.tree.leaves(gradient["critic"]))
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
        eps = 1e-6

        def along(sign):
            return surrogate(jax.tree.map(lambda p, d: p + sign * eps * d, params, direction))

        numeric = (along(1) - along(-1)) / (2 * eps)
        exact = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
        np.testing.assert_allclose(exact, numeric, rtol=1e-6)


def test_mean_over_episodes_or_steps():
    batch = make_rollout(np.random.default_rng(0), [7, 3])
    policy = pgjax.SoftmaxPolicy(2, (8,))
    state = plain().init(jax.random.key(0), OBS)
    episodes, steps = (
        pgjax.reinforce(policy, optax.adam(0.01), mean_over=over).loss(state.params, batch)[0]
        for over in ("episodes", "steps")
    )
    np.testing.assert_allclose(2 * episodes, 10 * steps, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_update_is_pure_and_counts(kind):
    algorithm, state, rollout = algorithm_case(kind)
    batch = rollout(np.random.default_rng(0), [5, 5])
    first, second = algorithm.update(state, batch), algorithm.update(state, batch)
    assert_trees_equal(first, second)
    assert int(first[0].step) == int(state.step) + 1
    assert_trees_equal(first[0].key, state.key)


def test_critic_is_fitted_to_the_returns():
    """For a constant reward of -1, V converges to -1 - 0.5 - 0.25 - ... = -2."""
    algorithm = pgjax.reinforce(
        pgjax.SoftmaxPolicy(2, (8,)), optax.adam(0.02),
        critic=pgjax.ValueNetwork((8,)), estimator=advantages.normalized(advantages.gae(0.5, 0.9)),
    )  # fmt: skip
    state = algorithm.init(jax.random.key(0), OBS)
    batch = make_rollout(np.random.default_rng(0), [16, 16], terminated=False)
    batch = batch._replace(
        reward=-np.ones_like(batch.reward),
        obs=np.ones_like(batch.obs),
        next_obs=np.ones_like(batch.obs),
    )
    for _ in range(300):
        state, _ = algorithm.update(state, batch)
    value = pgjax.ValueNetwork((8,)).apply({"params": state.params["critic"]}, np.ones(4))
    assert float(value) == pytest.approx(-2.0, abs=0.02)  # -1 / (1 - 0.5)


class _OneValue(nn.Module):
    """V, the same for all observations."""

    @nn.compact
    def __call__(self, obs):
        return jnp.broadcast_to(self.param("value", nn.initializers.zeros, ()), obs.shape[:-1])


def critic_gradient(estimator, **options):
    """Gradient of the loss with respect to V = 0: minus the sum of the targets, per episode."""
    algorithm = pgjax.reinforce(
        pgjax.SoftmaxPolicy(2, ()), optax.sgd(1.0), critic=_OneValue(), estimator=estimator,
        value_coef=1.0, **options,
    )  # fmt: skip
    params = algorithm.init(jax.random.key(0), OBS).params
    rollout = make_rollout(np.random.default_rng(0), [3, 2])
    rollout = rollout._replace(reward=np.array([[1, 2], [1, 2], [1, 0]], np.float32))
    gradient, _ = jax.jit(jax.grad(algorithm.loss, has_aux=True))(params, rollout)
    return float(gradient["critic"]["value"])


def test_the_target_of_the_critic_is_that_of_the_wrapped_estimator():
    """Returns with discount 0.5 are 1.75, 1.5, 1 and 3, 2; normalising changes no target."""
    estimator = advantages.normalized(advantages.reward_to_go(0.5))
    assert critic_gradient(estimator) == pytest.approx(-(1.75 + 1.5 + 1 + 3 + 2) / 2)


def test_an_explicit_target_is_used():
    def rewards(rollout, value, next_value):
        return rollout.reward

    target = advantages.reward_to_go(0.5).value_target
    assert critic_gradient(rewards, value_target=target) == pytest.approx(-9.25 / 2)
    gae = advantages.normalized(advantages.gae(0.9, 0.9))
    assert critic_gradient(gae, value_target=rewards) == pytest.approx(-7 / 2)


class _Narrow(nn.Module):
    """A softmax policy with parameters of any dtype."""

    dtype: Any

    @nn.compact
    def __call__(self, obs):
        logits = nn.Dense(2, param_dtype=self.dtype)(obs)
        return pgjax.distributions.Categorical(logits)


@pytest.mark.parametrize("dtype", [pytest.param(jnp.bfloat16, marks=pytest.mark.slow), jnp.float16])
def test_gradients_of_16_bit_parameters_are_sums_in_float32(dtype):
    """20,000 equal steps: rounded sums of 16 bits would stop growing after a few hundred."""
    ones = np.ones((2500, 8), np.float32)
    no = np.zeros((2500, 8), bool)
    obs = np.ones((2500, 8, 3), np.float32)
    rollout = pgjax.Rollout(obs, no.astype(np.int32), 1e-3 * ones, no, no, obs, ones)
    algorithm = pgjax.reinforce(
        _Narrow(dtype), optax.adam(0.01), estimator=advantages.reward_to_go(0.0), mean_over="steps"
    )
    state = algorithm.init(jax.random.key(0), obs[0])
    zero = jax.tree.map(jnp.zeros_like, state.params)  # both actions have probability 1/2
    state = state._replace(params=zero)
    gradient, _ = jax.grad(algorithm.loss, has_aux=True)(zero, rollout)
    stepped, info = algorithm.update(state, rollout)
    # -0.001 d log p(0) / d logits = 0.001 (-1/2, 1/2), for each of three weights and the bias.
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == dtype
        expected = np.broadcast_to([-0.0005, 0.0005], leaf.shape)
        np.testing.assert_allclose(np.float32(leaf), expected, rtol=2.0**-8)
    np.testing.assert_allclose(info["grad_norm"], 0.0005 * np.sqrt(8), rtol=1e-4)
    # Adam's first step is the learning rate against the sign of the gradient.
    for leaf in jax.tree.leaves(stepped.params):
        assert leaf.dtype == dtype
        step = np.broadcast_to([0.01, -0.01], leaf.shape)
        np.testing.assert_allclose(np.float32(leaf), step, rtol=4e-3)


def zero_policy_case(rng):
    """A policy with mean 0 and std 1, a critic of 0, and the loss worked out in float64."""
    batch = make_rollout(rng, [4, 2], action=gaussian_actions(rng))
    algorithm = {
        "policy": pgjax.GaussianPolicy(2, ()), "critic": _OneValue(), "value_coef": 0.7,
        "estimator": advantages.reward_to_go(1.0), "entropy_coef": lambda n: 0.1 * (n + 1),
    }  # fmt: skip
    weight, reward = batch.weight.astype(float), batch.reward * batch.weight.astype(float)
    returns = np.cumsum(reward[::-1], 0)[::-1]
    log_p = (-0.5 * batch.action.astype(float) ** 2 - 0.5 * np.log(2 * np.pi)).sum(-1)
    entropy = 1 + np.log(2 * np.pi)
    terms = -returns * log_p + 0.7 * 0.5 * returns**2

    def loss(num_updates):
        return float((weight * (terms - 0.1 * (num_updates + 1) * entropy)).sum() / 2)

    return batch, algorithm, loss


def test_the_optimizer_is_given_the_loss_of_the_update(rng):
    batch, parts, loss = zero_policy_case(rng)
    recorder = optax.GradientTransformationExtraArgs(
        lambda params: (jnp.float32(0), params),
        lambda grads, state, params=None, *, value, grad, **_: (
            jax.tree.map(jnp.zeros_like, grads),
            (value, grad),
        ),
    )
    algorithm = pgjax.reinforce(optimizer=recorder, sharding=pgjax.Sharding(3), **parts)
    state = algorithm.init(jax.random.key(0), OBS)
    state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
    for num_updates in (0, 1):  # the schedule of the entropy coefficient
        state, _ = algorithm.update(state, batch)
        assert float(state.opt_state[0]) == pytest.approx(loss(num_updates), rel=1e-5)
    # The critic is 0, so that its gradient is minus the sum of the returns.
    returns = np.cumsum((batch.reward * batch.weight)[::-1], 0)[::-1] * batch.weight
    gradient = float(state.opt_state[1]["critic"]["value"])
    assert gradient == pytest.approx(-0.7 * returns.sum() / 2, rel=1e-5)


@pytest.mark.slow
def test_polyak_steps_by_the_loss(rng):
    """x - g min(loss / |g|^2, limit), also inside MultiSteps, which passes the loss on."""
    batch, parts, loss = zero_policy_case(rng)
    optimizer = optax.polyak_sgd(max_learning_rate=1e9)
    algorithm = pgjax.reinforce(optimizer=optax.MultiSteps(optimizer, 1), **parts)
    state = algorithm.init(jax.random.key(0), OBS)
    state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
    grads, _ = jax.jit(jax.grad(algorithm.loss, has_aux=True))(state.params, batch)
    after = algorithm.update(state, batch)[0].params
    rate = loss(0) / sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
    for x, g in zip(jax.tree.leaves(after), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(x, -rate * g, rtol=1e-4, atol=1e-6)


def test_derivatives_of_an_update(rng):
    """d/dc of a parameter after a step of sgd(0.1) with entropy coefficient c.

    The entropy is a constant plus log std, so that a step adds 0.1 c * steps / episodes to log std.
    """
    batch = make_rollout(rng, [4, 2], action=gaussian_actions(rng))
    policy, optimizer = pgjax.GaussianPolicy(2, ()), optax.sgd(0.1)
    params = policy.init(jax.random.key(0), OBS)

    def log_std(coef, rate=0.9, by_hand=False):
        algorithm = pgjax.reinforce(
            policy, optimizer, entropy_coef=coef, estimator=advantages.reward_to_go(rate)
        )
        state = pgjax.TrainState(
            params, optimizer.init(params), jax.random.key(0), jnp.zeros((), jnp.int32)
        )
        if not by_hand:
            return algorithm.update(state, batch)[0].params["params"]["log_std"][0]
        grads, _ = jax.grad(algorithm.loss, has_aux=True)(params, batch)
        updates, _ = optimizer.update(grads, state.opt_state, params)
        return optax.apply_updates(params, updates)["params"]["log_std"][0]

    by_coef, by_rate = jax.jit(jax.jacfwd(log_std, (0, 1)))(0.3, 0.9)
    np.testing.assert_allclose(by_coef, 0.1 * 6 / 2, rtol=1e-5)
    assert float(by_rate) == 0.0  # advantages are constants
    backwards = jax.jit(jax.grad(lambda coef: log_std(coef, by_hand=True)))
    np.testing.assert_allclose(backwards(0.3), 0.1 * 6 / 2, rtol=1e-5)
