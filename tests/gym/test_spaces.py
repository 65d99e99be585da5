"""Every kind of space: what a policy sees, what an environment receives, and the Rollout."""

import functools

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from spaces_envs import F32, FEW_KINDS, KINDS, SPACES, algorithm_for, ends, make, script

import pgjax
from pgjax.collect.noise import episode_keys, reset_seeds
from pgjax.collect.policy_fit import check_action
from pgjax.gym.actions import actions, policy_for
from pgjax.gym.spaces import image_shape, observations


@KINDS
def test_observations_are_gymnasium_s_flattened(kind):
    space = SPACES[kind]
    seen = observations(space)
    space.seed(0)
    for _ in range(20):
        obs = space.sample()
        row = seen.encode(obs)
        assert row.shape == (seen.size,)
        np.testing.assert_allclose(row, spaces.flatten(space, obs), rtol=1e-6)
        assert np.asarray(row, seen.dtype).dtype == seen.dtype


WRONG = {
    "Discrete": [2, -2, 0.5, "a", None, [0]],
    "MultiDiscrete": [[1, 0, 5], [-1, 3, 5], [-1, 0, 4], [0, 0], 0, [-1.0, 0.0, 5.0]],
    "MultiBinary": [[0, 1], [0.5, 0, 0], None],
    "Dict": [{}, {"a": [0.0, 0.0]}, {"a": [0.0, 0.0], "b": 7}, [0, 1], {"a": [0.0], "b": 0}],
    "Tuple": [([0, 1],), ([0, 1], 0, 0), ([0, 1], 2), 3],
}


@pytest.mark.parametrize(("kind", "obs"), [(k, obs) for k, all_ in WRONG.items() for obs in all_])
def test_an_observation_that_is_none_of_the_space_is_refused(kind, obs):
    with pytest.raises(ValueError, match="but the space says"):
        observations(SPACES[kind]).encode(obs)


@KINDS
def test_what_is_sent_is_contained_and_follows_from_the_raw_action(kind):
    space, policy = SPACES[kind], policy_for(SPACES[kind], (4,))
    sends = actions(space)
    params = policy.init(jax.random.key(0), jnp.zeros(3))
    distribution = policy.apply(params, 3.0 * jax.random.normal(jax.random.key(1), (64, 3)))
    raw = np.asarray(distribution.sample(jax.random.key(2)))
    assert raw.shape == (64, *sends.shape)
    check_action(sends, raw[0])
    sent = list(sends.send(raw))
    assert all(space.contains(action) for action in sent)
    # nothing is always the same, but the choice of one
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
def test_what_is_sent_by_hand(kind, raw, sent):
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
def test_what_is_sent_where_dtypes_and_shapes_are_odd(space, squash, raw, sent):
    got = list(actions(space, squash).send(np.array(raw)))
    assert all(space.contains(action) for action in got)
    np.testing.assert_array_equal(np.array(got, object).astype(float), np.array(sent, float))


class Untouched(gym.Env):
    """Nobody may step it."""

    observation_space = SPACES["Box"]

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        raise AssertionError(action)


HALF = pgjax.JointPolicy((pgjax.SoftmaxPolicy(4, ()), pgjax.GaussianPolicy(2, ())), (4,))


@pytest.mark.parametrize(("policy", "space", "words"), [
    (pgjax.SoftmaxPolicy(4, (4,)), "Discrete", "one of 4, where the action space has 3"),
    (pgjax.SoftmaxPolicy(2, (4,)), "Discrete", "one of 2, where the action space has 3"),
    (pgjax.GaussianPolicy(2, (4,)), "Discrete", "the action space needs discrete"),
    (pgjax.SoftmaxPolicy(2, (4,)), "Box", "the action space needs continuous"),
    (pgjax.GaussianPolicy(3, (4,)), "Box", "the action space needs continuous"),
    (pgjax.MultiSoftmaxPolicy((2, 5, 4), (4,)), "MultiDiscrete", "one of 5, .* has 3"),
    (pgjax.BernoulliPolicy(3, (4,)), "MultiDiscrete", "one of 2, .* has 3"),
    (pgjax.MultiSoftmaxPolicy((2, 2, 3), (4,)), "MultiBinary", "one of 3, .* has 2"),
    (HALF, "Dict", "one of 4, .* has 3"),
    (pgjax.GaussianPolicy(3, (4,)), "Dict", "the policy chose .* whole numbers"),
])  # fmt: skip
@pytest.mark.parametrize("collect", ["episodes", "steps"])
def test_a_policy_that_does_not_fit_is_told_before_the_first_step(policy, space, words, collect):
    algorithm = pgjax.reinforce(policy, optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(2, F32))
    env = Untouched(SPACES[space])
    with pytest.raises(pgjax.SpaceError, match=words):
        (pgjax.collect_episodes if collect == "episodes" else _stream)(env, algorithm, state, 20)


@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "MultiBinary"])
@pytest.mark.parametrize("wrong", [-1, 9])
def test_a_choice_that_there_is_not_is_never_sent(kind, wrong):
    sends = actions(SPACES[kind])
    raw = np.zeros((2, *sends.shape), np.int32)
    raw[1] = wrong
    with pytest.raises(pgjax.SpaceError, match=f"the policy chose {wrong}, of 0 to"):
        sends.send(raw)


def _stream(env, algorithm, state, num_steps):
    return pgjax.collect_steps(pgjax.Stream(env), algorithm, state, num_steps)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_a_choice_that_is_seen_may_be_of_any_integers(dtype):
    start = 100 if dtype == np.int8 else 0
    seen = observations(spaces.MultiDiscrete([3, 4], dtype=dtype, start=[start, start]))
    row = seen.encode(np.array([start + 2, start + 1], dtype))
    np.testing.assert_array_equal(row, [0, 0, 1, 0, 1, 0, 0])


def test_large_integers_that_are_seen_do_not_come_round():
    seen = observations(spaces.Box(0, 2**40, (2,), np.int64))
    row = np.asarray(seen.encode(np.array([2**35, 3])), seen.dtype)
    np.testing.assert_array_equal(row, [2.0**35, 3.0])


def test_what_is_sent_to_dict_and_tuple_by_hand():
    """In the order of the space: b before a, z before w."""
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


@KINDS
def test_log_prob_is_of_the_raw_action_and_sums_over_the_parts(kind):
    """By enumeration where all is discrete: probabilities sum to 1, the entropy is theirs."""
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
    """How many values each number of an action may take; None if there are infinitely many."""
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


def expected_rollout(kind, rollout, seeds):
    """Every field but the action, from the script."""
    space = SPACES[kind]
    for b, seed in enumerate(seeds):
        rows = np.stack([spaces.flatten(space, obs) for obs in script(space, seed)])
        length = len(rows) - 1
        np.testing.assert_allclose(rollout.obs[:length, b], rows[:-1], rtol=1e-6)
        np.testing.assert_allclose(rollout.next_obs[:length, b], rows[1:], rtol=1e-6)
        np.testing.assert_array_equal(rollout.reward[:length, b], np.arange(1, length + 1))
        last = np.arange(len(rollout.weight)) == length - 1
        terminated, truncated = ends(seed)
        np.testing.assert_array_equal(rollout.terminated[:, b], last & terminated)
        np.testing.assert_array_equal(rollout.truncated[:, b], last & truncated)
        np.testing.assert_array_equal(rollout.weight[:, b], np.arange(len(rollout.weight)) < length)


def seeds_of(state, count):
    numbers = jnp.arange(count, dtype=jnp.uint32)
    return np.asarray(reset_seeds(episode_keys(state.key, numbers))).tolist()


@FEW_KINDS
def test_the_rollout_is_what_the_environment_did(kind):
    algorithm, state = algorithm_for(kind, kind)
    one = pgjax.collect_episodes(make(kind, kind), algorithm, state, 5)
    expected_rollout(kind, one, seeds_of(state, 5))
    side_by_side = SyncVectorEnv([functools.partial(make, kind, kind)] * 3)
    many = pgjax.collect_episodes(side_by_side, algorithm, state, 5)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)
    # what was drawn is what the public act draws, and can be learned from
    key = jax.random.fold_in(jax.random.fold_in(state.key, 4), 1)
    act = algorithm.act(state.params, key, one.obs[1, 4])
    np.testing.assert_allclose(act, one.action[1, 4], rtol=1e-6)
    _, info = algorithm.update(state, one)
    assert np.isfinite(info["grad_norm"])
    assert info["grad_norm"] > 0


@pytest.mark.parametrize(
    ("obs_kind", "action_kind"),
    [("nested", "nested"), pytest.param("Tuple", "Dict", marks=pytest.mark.slow)]
    + [pytest.param(kind, kind, marks=pytest.mark.slow) for kind in SPACES if kind != "nested"],
)
def test_processes_give_the_same(obs_kind, action_kind):
    algorithm, state = algorithm_for(obs_kind, action_kind)
    env = AsyncVectorEnv(
        [functools.partial(make, obs_kind, action_kind)] * 2,
        context="spawn",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    try:
        theirs = pgjax.collect_episodes(env, algorithm, state, 3)
    finally:
        env.close()
    expected_rollout(obs_kind, theirs, seeds_of(state, 3))
    ours = pgjax.collect_episodes(make(obs_kind, action_kind), algorithm, state, 3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("space", "shape"), [
    (spaces.Box(0, 255, (96, 96, 3), np.uint8), (96, 96, 3)),
    (spaces.Box(0, 255, (4, 84, 84), np.uint8), (4, 84, 84)),
    (spaces.Box(0, 255, (4, 96, 96, 3), np.uint8), (4, 96, 96, 3)),
    (spaces.Box(0, 255, (10, 10), np.uint8), (10, 10)),
    (spaces.Box(0, 255, (84, 84, 6), np.uint8), (84, 84, 6)),
    (spaces.Box(0, 255, (128,), np.uint8), None),
    (spaces.Box(0, 1, (96, 96, 3), np.uint8), None),
    (spaces.Box(0, 255, (96, 96, 3), np.float32), None),
    (spaces.Discrete(3), None),
])  # fmt: skip
def test_which_observations_are_pictures(space, shape):
    assert image_shape(space) == shape


@pytest.mark.parametrize("shape", [(40, 44, 3), (2, 10, 12, 3)])
def test_policies_see_pictures_in_any_batch(shape):
    torso = pgjax.ConvTorso(shape)
    policy = pgjax.SoftmaxPolicy(3, (8,), torso=torso)
    size = int(np.prod(shape))
    params = policy.init(jax.random.key(0), np.zeros(size, np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (2, size)).astype(np.uint8)
    logits = policy.apply(params, pixels).logits
    assert logits.shape == (2, 3)
    one = policy.apply(params, pixels[0]).logits
    np.testing.assert_allclose(one, logits[0], rtol=1e-4, atol=1e-6)


def test_channels_of_pictures():
    """Colours, frames, and frames of colours, by hand."""
    for shape, channels in (
        ((10, 12), 1),
        ((10, 12, 3), 3),
        ((10, 12, 6), 6),
        ((5, 10, 12), 5),
        ((2, 10, 12, 3), 6),
    ):
        params = pgjax.ConvTorso(shape).init(jax.random.key(0), np.zeros(np.prod(shape), np.uint8))
        assert params["params"]["Conv_0"]["kernel"].shape == (3, 3, channels, 16)
    # frame 1, row 2, column 3, colour 0 lies in channel 1 * 3 + 0
    shape = (2, 10, 12, 3)
    torso = pgjax.ConvTorso(shape)
    params = torso.init(jax.random.key(0), np.zeros(np.prod(shape), np.uint8))
    kernel = np.zeros((3, 3, 6, 16), F32)
    kernel[1, 1, 3, 7] = 1.0  # passes channel 3 on as feature 7
    params = {"params": {"Conv_0": {"kernel": kernel, "bias": np.zeros(16, F32)}}}
    pixels = np.zeros(shape, np.uint8)
    pixels[1, 2, 3, 0] = 255
    features = torso.apply(params, pixels.ravel()).reshape(10, 12, 16)
    assert float(features[2, 3, 7]) == 1.0
    assert float(features.sum()) == 1.0
