from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, make_rollout

import pgjax
from pgjax import advantages
from pgjax.numerics.sums import sum_rows

OBS = np.zeros(4, np.float32)


def gaussian_actions(rng):
    return lambda shape: rng.normal(size=(*shape, 2)).astype(np.float32)


def plain():
    return pgjax.reinforce(pgjax.SoftmaxPolicy(2, (8,)), optax.adam(0.01))


def with_critic(**options):
    return pgjax.reinforce(
        pgjax.GaussianPolicy(2, (8,)),
        optax.adam(0.01),
        critic=pgjax.ValueNetwork((8,)),
        estimator=advantages.normalized(advantages.gae(0.9, 0.9)),
        entropy_coef=0.01,
        **options,
    )


@pytest.fixture(scope="module", params=["softmax", "critic"])
def case(request):
    """An algorithm, its state, and what makes its rollouts."""
    algorithm = plain() if request.param == "softmax" else with_critic()

    def rollout(rng, lengths, **options):
        action = None if request.param == "softmax" else gaussian_actions(rng)
        return make_rollout(rng, lengths, action=action, **options)

    return algorithm, algorithm.init(jax.random.key(0), OBS), rollout


def test_an_algorithm_is_five_functions():
    init, act, log_prob, loss, update = plain()
    state = init(jax.random.key(0), OBS)
    assert act(state.params, jax.random.key(1), OBS).shape == ()
    assert act(state.params, jax.random.key(2), np.zeros((5, 4), np.float32)).shape == (5,)
    assert log_prob(state.params, OBS, jnp.array(1)).shape == ()
    batch = make_rollout(np.random.default_rng(0), [3])
    assert loss(state.params, batch)[0].shape == ()
    assert int(update(state, batch)[0].step) == 1


def test_policies_read_the_state_with_and_without_a_critic(case):
    algorithm, state, _ = case
    policy = (
        pgjax.GaussianPolicy(2, (8,)) if "critic" in state.params else pgjax.SoftmaxPolicy(2, (8,))
    )
    dist = policy.apply(state.params, OBS)
    action = dist.mode()
    np.testing.assert_allclose(
        dist.log_prob(action), algorithm.log_prob(state.params, OBS, action), rtol=1e-6
    )


def test_act_draws_row_by_row_from_a_batch_of_keys(case):
    algorithm, state, _ = case
    obs = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    keys = jax.random.split(jax.random.key(7), 3)
    rows = [algorithm.act(state.params, k, o) for k, o in zip(keys, obs, strict=True)]
    np.testing.assert_allclose(algorithm.act(state.params, keys, obs), np.stack(rows), rtol=1e-5)


@pytest.mark.parametrize("padding", [np.nan, 1e30, -np.inf])
@pytest.mark.parametrize("time", [128, 512, 2048])
def test_padding_changes_no_bit(case, padding, time):
    algorithm, state, rollout = case
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


def test_update_steps_along_the_gradient_of_the_loss(rng):
    batch = make_rollout(rng, [50, 20], action=gaussian_actions(rng))
    algorithm = pgjax.reinforce(
        pgjax.GaussianPolicy(2, (8,)), optax.sgd(1.0), critic=pgjax.ValueNetwork((8,)),
        estimator=advantages.gae(0.9, 0.9), entropy_coef=0.01,
    )  # fmt: skip
    state = algorithm.init(jax.random.key(0), OBS)
    gradient = jax.grad(algorithm.loss, has_aux=True)(state.params, batch)[0]
    stepped = algorithm.update(state, batch)[0].params
    for g, before, after in zip(
        *(jax.tree.leaves(x) for x in (gradient, state.params, stepped)), strict=True
    ):
        np.testing.assert_allclose(before - after, g, rtol=1e-3, atol=1e-4)


def test_gradient_is_that_of_finite_differences_at_fixed_advantages():
    """In float64, with the estimator frozen as data: so no gradient leaks through advantages."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batch = make_rollout(rng, [30, 11], action=gaussian_actions(rng))
        batch = pgjax.Rollout(
            *(x.astype(np.float64) if x.dtype == np.float32 else x for x in batch)
        )
        # As if from a critic: depends on the parameters through value, which must not matter.
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


def test_info_by_hand(case):
    algorithm, state, rollout = case
    batch = rollout(np.random.default_rng(0), [2, 3], time=8, terminated=[True, False])
    reward = np.zeros_like(batch.reward)
    reward[:2, 0], reward[:3, 1] = [1, 2], [4, 5, 6]
    info = algorithm.update(state, batch._replace(reward=reward))[1]
    expected = {
        "episodes": 2, "env_steps": 5, "mean_return": 9, "min_return": 3, "max_return": 15,
        "mean_length": 2.5, "min_length": 2, "max_length": 3, "truncated_fraction": 0.5,
    }  # fmt: skip
    assert {k: float(info[k]) for k in expected} == expected
    assert float(info["grad_norm"]) > 0
    assert all(jnp.ndim(x) == 0 for x in info.values())
    assert ("value_loss" in info) == ("explained_variance" in info) == ("critic" in state.params)


def test_padding_of_a_users_own_parts_does_no_harm(rng):
    """A density that is undefined at 0, an entropy that is infinite, NaN left in padded slots."""

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


def test_streams_count_their_episodes(rng):
    """Ends in the middle, a gap, padding in front: N is the number of episodes all the same."""
    batch = make_rollout(rng, [6, 6], terminated=False)
    batch.terminated[1, 0] = True
    batch.weight[3, 0] = 0.0  # steps 0 1 | 2 gap | 4 5
    batch.weight[:2, 1] = 0.0  # 2 3 4 5
    info = plain().loss(plain().init(jax.random.key(0), OBS).params, batch)[1]
    assert int(info["episodes"]) == 4
    assert int(info["env_steps"]) == 9
    assert float(info["mean_length"]) == 9 / 4


def test_update_is_pure_and_counts(case):
    algorithm, state, rollout = case
    batch = rollout(np.random.default_rng(0), [5, 5])
    first, second = algorithm.update(state, batch), algorithm.update(state, batch)
    assert_trees_equal(first, second)
    assert int(first[0].step) == int(state.step) + 1
    assert_trees_equal(first[0].key, state.key)


def test_critic_is_fitted_to_the_returns():
    """With the policy still, V goes to the return: -1 + 0.5 * -1 + ... for a constant reward."""
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


def test_sum_rows_is_exact_over_many_rows(rng):
    x = rng.integers(-1000, 1000, size=(1000, 3))
    y = rng.integers(2, size=(1000, 3)).astype(bool)
    assert [int(s) for s in sum_rows((jnp.asarray(x), jnp.asarray(y)))] == [x.sum(), y.sum()]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mean_over": "batches"}, "mean_over"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 256}, "chunk_size"),
        ({"entropy_coef": -1.0}, "entropy_coef"),
        ({"value_coef": np.nan}, "value_coef"),
    ],
)
def test_bad_arguments(options, word):
    with pytest.raises(pgjax.ConfigError, match=word):
        pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.01), **options)


def test_a_raw_key_is_refused():
    with pytest.raises(pgjax.ConfigError, match=r"jax.random.key\(seed\)"):
        plain().init(jax.random.PRNGKey(0), OBS)
    state = plain().init(jax.random.key(0), OBS)
    with pytest.raises(pgjax.ConfigError, match=r"jax.random.key\(seed\)"):
        plain().act(state.params, jax.random.PRNGKey(0), OBS)


class _Wide(nn.Module):
    """As a beginner's critic: [..., 1]."""

    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1)(obs)


class _PerDimension(NamedTuple):
    mean: jax.Array

    def sample(self, key):
        return self.mean

    def log_prob(self, action):
        return -((action - self.mean) ** 2)  # not summed

    def entropy(self):
        return self.mean.sum(-1)

    def mode(self):
        return self.mean


class _OwnPolicy(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return _PerDimension(nn.Dense(3)(obs))


class _Torso(nn.Module):
    fn: Any

    def __call__(self, obs):
        return self.fn(obs)


class _NoDistribution(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(2)(obs)


def _less_the_value(rollout, value, next_value):
    return rollout.reward - value


def _of_what_is_not_there(rollout, value, next_value):
    return rollout.rewards


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (pgjax.SoftmaxPolicy(2), {"critic": _Wide()}, r"critic gives \(2, 1\) for two"),
        (_OwnPolicy(), {}, r"log_prob gives \(2, 3\) for two"),
        (pgjax.SoftmaxPolicy(2), {"estimator": advantages.gae(0.9, 0.9)}, "there is none"),
        (pgjax.SoftmaxPolicy(2), {"estimator": lambda r, v, w: r.reward.sum(0)}, r"gives \(2,\)"),
        (
            pgjax.SoftmaxPolicy(2),
            {"estimator": _less_the_value},
            "estimator fails .*without a critic",
        ),
        (pgjax.SoftmaxPolicy(2), {"estimator": _of_what_is_not_there}, "no attribute 'rewards'"),
        (_NoDistribution(), {}, "_NoDistribution fails .*a policy gives a distribution"),
        (pgjax.SoftmaxPolicy(2, torso=_Torso(jnp.ravel)), {}, "SoftmaxPolicy fails .*two obs"),
        (pgjax.SoftmaxPolicy(2, torso=_Torso(jnp.sum)), {}, "SoftmaxPolicy fails"),
        (pgjax.SoftmaxPolicy(2, torso=_Torso(lambda x: (x, x))), {}, "SoftmaxPolicy fails"),
        (
            pgjax.SoftmaxPolicy(2),
            {"critic": pgjax.ValueNetwork(torso=_Torso(jnp.sum))},
            "ValueNetwork fails .*a critic takes",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told_before_the_first_step(policy, options, words):
    algorithm = pgjax.reinforce(policy, optax.adam(0.01), **options)
    with pytest.raises(pgjax.ConfigError, match=words) as e:
        algorithm.init(jax.random.key(0), OBS)
    assert "\n" not in str(e.value)


def test_observations_need_not_be_flat(rng):
    class Pictures(nn.Module):
        @nn.compact
        def __call__(self, obs):
            x = nn.Conv(2, (3, 3))(obs).reshape(*obs.shape[:-3], -1)
            return pgjax.distributions.Categorical(nn.Dense(2)(x))

    algorithm = pgjax.reinforce(Pictures(), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros((4, 4, 1), np.float32))
    batch = make_rollout(rng, [3, 2])
    obs = rng.normal(size=(*batch.weight.shape, 4, 4, 1)).astype(np.float32)
    _, info = algorithm.update(state, batch._replace(obs=obs, next_obs=obs))
    assert info["grad_norm"] > 0
