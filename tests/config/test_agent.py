"""Every field of TrainConfig reaches the algorithm: `make_agent` and algorithms built by hand."""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from conftest import make_rollout
from gymnasium import spaces

import pgjax
from pgjax import advantages
from pgjax.config.agent import doubts, make_agent, make_optimizer
from pgjax.config.env import OpenEnv
from pgjax.gym.spaces import observations
from pgjax.numerics.sums import Sharding
from pgjax.policies import NormalizedObs

OBS = spaces.Box(-np.inf, np.inf, (3,))
DISCRETE, CONTINUOUS = spaces.Discrete(2), spaces.Box(-2.0, 2.0, (2,))
LEARNING = {"hidden_sizes": (4,), "normalize_advantages": False, "updates": 4}
WITH_CRITIC = {**LEARNING, "critic": True, "estimator": "gae"}
WITH_NPG = {**WITH_CRITIC, "algorithm": "npg", "minibatch_size": 8}
WITH_PPO = {**WITH_CRITIC, "algorithm": "ppo", "minibatch_size": 8}

SMALL, CRITIC = pgjax.SoftmaxPolicy(2, (4,), nn.relu), pgjax.ValueNetwork((4,), nn.relu)
ORTHOGONAL = nn.initializers.orthogonal(2**0.5)
RETURNS, GAE = advantages.reward_to_go(0.99), advantages.gae(0.99, 0.95)


def by_hand(policy=SMALL, optimizer=None, *, estimator=GAE, critic=CRITIC, **options):
    optimizer = adam(0.01) if optimizer is None else optimizer
    return pgjax.reinforce(policy, optimizer, estimator=estimator, critic=critic, **options)


def ppo(minibatch_size=8, **options):
    options |= {"critic": CRITIC, "estimator": GAE, "minibatch_size": minibatch_size}
    return pgjax.ppo(SMALL, adam(0.01), **options)


def npg(**options):
    options = {"critic": CRITIC, "estimator": GAE, "minibatch_size": 8, **options}
    return pgjax.npg(SMALL, critic_optimizer=adam(0.01), **options)


def without_critic(**options):
    return by_hand(critic=None, **{"estimator": RETURNS, **options})


def adam(learning_rate, **options):
    return optax.flatten(optax.adam(learning_rate, **options))


def annealed_adam():
    rate = pgjax.scale_by_updates(optax.linear_schedule(0.01, 0.0, 4))
    return optax.flatten(optax.chain(optax.scale_by_adam(), rate))


class Row(NamedTuple):
    settings: dict[str, Any]  # the field with another value than its default
    algorithm: Any  # () -> the algorithm that it stands for
    before: dict[str, Any] = WITH_CRITIC  # the settings without the field
    action_space: spaces.Space = DISCRETE


ROWS = {
    "hidden_sizes": Row(
        {"hidden_sizes": (5, 4)},
        lambda: by_hand(pgjax.SoftmaxPolicy(2, (5, 4)), critic=pgjax.ValueNetwork((5, 4), nn.relu)),
    ),
    "activation": Row(
        {"activation": "tanh"},
        lambda: by_hand(
            pgjax.SoftmaxPolicy(2, (4,), nn.tanh), critic=pgjax.ValueNetwork((4,), nn.tanh)
        ),
    ),
    "normalize_obs": Row(
        {"normalize_obs": True},
        lambda: by_hand(NormalizedObs(SMALL), critic=NormalizedObs(CRITIC)),
    ),
    "squash": Row(
        {"squash": True},
        lambda: by_hand(pgjax.GaussianPolicy(2, (4,), squash=True), entropy_coef=0.1),
        {**WITH_CRITIC, "entropy_coef": 0.1},
        CONTINUOUS,
    ),
    "learning_rate": Row({"learning_rate": 0.1}, lambda: by_hand(optimizer=adam(0.1))),
    "anneal_lr": Row({"anneal_lr": True}, lambda: by_hand(optimizer=annealed_adam())),
    "max_grad_norm": Row(
        {"max_grad_norm": 0.1},
        lambda: by_hand(optimizer=optax.chain(optax.clip_by_global_norm(0.1), adam(0.01))),
    ),
    "gamma": Row({"gamma": 0.5}, lambda: by_hand(estimator=advantages.gae(0.5, 0.95))),
    "estimator": Row(
        {"estimator": "gae"}, by_hand, {**WITH_CRITIC, "estimator": "reward_to_go"}
    ),
    "gae_lambda": Row({"gae_lambda": 0.3}, lambda: by_hand(estimator=advantages.gae(0.99, 0.3))),
    "critic": Row({"critic": True}, lambda: by_hand(estimator=RETURNS), LEARNING),
    "reward_scale": Row(
        {"reward_scale": 0.1},
        lambda: by_hand(estimator=advantages.gae(0.99, 0.95, reward_scale=0.1)),
    ),
    "normalize_rewards": Row(
        {"normalize_rewards": True},
        lambda: by_hand(estimator=advantages.gae(0.9, 0.95), normalize_rewards=0.9),
        {**WITH_CRITIC, "gamma": 0.9},
    ),
    "leave_one_out": Row(
        {"leave_one_out": True},
        lambda: without_critic(estimator=advantages.leave_one_out(RETURNS)),
        LEARNING,
    ),
    "normalize_advantages": Row(
        {"normalize_advantages": True}, lambda: by_hand(estimator=advantages.normalized(GAE))
    ),
    "time_discount": Row(
        {"time_discount": True},
        lambda: without_critic(estimator=advantages.time_discounted(RETURNS, 0.99)),
        LEARNING,
    ),
    "entropy_coef": Row({"entropy_coef": 0.1}, lambda: by_hand(entropy_coef=0.1)),
    "anneal_entropy": Row(
        {"anneal_entropy": True},
        lambda: by_hand(entropy_coef=optax.linear_schedule(0.2, 0.0, 4)),
        {**WITH_CRITIC, "entropy_coef": 0.2},
    ),
    "updates": Row(
        {"updates": 4}, lambda: by_hand(optimizer=annealed_adam()),
        {**WITH_CRITIC, "updates": 2, "anneal_lr": True},
    ),
    "value_coef": Row({"value_coef": 2.0}, lambda: by_hand(value_coef=2.0)),
    "mean_over": Row({"mean_over": "steps"}, lambda: by_hand(mean_over="steps")),
    "chunk_size": Row({"chunk_size": 4}, lambda: by_hand(chunk_size=4)),
    "adam_eps": Row({"adam_eps": 1e-5}, lambda: by_hand(optimizer=adam(0.01, eps=1e-5))),
    "reward_clip": Row({"reward_clip": 0.1}, lambda: by_hand(reward_clip=0.1)),
    "algorithm": Row({"algorithm": "ppo", "minibatch_size": 8}, ppo),
    "clip": Row({"clip": 0.1}, lambda: ppo(clip=0.1), WITH_PPO),
    "anneal_clip": Row(
        {"anneal_clip": True}, lambda: ppo(clip=optax.linear_schedule(0.2, 0.0, 4)), WITH_PPO
    ),
    "num_epochs": Row({"num_epochs": 2}, lambda: ppo(num_epochs=2), WITH_PPO),
    "minibatch_size": Row({"minibatch_size": 5}, lambda: ppo(minibatch_size=5), WITH_PPO),
    "value_clip": Row({"value_clip": 0.3}, lambda: ppo(value_clip=0.3), WITH_PPO),
    "recompute_advantages": Row(
        {"recompute_advantages": True}, lambda: ppo(recompute_advantages=True), WITH_PPO
    ),
    "target_kl": Row({"target_kl": 0.02}, lambda: ppo(target_kl=0.02), WITH_PPO),
    "max_kl": Row({"max_kl": 0.02}, lambda: npg(max_kl=0.02), WITH_NPG),
    "damping": Row({"damping": 0.3}, lambda: npg(damping=0.3), WITH_NPG),
    "cg_steps": Row({"cg_steps": 2}, lambda: npg(cg_steps=2), WITH_NPG),
    "line_search": Row({"line_search": True}, lambda: npg(line_search=True), WITH_NPG),
    "num_shards": Row(
        {"num_shards": 2},
        lambda: by_hand(sharding=Sharding(2)),
        {**WITH_CRITIC, "on_device": True},
    ),
}  # fmt: skip
# What the algorithm does not depend on: the loops' settings, and what a run writes.
OTHERS = {
    "env_id": "Other-v0",
    "env": dict,
    "env_kwargs": {"size": 1},
    "wrappers": ("gymnasium.wrappers:ClipReward",),
    "seed": 1,
    "collect": "steps",
    "episodes_per_update": 3,
    "num_steps": 7,
    "num_envs": 3,
    "vectorization": "async",
    "step_timeout": 5.0,
    "on_device": True,
    "max_episode_steps": 9,
    "frame_stack": 2,  # the observation space that make_agent sees has it already
    "checkpoint_seconds": 1.0,
    "eval_episodes": 3,
    "eval_every": 2,
    "run_dir": "elsewhere",
}


# Checked below, and in tests/gym/test_masks.py.
ELSEWHERE = {"orthogonal_init", "init_std", "action_mask"}


def test_every_field_is_checked():
    assert {*ROWS, *OTHERS, *ELSEWHERE} == {
        field.name for field in dataclasses.fields(pgjax.TrainConfig)
    }


def agent_of(settings, action_space=DISCRETE):
    config = pgjax.TrainConfig(**{"env_id": "Any-v0", **settings})
    return make_agent(config, OpenEnv(None, OBS, action_space))


@functools.cache
def rollout_of(continuous):
    """Two batches of three episodes; the last one is truncated."""
    rng = np.random.default_rng(0)
    action = (lambda shape: rng.normal(size=(*shape, 2)).astype(np.float32)) if continuous else None
    return make_rollout(rng, [5, 2, 4], 3, action, terminated=[True, True, False])


def program(algorithm, continuous=False):
    """The program of an update, with its constants: equal programs give equal updates."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0), np.zeros(3, np.float32))
    jaxpr = jax.make_jaxpr(algorithm.update)(state, rollout_of(continuous))
    text = re.sub(" at 0x[0-9a-f]+", "", str(jaxpr))  # functions are shown with their addresses
    return text, [np.asarray(x).tolist() for x in jaxpr.consts]


@functools.cache
def program_before(settings, continuous):
    """As `program`, of the algorithm of settings (name, value), which many fields share."""
    action_space = CONTINUOUS if continuous else DISCRETE
    return program(agent_of(dict(settings), action_space).algorithm, continuous)


SLOW = {"damping", "cg_steps", "line_search", "value_clip", "target_kl", "num_epochs"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ROWS]
)
def test_a_field_makes_the_algorithm_built_by_hand(name):
    row = ROWS[name]
    continuous = row.action_space is CONTINUOUS
    after = agent_of({**row.before, **row.settings}, row.action_space).algorithm
    found = program(after, continuous)
    assert found == program(row.algorithm(), continuous)
    assert found != program_before(tuple(row.before.items()), continuous)


@pytest.mark.parametrize("name", OTHERS)
def test_other_fields_do_not_change_the_algorithm(name):
    before = {**WITH_CRITIC, "num_shards": 1}
    found = agent_of({**before, name: OTHERS[name]}).algorithm
    assert program(found) == program_before(tuple(before.items()), False)


def test_orthogonal_init_reaches_the_hidden_layers_of_policy_and_critic():
    settings = {**WITH_CRITIC, "hidden_sizes": (3, 3), "orthogonal_init": True}
    params = agent_of(settings).init(0).params
    for network in (params["params"], params["critic"]):
        for layer in ("Dense_0", "Dense_1"):
            kernel = np.asarray(network[layer]["kernel"])
            np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(3), atol=1e-5)
        assert abs(network["Dense_2"]["kernel"]).max() > 0
    assert abs(params["params"]["Dense_2"]["kernel"]).max() < 0.05  # the policy's head is small


def test_init_std_reaches_every_gaussian():
    for space in (CONTINUOUS, spaces.Dict(push=CONTINUOUS, which=DISCRETE)):
        agent = agent_of({**LEARNING, "init_std": 0.25}, space)
        action = agent.algorithm.act(agent.init(0).params, jax.random.key(1), np.zeros((4000, 3)))
        np.testing.assert_allclose(np.std(action[:, :2], 0), 0.25, rtol=0.05)


def test_the_entropy_coefficient_of_each_update():
    # In four updates to zero: the first with 0.2, the second with 0.15.
    settings = {**LEARNING, "hidden_sizes": (2,), "entropy_coef": 0.2, "anneal_entropy": True}
    annealed = agent_of(settings).algorithm
    state = expected = annealed.init(jax.random.key(7), np.zeros(3, np.float32))
    for coef in (0.2, 0.15):
        constant = without_critic(policy=pgjax.SoftmaxPolicy(2, (2,)), entropy_coef=coef)
        state, _ = annealed.update(state, rollout_of(False))
        expected, _ = constant.update(expected, rollout_of(False))
        chex.assert_trees_all_close(state.params, expected.params, rtol=1e-5, atol=1e-6)


def test_annealing_ends_at_a_learning_rate_of_zero():
    config = pgjax.TrainConfig("CartPole-v1", learning_rate=0.5, anneal_lr=True, updates=4)
    optimizer = make_optimizer(config)
    state, sizes = optimizer.init(np.zeros(1)), []
    for made in range(5):
        # With the same gradient each time, Adam's step is the rate itself.
        update, state = optimizer.update(np.ones(1), state, num_updates=made)
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes, [0.5, 0.375, 0.25, 0.125, 0.0], rtol=1e-4)


@pytest.mark.parametrize(
    ("space", "far"),
    [
        (spaces.Box(0, 512, (2,)), True),
        (spaces.Box(-1e-3, 1e-3, (1,)), True),
        (spaces.Box(5.0, 6.0, (1,)), True),
        (spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 512.0]), dtype=np.float64), True),
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 255, (1,), np.uint8)), True),
        (spaces.Box(-2.0, 2.0, (1,)), False),
        (spaces.Box(-0.4, 0.4, (17,)), False),
        (spaces.Box(0.0, 1.0, (1,)), False),
        (spaces.Box(-np.inf, np.inf, (1,)), False),
        (spaces.Box(0.0, np.inf, (1,)), False),
        (spaces.Box(3.0, 3.0, (1,)), False),
        (spaces.Discrete(512), False),
    ],
)
def test_bounds_that_a_new_policy_can_hardly_explore_are_doubted(space, far):
    env = OpenEnv(None, OBS, space, 500)
    found = doubts(pgjax.TrainConfig("Any-v0"), env)
    assert len(found) == far
    if far:
        assert "--squash" in found[0]
        assert "RescaleAction" in found[0]
    assert doubts(pgjax.TrainConfig("Any-v0", squash=True), env) == []


CAMERA = spaces.Box(0, 255, (16, 16, 3), np.uint8)


def test_images_inside_a_dict_go_through_convolutions():
    seen = spaces.Dict(camera=CAMERA, speed=spaces.Box(-1.0, 1.0, (2,)))
    agent = make_agent(pgjax.TrainConfig("Any-v0", critic=True), OpenEnv(None, seen, DISCRETE))
    params = jax.eval_shape(agent.init, 0).params
    for network in (params["params"], params["critic"]):
        kernels = [x.shape for x in jax.tree.leaves(network) if x.ndim == 4]
        assert kernels == [(3, 3, 3, 16)]
        # The first hidden layer reads 16 x 16 x 16 features and the two numbers.
        assert (16 * 16 * 16 + 2, 16) in [x.shape for x in jax.tree.leaves(network)]


def test_too_many_inputs_of_a_dense_layer_are_doubted():
    config = pgjax.TrainConfig("Any-v0")
    flat = spaces.Box(0.0, 1.0, (96, 96, 3))  # floats are no image
    [doubt] = doubts(config, OpenEnv(None, spaces.Tuple([CAMERA, flat]), DISCRETE, 500))
    assert "reads 27,648 numbers" in doubt
    large = spaces.Box(0, 255, (400, 600, 3), np.uint8)
    assert doubts(config, OpenEnv(None, spaces.Tuple([large, OBS]), DISCRETE, 500)) == []


def test_a_missing_time_limit_is_doubted_where_whole_episodes_are_collected():
    env = OpenEnv(None, OBS, DISCRETE)
    [doubt] = doubts(pgjax.TrainConfig("Any-v0"), env)
    assert "no time limit" in doubt
    assert "--max-episode-steps" in doubt
    streams = pgjax.TrainConfig("Any-v0", collect="steps", critic=True, estimator="gae")
    assert doubts(streams, env) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_next_to_an_image_numbers_are_normalised_and_the_image_is_not(dtype, rng):
    seen = spaces.Dict(camera=CAMERA, speed=spaces.Box(0, 200, (2,), dtype))
    config = pgjax.TrainConfig("Any-v0", normalize_obs=True, critic=True)
    agent = make_agent(config, OpenEnv(None, seen, DISCRETE))
    plain = make_agent(pgjax.TrainConfig("Any-v0", critic=True), OpenEnv(None, seen, DISCRETE))
    params = agent.init(0).params
    size = CAMERA.shape[0] * CAMERA.shape[1] * CAMERA.shape[2]
    mean, var = np.zeros(size + 2, np.float32), np.ones(size + 2, np.float32)
    mean[:2], var[:2] = 7.0, 3.0  # of the image
    mean[-2:], var[-2:] = 100.0, 25.0
    params |= {"obs_moments": params["obs_moments"] | {"mean": mean, "var": var}}
    image, numbers = rng.integers(256, size=size), np.array([110, 95])
    obs = np.concatenate([image, numbers]).astype(observations(seen).dtype)
    by_hand = np.concatenate([image, [2.0, -1.0]]).astype(np.float32)
    inner = {"params": params["params"]["module"]}
    found, expected = agent.policy.apply(params, obs), plain.policy.apply(inner, by_hand)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
