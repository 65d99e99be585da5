"""Rollouts, parameters, actions and optimisers that do not fit are refused when they are traced."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import OBS, gaussian_actions, plain
from conftest import make_rollout

import pgjax
from pgjax import advantages

GAUSSIAN = pgjax.reinforce(
    pgjax.GaussianPolicy(1, ()), optax.sgd(0.1), critic=pgjax.ValueNetwork(()),
    estimator=advantages.gae(0.9, 0.9),
)  # fmt: skip
STATE = GAUSSIAN.init(jax.random.key(0), OBS)
ROLLOUT = make_rollout(
    np.random.default_rng(0),
    [3, 2],
    action=lambda shape: np.random.default_rng(1).normal(size=(*shape, 1)).astype(np.float32),
)


def _raises(words, fn, *args):
    with pytest.raises(pgjax.ConfigError, match=words) as e:
        fn(*args)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("action", lambda x: x[..., 0], r"action has shape \(3, 2\), .* have \(3, 2, 1\)"),
        ("action", lambda x: x[..., [0, 0]], r"action has shape \(3, 2, 2\), .* have \(3, 2, 1\)"),
        ("action", lambda x: x.astype(int), "action has dtype int"),
        ("obs", lambda x: x[:, :1], r"obs has shape \(3, 1, 4\).*must be \(3, 2, ...\)"),
        ("next_obs", lambda x: x[:2], r"next_obs has shape \(2, 2, 4\)"),
        ("reward", lambda x: x[:, 0], r"reward has shape \(3,\)"),
        ("reward", lambda x: x[..., None], r"reward has shape \(3, 2, 1\)"),
        ("weight", lambda x: x[:, 0], r"weight has shape \(3,\)"),
        ("weight", lambda x: x[:, :1], r"weight has shape \(3, 1\)"),
        ("terminated", lambda x: x.astype(np.float32), "terminated must be bool, got float32"),
    ],
)
def test_loss_and_update_name_the_field_that_does_not_fit(field, change, words):
    wrong = ROLLOUT._replace(**{field: change(getattr(ROLLOUT, field))})
    _raises(words, GAUSSIAN.loss, STATE.params, wrong)
    _raises(words, GAUSSIAN.update, STATE, wrong)


def test_fields_are_checked_inside_transformations():
    wrong = ROLLOUT._replace(action=ROLLOUT.action[..., 0])
    twice = jax.tree.map(lambda x: np.stack([x, x]), wrong)

    def scanned(state, rollouts):
        return jax.lax.scan(GAUSSIAN.update, state, rollouts)

    _raises(r"action has shape \(3, 2\)", jax.vmap(GAUSSIAN.loss, (None, 0)), STATE.params, twice)
    _raises(r"action has shape \(3, 2\)", jax.jit(scanned), STATE, twice)
    right = jax.tree.map(lambda x: np.stack([x, x]), ROLLOUT)
    loss, _ = jax.eval_shape(jax.vmap(GAUSSIAN.loss, (None, 0)), STATE.params, right)
    assert loss.shape == (2,)


def test_log_prob_takes_one_action_per_observation(rng):
    obs, action = ROLLOUT.obs, ROLLOUT.action
    assert GAUSSIAN.log_prob(STATE.params, obs, action).shape == (3, 2)
    _raises(r"\(3, 2\).* have \(3, 2, 1\)", GAUSSIAN.log_prob, STATE.params, obs, action[..., 0])
    _raises(r"\(3, 2, 1\).* \(3, 1, 1\)", GAUSSIAN.log_prob, STATE.params, obs[:, :1], action)
    softmax, state = plain(), plain().init(jax.random.key(0), OBS)
    _raises(r"shape \(5,\), .* have \(\)", softmax.log_prob, state.params, OBS, np.zeros(5, int))
    _raises("dtype float32", softmax.log_prob, state.params, OBS, np.float32(0))


def test_parameters_of_others_are_refused():
    obs = ROLLOUT.obs[..., :3]
    for_three = ROLLOUT._replace(obs=obs, next_obs=obs)
    words = r"'kernel'\] has shape \(4, 1\), but observations \[..., 3\] need \(3, 1\)"
    _raises(words, GAUSSIAN.loss, STATE.params, for_three)
    _raises(words, GAUSSIAN.act, STATE.params, jax.random.key(0), obs[0])
    _raises(words, GAUSSIAN.log_prob, STATE.params, obs, ROLLOUT.action)
    _raises("no 'critic'", GAUSSIAN.loss, {"params": STATE.params["params"]}, ROLLOUT)
    _raises("TrainState.params, got .* TrainState", GAUSSIAN.loss, STATE, ROLLOUT)
    _raises(
        "a pgjax.TrainState is needed here, got .* dict", GAUSSIAN.update, STATE.params, ROLLOUT
    )
    _raises("a pgjax.TrainState is needed here, got .* Rollout", GAUSSIAN.update, ROLLOUT, STATE)
    _raises("a pgjax.Rollout is needed here", GAUSSIAN.loss, STATE.params, tuple(ROLLOUT))
    _raises("obs must be one array, got .* dict", GAUSSIAN.init, jax.random.key(0), {"a": OBS})


def test_running_moments_of_other_observations_are_refused():
    """Moments of one number would broadcast, and Flax compares no shapes of variables."""
    policy = pgjax.NormalizedObs(pgjax.SoftmaxPolicy(2, (), torso=_Ones()))
    params = policy.init(jax.random.key(0), np.zeros(1))
    with pytest.raises(pgjax.ConfigError, match=r"moments are of \(1,\) numbers"):
        policy.apply(params, OBS)


class _Ones(nn.Module):
    def __call__(self, obs):
        return jnp.ones((*obs.shape[:-1], 1))


def test_keys_must_be_one_or_one_per_row():
    keys = jax.random.split(jax.random.key(0), 3)
    _raises(r"keys of shape \(3,\) .*\(2,\)", GAUSSIAN.act, STATE.params, keys, ROLLOUT.obs[0])
    # One action of as many numbers as there are keys is not a batch.
    three = pgjax.reinforce(pgjax.GaussianPolicy(3, ()), optax.sgd(0.1))
    params = three.init(jax.random.key(0), OBS).params
    _raises(r"keys of shape \(3,\) .*\(\)", three.act, params, keys, OBS)


class _Unsummed(NamedTuple):
    mean: jax.Array

    def sample(self, key):
        return self.mean

    def log_prob(self, action):
        return -((action - self.mean) ** 2)

    def entropy(self):
        return self.mean.sum(-1)

    def mode(self):
        return self.mean


class _UnsummedPolicy(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return _Unsummed(nn.Dense(1)(obs))


class _Wide(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1)(obs)


def _first_column(rollout, value, next_value):
    """The shape is right only for two steps of one episode, and for what `init` tries."""
    return rollout.reward[:, :1] if rollout.reward.shape[0] > 2 else rollout.reward


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (_UnsummedPolicy(), {}, r"log_prob gives \(2, 1\)"),
        (pgjax.GaussianPolicy(1, ()), {"critic": _Wide()}, r"critic gives \(2, 1\)"),
        (
            pgjax.GaussianPolicy(1, ()),
            {"estimator": _first_column},
            r"estimator gives \(3, 1\) for rewards \[T, B\] of shape \(3, 2\)",
        ),
        (
            pgjax.GaussianPolicy(1, ()),
            {"critic": pgjax.ValueNetwork(()), "value_target": _first_column},
            r"value_target gives \(3, 1\)",
        ),
    ],
)
def test_parts_are_checked_without_init_and_at_every_size(policy, options, words):
    algorithm = pgjax.reinforce(policy, optax.sgd(0.1), **options)
    params: Any = policy.init(jax.random.key(0), OBS)
    if "critic" in options:
        params = {**params, "critic": options["critic"].init(jax.random.key(0), OBS)["params"]}
    _raises(words, algorithm.loss, params, ROLLOUT)
    if isinstance(policy, _UnsummedPolicy):
        _raises(r"of shape \(3, 2, 1\)", algorithm.log_prob, params, ROLLOUT.obs, ROLLOUT.action)


@pytest.mark.parametrize("num_shards", [1, 8])
def test_columns_that_fill_the_shards_are_no_episodes(num_shards, rng):
    algorithm = pgjax.reinforce(
        pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1), sharding=pgjax.Sharding(num_shards),
        estimator=advantages.normalized(advantages.leave_one_out(advantages.reward_to_go())),
    )  # fmt: skip
    state = jax.eval_shape(algorithm.init, jax.random.key(0), OBS)
    update = functools.partial(jax.eval_shape, algorithm.update, state)
    _raises("at least 2, got 1", update, make_rollout(rng, [3]))
    update(make_rollout(rng, [3, 2]))


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ((pgjax.SoftmaxPolicy(2), 0.01), {}, r"optax.adam\(0.01\), got .* float"),
        ((pgjax.SoftmaxPolicy(2), optax.adam), {}, r"optax.adam\(0.01\), got .* function"),
        ((pgjax.SoftmaxPolicy, optax.adam(0.01)), {}, "got the class SoftmaxPolicy"),
        ((optax.adam(0.01), pgjax.SoftmaxPolicy(2)), {}, "policy must be a Flax module"),
        (None, {"critic": True}, "critic must be a Flax module"),
        (None, {"critic": pgjax.ValueNetwork}, "got the class ValueNetwork"),
        (None, {"estimator": 0.0}, "estimator must be a function"),
        (None, {"sharding": 8}, "sharding must be a pgjax.Sharding"),
        (None, {"sharding": pgjax.Sharding(True)}, "num_shards must be an integer"),
        (None, {"chunk_size": True}, "chunk_size.* must be an integer from 1 to 128, got True"),
        (None, {"chunk_size": 2.0}, "chunk_size"),
        (None, {"value_coef": "0.5"}, "value_coef must be one number"),
        (None, {"value_coef": None}, "value_coef must be one number"),
        (None, {"entropy_coef": np.array([0.1, 0.2])}, "entropy_coef must be one number"),
        (None, {"entropy_coef": jnp.float32(-1)}, "entropy_coef must be finite"),
        (None, {"normalize_rewards": 1.5}, "normalize_rewards"),
        (None, {"reward_clip": 0}, "reward_clip must be None, or finite and above 0, got 0"),
        (None, {"reward_clip": np.inf}, "reward_clip"),
    ],
)
def test_parts_of_the_wrong_type_are_refused(args, options, words):
    args = args or (pgjax.SoftmaxPolicy(2), optax.adam(0.01))
    _raises(words, lambda: pgjax.reinforce(*args, **options))


def test_numpy_integers_are_counts():
    given, plain_int = (
        pgjax.reinforce(pgjax.GaussianPolicy(1, ()), optax.adam(0.01), chunk_size=size)
        for size in (np.int64(8), 8)
    )
    state = plain_int.init(jax.random.key(0), OBS)
    assert float(given.loss(state.params, ROLLOUT)[0]) == float(
        plain_int.loss(state.params, ROLLOUT)[0]
    )


@pytest.mark.parametrize(
    "optimizer", [optax.lbfgs(), optax.scale_by_backtracking_linesearch(5)], ids=["lbfgs", "search"]
)
def test_init_refuses_optimizers_that_evaluate_the_loss(optimizer, rng):
    algorithm = pgjax.reinforce(pgjax.GaussianPolicy(1, ()), optimizer)
    words = "the optimizer fails .*value_fn.* line searches"
    _raises(words, algorithm.init, jax.random.key(0), OBS)
    params = {"params": STATE.params["params"]}
    state = pgjax.TrainState(params, optimizer.init(params), jax.random.key(0), jnp.int32(0))
    _raises(words, algorithm.update, state, ROLLOUT)


def test_actions_of_discrete_policies_are_integers(rng):
    softmax = plain()
    state, batch = softmax.init(jax.random.key(0), OBS), make_rollout(rng, [3, 2])
    real = batch._replace(action=batch.action.astype(np.float32))
    _raises("action has dtype float32", softmax.update, state, real)
    wide = batch._replace(action=gaussian_actions(rng)(batch.reward.shape))
    _raises(r"action has shape \(3, 2, 2\)", softmax.update, state, wide)
