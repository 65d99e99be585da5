import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import import_with_torch, make_rollout

import pgjax
from pgjax import advantages

BAD = [np.nan, 1e30]


def by_hand(rollout, gamma, value=None, next_value=None):
    """Reward-to-go of each column, as a plain sum."""
    out = np.zeros_like(rollout.reward)
    for b in range(out.shape[1]):
        length = int(rollout.weight[:, b].sum())
        for t in range(length):
            out[t, b] = sum(gamma ** (k - t) * rollout.reward[k, b] for k in range(t, length))
            if value is not None:
                out[t, b] -= value[t, b]
                if not rollout.terminated[length - 1, b]:
                    out[t, b] += gamma ** (length - t) * next_value[length - 1, b]
    return out


@pytest.mark.parametrize("padding", [0.0, *BAD])
def test_reward_to_go_with_and_without_a_critic(rng, padding):
    rollout = make_rollout(rng, [3, 8, 1], terminated=[True, False, False], padding=padding)
    value = rng.normal(size=(8, 3)).astype(np.float32)
    next_value = rng.normal(size=(8, 3)).astype(np.float32)
    estimate = advantages.reward_to_go(gamma=0.9)
    np.testing.assert_allclose(
        estimate(rollout, None, None), by_hand(rollout, 0.9), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        estimate(rollout, value, next_value),
        by_hand(rollout, 0.9, value, next_value),
        rtol=1e-5,
        atol=1e-5,
    )


def test_reward_scale_scales(rng):
    rollout = make_rollout(rng, [5, 8])
    value = jnp.zeros((8, 2))
    for make in (advantages.reward_to_go, functools.partial(advantages.gae, lambda_=0.9)):
        plain = make(0.9)(rollout, value, value)
        scaled = make(0.9, reward_scale=0.25)(rollout, value, value)
        np.testing.assert_allclose(scaled, 0.25 * plain, rtol=1e-6)


def test_gae_at_lambda_one_is_reward_to_go(rng):
    rollout = make_rollout(rng, [3, 8, 5], terminated=[True, False, False], padding=np.nan)
    value, next_value = rng.normal(size=(2, 8, 3)).astype(np.float32)
    # next_value of a step is the value of the next step
    value[1:] = next_value[:-1]
    np.testing.assert_allclose(
        advantages.gae(0.9, 1.0)(rollout, value, next_value),
        advantages.reward_to_go(0.9)(rollout, value, next_value),
        rtol=1e-4,
        atol=1e-5,
    )


def test_gae_without_a_critic_says_what_to_do(rng):
    with pytest.raises(pgjax.ConfigError, match="critic"):
        advantages.gae()(make_rollout(rng, [2]), None, None)


def test_normalized_equals_torch_over_real_steps(rng):
    torch = import_with_torch("torch")
    rollout = make_rollout(rng, [3, 8, 5], padding=np.nan)
    plain = np.asarray(advantages.reward_to_go(0.9)(rollout))
    real = rollout.weight > 0
    x = torch.tensor(plain[real])
    expected = np.zeros_like(plain)
    expected[real] = (x - x.mean()) / (x.std() + 1e-9)
    result = advantages.normalized(advantages.reward_to_go(0.9))(rollout)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e20, 3e37])
def test_normalized_is_the_same_at_every_scale(rng, scale):
    estimator = advantages.normalized(advantages.reward_to_go(0.9))
    rollout = make_rollout(rng, [3, 8, 5], padding=np.nan)
    expected = estimator(rollout)
    assert np.abs(expected).max() > 1
    large = rollout._replace(reward=np.float32(scale) * rollout.reward)
    np.testing.assert_allclose(estimator(large), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [[1], [5], [300, 7]])
@pytest.mark.parametrize("reward", [0.1, 1.0, 1e6])
def test_equal_advantages_normalise_to_exactly_zero(rng, lengths, reward):
    rollout = make_rollout(rng, lengths)
    rollout = rollout._replace(reward=np.full_like(rollout.reward, reward))
    result = advantages.normalized(advantages.reward_to_go(gamma=0.0))(rollout)
    np.testing.assert_array_equal(result, 0.0)


def test_leave_one_out_by_hand(rng):
    rollout = make_rollout(rng, [2, 1, 2])
    reward = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 5.0]], np.float32)
    result = advantages.leave_one_out(advantages.reward_to_go(1.0))(rollout._replace(reward=reward))
    # rewards-to-go 5 2 8, then 4 - 5; means of the others 5 6.5 3.5, then 2.5 - 2
    np.testing.assert_allclose(result, [[0.0, -4.5, 4.5], [1.5, 0.0, 3.0]])


def test_group_normalized_by_hand(rng):
    rollout = make_rollout(rng, [2, 1, 3], padding=np.nan)
    reward = np.array([[1.0, 3.0, 4.0], [1.0, np.nan, 0.0], [np.nan, np.nan, 3.0]], np.float32)
    estimator = advantages.group_normalized(advantages.reward_to_go(1.0))
    result = estimator(rollout._replace(reward=reward))
    # returns 2 3 7: mean 4, squared distances 4 + 1 + 9, over 3 - 1
    low, middle, high = np.array([-2.0, -1.0, 3.0]) / 7**0.5
    expected = [[low, middle, high], [low, 0.0, high], [0.0, 0.0, high]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("lengths", [[3], [2, 2]])
def test_a_group_of_one_or_of_equal_returns_has_no_advantage(rng, lengths):
    rollout = make_rollout(rng, lengths)
    rollout = rollout._replace(reward=np.full_like(rollout.reward, 0.1))
    result = advantages.group_normalized(advantages.reward_to_go(1.0))(rollout)
    np.testing.assert_array_equal(result, 0.0)


def test_leave_one_out_needs_another_episode(rng):
    with pytest.raises(pgjax.ConfigError, match="at least 2"):
        advantages.leave_one_out(advantages.reward_to_go())(make_rollout(rng, [4]), None, None)


def test_time_discounted_weights_by_gamma_to_the_t_and_restarts_with_an_episode(rng):
    rollout = make_rollout(rng, [4, 3])
    rollout.terminated[1, 0] = True  # a stream: an episode of two steps, then another

    def ones(rollout, value, next_value):
        return jnp.asarray(rollout.weight)

    result = advantages.time_discounted(ones, 0.5)(rollout, None, None)
    np.testing.assert_allclose(result, [[1, 1], [0.5, 0.5], [1, 0.25], [0.5, 0]])


def test_streams_are_split_at_episode_ends(rng):
    """A column with an end in the middle holds two episodes, one after the other."""
    joined = make_rollout(rng, [6])
    joined.terminated[2, 0] = True
    halves = [pgjax.Rollout(*(x[part] for x in joined)) for part in (slice(3), slice(3, 6))]
    estimate = advantages.reward_to_go(0.9)
    expected = np.concatenate([estimate(half) for half in halves])
    np.testing.assert_allclose(estimate(joined), expected, rtol=1e-6)


@pytest.mark.parametrize("padding", [0.0, np.nan])
def test_a_gap_of_padding_separates_episodes(rng, padding):
    """Two parts of a column with a gap between them give the same as two columns."""
    joined = make_rollout(rng, [7], terminated=False)
    value, next_value = rng.normal(size=(2, 7, 1)).astype(np.float32)
    joined.weight[3] = 0.0
    for leaf in (joined.obs, joined.reward, joined.next_obs, value, next_value):
        leaf[3] = padding
    halves = [slice(0, 3), slice(4, 7)]
    for make in (
        advantages.reward_to_go(0.9),
        advantages.gae(0.9, 0.8),
        advantages.time_discounted(advantages.gae(0.9, 0.8), 0.9),
    ):
        whole = np.asarray(make(joined, value, next_value))
        assert whole[3] == 0
        for part in halves:
            half = pgjax.Rollout(*(x[part] for x in joined))
            np.testing.assert_allclose(
                whole[part], make(half, value[part], next_value[part]), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("wrapper", [advantages.leave_one_out, advantages.group_normalized])
def test_a_column_of_padding_is_no_episode(rng, wrapper):
    rollout = make_rollout(rng, [3, 4])
    wider = pgjax.Rollout(*(np.concatenate([x, np.zeros_like(x[:, :1])], 1) for x in rollout))
    estimate = wrapper(advantages.reward_to_go(0.9))
    np.testing.assert_allclose(estimate(wider)[:, :2], estimate(rollout), rtol=1e-6)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, np.nan])
def test_discounts_out_of_range_are_refused(gamma):
    for make in (advantages.reward_to_go, advantages.gae):
        with pytest.raises(pgjax.ConfigError, match="gamma"):
            make(gamma)


INNER = [advantages.reward_to_go(0.9), advantages.gae(0.9, 0.8)]
WRAPPERS = [
    advantages.normalized,
    advantages.group_normalized,
    advantages.leave_one_out,
    advantages.time_discounted,
]


@pytest.mark.parametrize("estimator", INNER, ids=["reward_to_go", "gae"])
def test_the_target_of_the_critic_is_advantage_plus_value(rng, estimator):
    rollout = make_rollout(rng, [3, 8], terminated=[True, False])
    value, next_value = rng.normal(size=(2, 8, 2)).astype(np.float32)
    target = advantages.value_target_of(estimator)(rollout, value, next_value)
    np.testing.assert_array_equal(target, estimator(rollout, value, next_value) + value)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_keep_the_target_of_the_critic(wrapper):
    for inner in INNER:
        assert wrapper(inner).value_target is inner.value_target
        assert wrapper(wrapper(inner)).value_target is inner.value_target


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_plain_functions_declare_no_target(wrapper):
    def plain(rollout, value, next_value):
        return rollout.reward

    assert advantages.value_target_of(plain) is None
    assert wrapper(plain).value_target is None


def test_estimators_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        advantages.gae().value_target = None


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("part", [np.s_[:, 0], np.s_[:, :1], np.s_[..., None]])
def test_wrappers_refuse_what_would_broadcast(rng, wrap, part):
    rollout = make_rollout(rng, [2, 2])  # a row [2] would broadcast along the columns
    estimator = wrap(lambda rollout, value, next_value: rollout.reward[part])
    words = r"the estimator gives \(2"
    with jax.numpy_rank_promotion("allow"), pytest.raises(pgjax.ConfigError, match=words):
        estimator(rollout)


@pytest.mark.parametrize("estimator", [advantages.reward_to_go(), advantages.gae()])
def test_values_of_another_shape_are_refused(rng, estimator):
    rollout = make_rollout(rng, [2, 2])
    value = np.ones((2, 2), np.float32)
    for wrong in (value[0], value[:, :1], value[..., None]):
        for name, values in (("value", (wrong, value)), ("next_value", (value, wrong))):
            words = f"^{name} has shape"
            with jax.numpy_rank_promotion("allow"), pytest.raises(pgjax.ConfigError, match=words):
                estimator(rollout, *values)


def test_discounts_may_be_arrays_of_one_number(rng):
    rollout = make_rollout(rng, [3, 2])
    value = np.ones((3, 2), np.float32)
    for make in (
        advantages.reward_to_go,
        lambda x: advantages.gae(x, x),
        lambda x: advantages.time_discounted(advantages.reward_to_go(x), x),
    ):
        expected = make(0.5)(rollout, value, value)
        for gamma in (np.float32(0.5), np.array(0.5), jnp.float32(0.5)):
            np.testing.assert_allclose(make(gamma)(rollout, value, value), expected, rtol=1e-6)
        traced = jax.vmap(lambda x, make=make: make(x)(rollout, value, value))(np.float32([0.5]))
        np.testing.assert_allclose(traced[0], expected, rtol=1e-5)
        for wrong in (1.5, jnp.float32(-0.1), np.nan, "0.5", np.array([0.5, 0.5])):
            with pytest.raises(pgjax.ConfigError, match="gamma must be"):
                make(wrong)


def test_an_estimator_says_how_it_was_made():
    def mine(rollout, value, next_value):
        return rollout.reward

    composed = advantages.time_discounted(
        advantages.normalized(advantages.leave_one_out(advantages.reward_to_go(1, reward_scale=2))),
        0.9,
    )
    assert repr(composed) == (
        "time_discounted(normalized(leave_one_out(reward_to_go(1, reward_scale=2))), 0.9)"
    )
    assert repr(advantages.group_normalized(mine)) == "group_normalized(mine)"
    assert repr(advantages.normalized(jax.tree_util.Partial(mine))) == "normalized(Partial)"
    assert repr(advantages.AdvantageEstimator(mine)) == "mine"
    assert f"{advantages.gae(np.float32(0.5), jnp.float32(0.25))}" == "gae(0.5, 0.25)"
    jax.jit(lambda gamma: jnp.zeros(len(repr(advantages.gae(gamma)))))(0.5)  # a tracer has a name
