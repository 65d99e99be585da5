"""The natural gradient against dense matrices in float64, and the laws of its step."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import OBS, gaussian_actions
from conftest import assert_trees_equal, make_rollout
from jax.flatten_util import ravel_pytree

import pgjax
from pgjax.advantages import gae, normalized, reward_to_go
from pgjax.algorithms.actor_critic import Objective
from pgjax.algorithms.batches import Batch
from pgjax.algorithms.fisher import conjugate_gradients, fisher_product

LENGTHS = [40, 9, 31]  # with chunks of 16 rows, more than one
ESTIMATOR = normalized(reward_to_go(0.9))


@functools.cache
def algorithm(policy, **options):
    return pgjax.npg(policy, estimator=ESTIMATOR, chunk_size=16, **options)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def wide(tree):
    def widen(x):
        return np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else x

    return jax.tree.map(widen, tree)


def case(policy, continuous, **options):
    """An algorithm, a state and a rollout in float64."""
    rng = np.random.default_rng(0)
    batch = make_rollout(rng, LENGTHS, action=gaussian_actions(rng) if continuous else None)
    made = algorithm(policy, **options)
    state = made.init(jax.random.key(0), OBS)
    params = wide(state.params)
    # Larger than at the beginning, so that the policy depends on the observation.
    params["params"] = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), params["params"])
    return made, state._replace(params=params), wide(batch)


def real_rows(batch):
    return np.asarray(batch.obs)[np.asarray(batch.weight) > 0]


def fisher_by_scores(policy, params, batch):
    """E[score score^T] over the two actions of a softmax and over the observations."""
    flat, unravel = ravel_pytree(params["params"])

    def log_p(flat, obs):
        return jax.nn.log_softmax(policy.apply({"params": unravel(flat)}, obs).logits)

    @jax.jit
    def mean(rows):
        scores = jax.vmap(jax.jacobian(log_p), (None, 0))(flat, rows)
        p = jnp.exp(jax.vmap(log_p, (None, 0))(flat, rows))
        return jnp.einsum("na,nai,naj->ij", p, scores, scores) / len(rows)

    return np.asarray(mean(real_rows(batch)))


def fisher_by_moments(policy, params, batch):
    """Of a Gaussian: J_mean^T J_mean / std^2 + 2 J_logstd^T J_logstd."""
    flat, unravel = ravel_pytree(params["params"])

    def moments(flat, obs):
        distribution = policy.apply({"params": unravel(flat)}, obs)
        std = jax.lax.stop_gradient(distribution.std)
        return distribution.mean / std, jnp.sqrt(2.0) * jnp.log(distribution.std)

    @jax.jit
    def mean(rows):
        both = jnp.concatenate(jax.vmap(jax.jacobian(moments), (None, 0))(flat, rows), 1)
        return jnp.einsum("nai,naj->ij", both, both) / len(rows)

    return np.asarray(mean(real_rows(batch)))


SOFTMAX, GAUSSIAN = pgjax.SoftmaxPolicy(2, (3,), nn.tanh), pgjax.GaussianPolicy(2, (3,), nn.tanh)
SQUASHED = pgjax.GaussianPolicy(2, (3,), nn.tanh, squash=True)


@pytest.mark.parametrize(
    ("policy", "fisher"),
    [
        (SOFTMAX, fisher_by_scores),
        pytest.param(GAUSSIAN, fisher_by_moments, marks=pytest.mark.slow),
        pytest.param(SQUASHED, fisher_by_moments, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("float64")
def test_a_step_is_that_of_the_dense_fisher_matrix(policy, fisher):
    """With as many steps of conjugate gradients as parameters, to 1e-6; their KL is as asked."""
    damping, max_kl = 0.01, 1e-6
    made, state, batch = case(
        policy, policy is not SOFTMAX, damping=damping, max_kl=max_kl, cg_steps=60
    )
    flat, _ = ravel_pytree(state.params["params"])
    gradient, _ = jax.grad(made.loss, has_aux=True)(state.params, batch)
    gradient, _ = ravel_pytree(gradient["params"])
    matrix = fisher(policy, state.params, batch)
    x = np.linalg.solve(matrix + damping * np.eye(len(flat)), gradient)
    expected = -np.sqrt(2 * max_kl / (x @ matrix @ x)) * x
    after, info = made.update(state, batch)
    step = ravel_pytree(after.params["params"])[0] - flat
    np.testing.assert_allclose(step, expected, rtol=1e-6, atol=1e-9)
    assert step @ matrix @ step / 2 == pytest.approx(max_kl, rel=1e-6)
    assert float(info["kl"]) == pytest.approx(max_kl, rel=0.05)
    assert float(info["grad_norm"]) == pytest.approx(float(jnp.linalg.norm(gradient)))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_products_with_the_fisher_matrix_of_joint_choices_are_those_of_the_kl():
    """Against the Hessian of the mean KL divergence."""
    policy = pgjax.JointPolicy(
        (pgjax.MultiSoftmaxPolicy((2, 3), ()), pgjax.BernoulliPolicy(2, ())), (3,), nn.tanh
    )
    rng = np.random.default_rng(1)
    params = wide(policy.init(jax.random.key(0), OBS))
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), params)
    obs, weight = rng.normal(size=(5, 4)), np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    flat, unravel = ravel_pytree(params["params"])

    def kl(new):
        old = policy.apply(params, obs)
        return weight @ old.kl(policy.apply({"params": unravel(new)}, obs))

    hessian = jax.jit(jax.hessian(kl))(flat)
    objective = Objective(policy, ESTIMATOR, ESTIMATOR)
    chunk = Batch(obs, np.zeros((5, 4)), weight, np.zeros(5), np.zeros(5), None)
    vector = rng.normal(size=flat.shape)
    product = fisher_product(objective, params, unravel(vector), chunk)
    np.testing.assert_allclose(product, hessian @ vector, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("float64")
def test_conjugate_gradients_solve_linear_equations():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    matrix, b = root @ root.T + np.eye(6), rng.normal(size=6)
    x, residual = conjugate_gradients(lambda v: matrix @ v, jnp.array(b), 6)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-9)
    np.testing.assert_allclose(residual, 0.0, atol=1e-9)
    few, residual = conjugate_gradients(lambda v: matrix @ v, jnp.array(b), 2)
    np.testing.assert_allclose(residual, b - matrix @ few, atol=1e-12)
    x, _ = conjugate_gradients(lambda v: matrix @ v, jnp.zeros(6), 3)
    assert not x.any()


def surrogate(policy, old, new, batch, advantage):
    """Mean gain in ratio * advantage, and mean KL(old, new), row by row in NumPy."""
    real = batch.weight > 0
    before, after = policy.apply(old, batch.obs), policy.apply(new, batch.obs)
    ratio = np.exp(after.log_prob(batch.action) - before.log_prob(batch.action))
    return float(((ratio - 1) * advantage)[real].mean()), float(before.kl(after)[real].mean())


def between(params, other, share):
    return jax.tree.map(lambda x, y: x + share * (y - x), params, other)


@pytest.mark.usefixtures("float64")
def test_the_line_search_shortens_a_step_until_it_improves_within_the_kl_divergence():
    max_kl = 3.0  # nats, where the second order is far from the divergence
    plain, state, batch = case(GAUSSIAN, True, max_kl=max_kl)
    searching = algorithm(GAUSSIAN, max_kl=max_kl, line_search=True)
    full, free = plain.update(state, batch)
    after, info = searching.update(state, batch)
    advantage = ESTIMATOR(batch, None, None)
    gain, kl = surrogate(GAUSSIAN, state.params, after.params, batch, advantage)
    size = float(info["step_size"])
    tries = np.log(size) / np.log(0.8)
    assert 0 < round(tries) <= 10
    assert tries == pytest.approx(round(tries), abs=1e-5)
    assert gain > 0
    assert float(info["kl"]) == pytest.approx(kl)
    assert kl <= max_kl
    assert float(free["step_size"]) == 1.0
    short, _ = ravel_pytree(after.params["params"])
    expected = ravel_pytree(between(state.params, full.params, size)["params"])[0]
    np.testing.assert_allclose(short, expected, rtol=1e-6, atol=1e-12)
    longer = between(state.params, full.params, size / 0.8)
    gain, kl = surrogate(GAUSSIAN, state.params, longer, batch, advantage)
    assert gain <= 0 or kl > max_kl  # the step before was refused


@pytest.mark.parametrize("line_search", [False, True])
def test_without_an_advantage_the_policy_stays(line_search):
    rng = np.random.default_rng(0)
    batch = make_rollout(rng, [4, 4])
    batch = batch._replace(reward=np.zeros_like(batch.reward))
    made = algorithm(SOFTMAX, line_search=line_search)
    state = made.init(jax.random.key(0), OBS)
    after, info = made.update(state, batch)
    assert_trees_equal(after.params, state.params)
    assert float(info["kl"]) == float(info["grad_norm"]) == 0.0
    assert float(info["step_size"]) == (0.0 if line_search else 1.0)


def test_the_optimiser_fits_the_critic_and_nothing_else():
    rng = np.random.default_rng(0)
    batch = make_rollout(rng, LENGTHS)
    parts = {"critic": pgjax.ValueNetwork((4,)), "estimator": gae(0.9, 0.9)}
    with_critic, still = (
        pgjax.npg(SOFTMAX, critic_optimizer=optimizer, minibatch_size=40, num_epochs=3, **parts)
        for optimizer in (optax.adam(0.05), optax.set_to_zero())
    )
    state = with_critic.init(jax.random.key(0), OBS)
    (fitted, info), (kept, before) = (x.update(state, batch) for x in (with_critic, still))
    assert_trees_equal(kept.params["critic"], state.params["critic"])
    for x, y in zip(*map(jax.tree.leaves, (fitted.params, kept.params)), strict=True):
        assert x.shape == y.shape
    np.testing.assert_allclose(
        *(ravel_pytree(x.params["params"])[0] for x in (fitted, kept)), rtol=1e-5
    )
    assert int(info["optimizer_steps"]) == 3 * 2
    assert float(info["value_loss"]) < float(before["value_loss"])
    assert [x.shape for x in jax.tree.leaves(state.opt_state[0].mu)] == [
        x.shape for x in jax.tree.leaves(state.params["critic"])
    ]


@pytest.mark.slow
def test_an_update_learns_a_bandit():
    """The reward is the action: a few steps of 0.05 nats make action 1 likely."""
    rng = np.random.default_rng(0)
    made = pgjax.npg(pgjax.SoftmaxPolicy(2, ()), max_kl=0.05)
    state = made.init(jax.random.key(0), OBS)
    for _ in range(8):
        batch = make_rollout(rng, [1] * 64)
        batch = batch._replace(reward=batch.action.astype(np.float32))
        state, _ = made.update(state, batch)
    logits = pgjax.SoftmaxPolicy(2, ()).apply(state.params, batch.obs).logits
    assert float(jax.nn.softmax(logits)[..., 1].mean()) > 0.8


class NoKL(nn.Module):
    @nn.compact
    def __call__(self, obs):
        class Plain(pgjax.distributions.Categorical):
            kl = None

        return Plain(nn.Dense(2)(obs))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_kl": 0.0}, "max_kl must be finite and above 0"),
        ({"max_kl": np.inf}, "max_kl must be finite"),
        ({"max_kl": np.nan}, "max_kl must be finite"),
        ({"damping": -0.1}, "damping must be finite and at least 0"),
        ({"cg_steps": 0}, "cg_steps must be an integer"),
        ({"line_search": 1}, "line_search must be True or False"),
        ({"num_epochs": 0}, "num_epochs must be an integer"),
        ({"critic_optimizer": optax.adam(0.1)}, "pass both"),
        ({"critic": pgjax.ValueNetwork()}, "pass both"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        pgjax.npg(SOFTMAX, **options)


class Opaque(nn.Module):
    """Its distribution is no pytree."""

    @nn.compact
    def __call__(self, obs):
        class Wrapped:
            def __init__(self, inner):
                for name in ("sample", "log_prob", "entropy", "mode", "kl"):
                    setattr(self, name, getattr(inner, name))

        return Wrapped(pgjax.distributions.Categorical(nn.Dense(2)(obs)))


def test_a_distribution_that_is_no_pytree_is_refused():
    made = pgjax.npg(Opaque())
    state = made.init(jax.random.key(0), OBS)
    with pytest.raises(pgjax.ConfigError, match="a pytree of floating arrays"):
        made.update(state, make_rollout(np.random.default_rng(0), [3]))


def test_a_distribution_without_kl_is_refused():
    made = pgjax.npg(NoKL())
    state = made.init(jax.random.key(0), OBS)
    batch = make_rollout(np.random.default_rng(0), [3])
    with pytest.raises(pgjax.ConfigError, match="without a method kl"):
        made.update(state, batch)
