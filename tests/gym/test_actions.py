"""Every kind of space: what an environment receives for a policy's raw actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from spaces_envs import F32, KINDS, SPACES

import pgjax
from pgjax.gym.actions import actions, policy_for


@KINDS
def test_sent_actions_are_contained_in_the_space_and_vary_with_the_raw_action(kind):
    space, policy = SPACES[kind], policy_for(SPACES[kind], (4,))
    sends = actions(space)
    params = policy.init(jax.random.key(0), jnp.zeros(3))
    distribution = policy.apply(params, 3.0 * jax.random.normal(jax.random.key(1), (64, 3)))
    raw = np.asarray(distribution.sample(jax.random.key(2)))
    assert raw.shape == (64, *sends.shape)
    assert sends.discrete == np.issubdtype(raw.dtype, np.integer)
    sent = list(sends.send(raw))
    assert all(space.contains(action) for action in sent)
    # Every number varies, except a Discrete with one value.
    flat = np.stack([spaces.flatten(space, action) for action in sent]).astype(float)
    assert ((flat.max(0) - flat.min(0)) > 0).sum() >= flat.shape[1] - 1


@pytest.mark.parametrize(("kind", "raw", "sent"), [
    ("Discrete", [0, 2], [-1, 1]),
    ("MultiDiscrete", [[0, 0, 0], [1, 2, 3]], [[-1, 0, 5], [0, 2, 8]]),
    ("MultiDiscrete 2-d", [[1, 2, 0, 3]], [[[1, 2], [0, 3]]]),
    ("MultiBinary 2-d", [[1, 0, 0, 1]], [[[1, 0], [0, 1]]]),
    ("Box", [[9.0, 0.0], [0.1, 3.0]], [[0.3, 2.0], [0.1, 3.0]]),
    ("Box, half infinite", [[-5.0, -5.0], [5.0, 5.0]], [[0.0, -5.0], [5.0, 0.1]]),
    ("Box of integers", [[-2.6, 1.4]], [[-2, 1]]),
])  # fmt: skip
def test_sent_actions_against_values_by_hand(kind, raw, sent):
    got = actions(SPACES[kind]).send(np.array(raw))
    np.testing.assert_allclose(np.asarray(got, float), sent, rtol=1e-6)


@pytest.mark.parametrize(("space", "squash", "raw", "sent"), [
    (spaces.Box(0, 1, (2,), bool), False, [[0.2, 0.9], [-3.0, 7.0]], [[0, 1], [0, 1]]),
    (spaces.Box(0, 1, (2,), bool), True, [[-9.0, 9.0]], [[0, 1]]),
    (spaces.Box(0, 2**63 - 1, (1,), np.int64), False, [[1e20], [-1.0]], [[2**63 - 1], [0]]),
    (spaces.Box(0, 2**64 - 1, (1,), np.uint64), False, [[1e30], [5.2]], [[2**64 - 1], [5]]),
    (spaces.Box(-6e4, 6e4, (1,), np.float16), True, [[-99.0], [0.0], [99.0]], [[-6e4], [0], [6e4]]),
    (spaces.MultiDiscrete(np.array(5)), False, [[3]], [3]),
    (spaces.MultiBinary(()), False, [[1]], [1]),
])  # fmt: skip
def test_sent_actions_of_unusual_dtypes_and_shapes(space, squash, raw, sent):
    got = list(actions(space, squash).send(np.array(raw)))
    assert all(space.contains(action) for action in got)
    np.testing.assert_array_equal(np.array(got, object).astype(float), np.array(sent, float))


def test_sent_actions_of_dict_and_tuple_against_values_by_hand():
    """Numbers are in the order of the space: b before a, z before w."""
    [sent] = actions(SPACES["Dict"]).send(np.array([[2.0, 0.2, 7.0]], F32))
    np.testing.assert_allclose(sent["a"], [0.2, 0.5], rtol=1e-6)
    assert sent["b"] == 1
    [sent] = actions(SPACES["Dict"], squash=True).send(np.array([[2.0, 0.0, 99.0]], F32))
    np.testing.assert_allclose(sent["a"], [0.25, 0.5], rtol=1e-6)
    [sent] = actions(SPACES["Tuple"]).send(np.array([[1, 0, 1]], np.int32))
    assert (sent[0].tolist(), sent[1]) == ([1, 0], 1)
    row = np.array([[1.0, 2.0, 0.5, 0.0, 1.0, 300.0, 7.4]], F32)
    [sent] = actions(SPACES["nested"]).send(row)
    assert sent["x"][0].tolist() == [2, 1]
    assert float(sent["x"][1]) == 0.5
    assert sent["y"]["w"].tolist() == [[255], [7]]
    assert sent["y"]["z"].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "MultiBinary"])
@pytest.mark.parametrize("wrong", [-1, 9])
def test_a_choice_outside_the_space_is_refused(kind, wrong):
    sends = actions(SPACES[kind])
    raw = np.zeros((2, *sends.shape), np.int32)
    raw[1] = wrong
    with pytest.raises(pgjax.SpaceError, match=f"chose {wrong}, but .* choices 0 to"):
        sends.send(raw)


@KINDS
def test_log_prob_and_entropy_sum_over_the_parts_of_a_space(kind):
    """If all parts are discrete, all actions are enumerated: probabilities sum to 1."""
    policy = policy_for(SPACES[kind], (4,))
    params = policy.init(jax.random.key(0), jnp.zeros(3))
    distribution = policy.apply(params, jnp.array([1.0, -2.0, 0.5]))
    sizes = _choices(distribution)
    if sizes is None:
        raw = distribution.sample(jax.random.key(3))
        assert np.isfinite(distribution.log_prob(raw))
        assert distribution.log_prob(raw).shape == distribution.entropy().shape == ()
        return
    every = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    every = jnp.asarray(every[:, 0] if kind == "Discrete" else every)
    log_p = jax.vmap(distribution.log_prob)(every)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(-(jnp.exp(log_p) * log_p).sum(), distribution.entropy(), rtol=1e-5)


def _choices(distribution):
    """Return how many values each number of an action takes; None if some are continuous."""
    match type(distribution).__name__:
        case "Categorical":
            return [distribution.logits.shape[-1]]
        case "MultiCategorical":
            return [x.shape[-1] for x in distribution.logits]
        case "Bernoulli":
            return [2] * distribution.logits.shape[-1]
        case "Joint":
            parts = [_choices(part) for part in distribution.parts]
            return None if None in parts else [n for part in parts for n in part]
    return None
