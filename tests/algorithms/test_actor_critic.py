from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import KINDS, OBS, algorithm_case, plain
from conftest import assert_trees_equal, make_rollout

import pgjax
from pgjax import advantages, distributions


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_applies_to_the_params_with_and_without_a_critic(kind):
    algorithm, state, _ = algorithm_case(kind)
    policy = (
        pgjax.GaussianPolicy(2, (8,)) if "critic" in state.params else pgjax.SoftmaxPolicy(2, (8,))
    )
    dist = policy.apply(state.params, OBS)
    action = dist.mode()
    np.testing.assert_allclose(
        dist.log_prob(action), algorithm.log_prob(state.params, OBS, action), rtol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_act_samples_row_by_row_with_a_batch_of_keys(kind):
    algorithm, state, _ = algorithm_case(kind)
    obs = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    keys = jax.random.split(jax.random.key(7), 3)
    rows = [algorithm.act(state.params, k, o) for k, o in zip(keys, obs, strict=True)]
    np.testing.assert_allclose(algorithm.act(state.params, keys, obs), np.stack(rows), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mean_over": "batches"}, "mean_over"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 256}, "chunk_size"),
        ({"entropy_coef": -1.0}, "entropy_coef"),
        ({"value_coef": np.nan}, "value_coef"),
        ({"sharding": pgjax.Sharding(0)}, "num_shards"),
    ],
)
def test_arguments_out_of_range_are_refused(options, word):
    with pytest.raises(pgjax.ConfigError, match=word):
        pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.01), **options)


def test_a_raw_key_is_refused():
    with pytest.raises(pgjax.ConfigError, match=r"jax.random.key\(seed\)"):
        plain().init(jax.random.PRNGKey(0), OBS)
    state = plain().init(jax.random.key(0), OBS)
    with pytest.raises(pgjax.ConfigError, match=r"jax.random.key\(seed\)"):
        plain().act(state.params, jax.random.PRNGKey(0), OBS)


def _rewards(rollout, value, next_value):
    return rollout.reward


def test_a_critic_without_a_target_is_refused():
    critic = pgjax.ValueNetwork((8,))
    for estimator in (_rewards, advantages.normalized(_rewards)):
        with pytest.raises(pgjax.ConfigError, match="value_target=") as e:
            pgjax.reinforce(
                pgjax.SoftmaxPolicy(2), optax.sgd(0.1), critic=critic, estimator=estimator
            )
        assert "\n" not in str(e.value)
        pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.sgd(0.1), estimator=estimator)


class _Wide(nn.Module):
    """A critic that returns [..., 1], as beginners write it."""

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


class _OneRowOnly(nn.Module):
    """A critic that works for one observation, and fails for two."""

    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1)(obs.reshape(4))[0]


def _minus_value(rollout, value, next_value):
    return rollout.reward - value


def _missing_field(rollout, value, next_value):
    return rollout.rewards


def _per_column(rollout, value, next_value):
    return rollout.reward.sum(0)


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (pgjax.SoftmaxPolicy(2), {"critic": _Wide()}, r"critic gives \(2, 1\) for two"),
        (pgjax.SoftmaxPolicy(2), {"critic": _OneRowOnly()}, "_OneRowOnly fails .*each row"),
        (_OwnPolicy(), {}, r"log_prob gives \(2, 3\) for two"),
        (pgjax.SoftmaxPolicy(2), {"estimator": advantages.gae(0.9, 0.9)}, "there is none"),
        (pgjax.SoftmaxPolicy(2), {"estimator": _per_column}, r"estimator gives \(2,\)"),
        (
            pgjax.SoftmaxPolicy(2),
            {"critic": pgjax.ValueNetwork(), "value_target": _per_column},
            r"value_target gives \(2,\)",
        ),
        (pgjax.SoftmaxPolicy(2), {"estimator": _minus_value}, "estimator fails .*without a critic"),
        (pgjax.SoftmaxPolicy(2), {"estimator": _missing_field}, "no attribute 'rewards'"),
        (_NoDistribution(), {}, "_NoDistribution fails .*a policy returns a distribution"),
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
def test_init_refuses_parts_that_do_not_fit(policy, options, words):
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


class _SharedStd(nn.Module):
    """A Gaussian whose std is [d], the same for all rows."""

    @nn.compact
    def __call__(self, obs):
        std = self.param("std", lambda key: jnp.array([0.1, 10.0]))
        return distributions.DiagonalGaussian(nn.Dense(2)(obs), std)


@pytest.mark.parametrize("rows", [2, 3])  # 2 is also the number of stds
def test_acting_on_rows_is_acting_on_each(rows):
    algorithm = pgjax.reinforce(_SharedStd(), optax.sgd(1.0))
    obs = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    params = algorithm.init(jax.random.key(0), obs).params
    keys = jax.random.split(jax.random.key(1), rows)
    expected = [algorithm.act(params, key, row) for key, row in zip(keys, obs, strict=True)]
    np.testing.assert_allclose(algorithm.act(params, keys, obs), expected, rtol=1e-5, atol=1e-6)


def test_rewards_are_clipped_for_the_estimator_but_not_for_the_metrics(rng):
    batch = make_rollout(rng, [5, 3])
    reward = np.where(batch.weight > 0, 3 * rng.normal(size=batch.reward.shape), 0)
    batch = batch._replace(reward=reward.astype(np.float32))
    clipped = batch._replace(reward=batch.reward.clip(-0.5, 0.5))
    algorithm, without = (
        pgjax.reinforce(pgjax.SoftmaxPolicy(2, ()), optax.adam(0.01), **options)
        for options in ({"reward_clip": 0.5}, {})
    )
    params = algorithm.init(jax.random.key(0), OBS).params
    (loss, info), (expected, _) = algorithm.loss(params, batch), without.loss(params, clipped)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(info["mean_return"], batch.reward.sum() / 2, rtol=1e-5)
    assert abs(loss - without.loss(params, batch)[0]) > 1e-3


def test_normalised_rewards_are_clipped_after_the_division(rng):
    """Returns of 4 before: the second update divides rewards by 4, and then clips them to 0.5."""
    batch = make_rollout(rng, [1, 1])
    batch = batch._replace(reward=np.float32([[4.0, 4.0]]))
    later = batch._replace(reward=np.float32([[8.0, 1.0]]))
    estimator = advantages.reward_to_go(0.9)
    algorithm, plain_algorithm = (
        pgjax.reinforce(
            pgjax.SoftmaxPolicy(2, ()), optax.set_to_zero(), estimator=estimator, **options
        )
        for options in ({"reward_clip": 0.5, "normalize_rewards": 0.9}, {})
    )
    state, _ = algorithm.update(algorithm.init(jax.random.key(0), OBS), batch)
    seen = later._replace(reward=np.float32([[0.5, 0.25]]))
    np.testing.assert_allclose(
        algorithm.loss(state.params, later)[0],
        plain_algorithm.loss(state.params, seen)[0],
        rtol=1e-6,
    )


def test_hyperparameters_may_be_traced(rng):
    """vmap over them gives what a Python loop gives, and jitted constants are checked."""
    batch = make_rollout(rng, [5, 3], action=lambda shape: rng.normal(size=(*shape, 1)))
    batch = batch._replace(action=batch.action.astype(np.float32))

    def parts(gamma, coef):
        estimator = advantages.time_discounted(advantages.gae(gamma, gamma), gamma)
        return pgjax.reinforce(
            pgjax.GaussianPolicy(1, ()), optax.sgd(0.1), critic=pgjax.ValueNetwork(()),
            estimator=estimator, entropy_coef=coef, value_coef=coef, normalize_rewards=gamma,
        )  # fmt: skip

    first = parts(0.5, 0.5).init(jax.random.key(0), OBS)

    @jax.jit
    def params_after(gamma, coef):
        algorithm = parts(gamma, coef)
        return jax.lax.fori_loop(0, 2, lambda _, s: algorithm.update(s, batch)[0], first).params

    gammas, coefs = np.float32([0.5, 0.9]), np.float32([0.0, 0.2])
    mapped = jax.jit(jax.vmap(params_after))(gammas, coefs)
    for i, (gamma, coef) in enumerate(zip(gammas, coefs, strict=True)):
        algorithm, state = parts(float(gamma), float(coef)), first
        for _ in range(2):
            state, _ = algorithm.update(state, batch)
        for many, one in zip(jax.tree.leaves(mapped), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(many[i], one, rtol=1e-4, atol=1e-6)


def test_known_hyperparameters_are_checked_while_others_are_traced():
    constant = jnp.float32(1.5)
    with pytest.raises(pgjax.ConfigError, match="gamma must be in"):
        jax.jit(lambda: advantages.reward_to_go(constant))()
    with pytest.raises(pgjax.ConfigError, match="gamma must be one number"):
        jax.jit(advantages.reward_to_go)(np.ones(2))


@pytest.mark.slow
def test_strict_promotion_of_dtypes():
    """Everything works under it, and means the same; optax alone does not."""
    ones, no = np.ones((4, 2), np.float32), np.zeros((4, 2), bool)
    obs = np.ones((4, 2, 3), np.float32)
    rollout = pgjax.Rollout(obs, np.ones((4, 2, 2), np.float32), ones, no, no, obs, ones)
    estimator = advantages.leave_one_out(advantages.gae(0.9, 0.9))

    def results():
        algorithm = pgjax.reinforce(
            pgjax.GaussianPolicy(2, (4,), squash=True), optax.adam(0.01),
            critic=pgjax.ValueNetwork((4,)), estimator=advantages.normalized(estimator),
            entropy_coef=0.1, normalize_rewards=0.9,
        )  # fmt: skip
        state = algorithm.init(jax.random.key(0), obs[0])
        env = pgjax.envs.make("CartPole-v1", 8)
        plain_algorithm = plain()
        begun = pgjax.init_on_device(plain_algorithm, env, jax.random.key(0))
        return (
            algorithm.update(state, rollout)[0].params,
            algorithm.act(state.params, jax.random.key(1), obs[0]),
            algorithm.log_prob(state.params, obs, rollout.action),
            pgjax.training_step(plain_algorithm, env, 2)(begun)[0].params,
            advantages.reward_to_go(0.9)(rollout),
        )

    expected = results()
    with jax.numpy_dtype_promotion("strict"):
        found = results()
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        pytest.param(pgjax.SoftmaxPolicy(2, (8,)), {}, marks=pytest.mark.slow),
        pytest.param(
            pgjax.SoftmaxPolicy(2, (8,)),
            {"chunk_size": None, "entropy_coef": 0.01},
            marks=pytest.mark.slow,
        ),
        (
            pgjax.GaussianPolicy(2, (8,)),
            {"critic": pgjax.ValueNetwork((8,)), "estimator": advantages.gae(0.9, 0.9)},
        ),
    ],
)
def test_update_gives_the_same_from_python_and_inside_a_trace(rng, policy, options):
    algorithm = pgjax.reinforce(policy, optax.adam(0.01), **options)
    gaussian = isinstance(policy, pgjax.GaussianPolicy)
    action = (lambda shape: rng.normal(size=(*shape, 2))) if gaussian else None
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    rollout = make_rollout(rng, [13, 16, 4, 9] * 3, action=action)
    new_state, values = algorithm.update(state, rollout)
    assert {type(value) for value in values.values()} == {np.float32, np.int32}
    expected, info = jax.jit(algorithm.update)(state, rollout)
    assert_trees_equal(expected, new_state)
    assert list(values) == sorted(info)
    for name, value in values.items():
        assert value.dtype == info[name].dtype
        # Metrics are compiled together with other code, which may change their last bit.
        np.testing.assert_allclose(value, info[name], rtol=1e-6, err_msg=name)
    # Here the rollout is a constant, so that no argument of `update` is traced but the state. In a
    # larger program XLA may fuse the optimiser's arithmetic with other code, and round otherwise.
    repeated, many = jax.lax.scan(
        lambda state, _: algorithm.update(state, rollout), state, None, length=2
    )
    twice, _ = algorithm.update(new_state, rollout)
    chex.assert_trees_all_close(repeated.params, twice.params, rtol=1e-5)
    assert many["entropy"].shape == (2,)
