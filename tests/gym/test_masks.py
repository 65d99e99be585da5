"""Action masks: what is not allowed is never sampled, and wrong masks are errors."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium import spaces

import pgjax
from pgjax.distributions import Categorical, MultiCategorical
from pgjax.training import train as training

KEY = jax.random.key(0)


class Masked(gym.Env):
    """Observations hold a mask, which allows only what `masks` says, step by step."""

    def __init__(self, space, masks):
        self.action_space, self._masks = space, masks
        self.observation_space = spaces.Dict(
            {"zeros": spaces.Box(0, 1, (2,)), "action_mask": spaces.MultiBinary(len(masks[0]))}
        )

    def _obs(self):
        return {"zeros": np.zeros(2, np.float32), "action_mask": np.array(self._masks[self._time])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time = 0
        return self._obs(), {}

    def step(self, action):
        self._time += 1
        return self._obs(), 1.0, False, self._time == len(self._masks) - 1, {}


def test_the_mask_of_info_becomes_the_first_part_of_the_observation():
    env, plain = pgjax.ActionMask(gym.make("Taxi-v4")), gym.make("Taxi-v4")
    obs, info = env.reset(seed=3)
    expected, same = plain.reset(seed=3)
    assert list(env.observation_space.spaces) == ["action_mask", "observation"]
    assert env.observation_space.contains(obs)
    for _ in range(5):
        assert obs["observation"] == expected
        np.testing.assert_array_equal(obs["action_mask"], same["action_mask"])
        action = int(np.flatnonzero(obs["action_mask"])[-1])
        (obs, *_, info), (expected, *_, same) = env.step(action), plain.step(action)
    np.testing.assert_array_equal(info["action_mask"], same["action_mask"])


def test_the_mask_of_a_dict_moves_to_its_beginning():
    env = pgjax.ActionMask(Masked(spaces.Discrete(3), [[0, 1, 1], [1, 0, 0]]))
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs["action_mask"], [0, 1, 1])
    assert list(obs["observation"]) == ["zeros"]
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(
    ("space", "masks", "words"),
    [
        (spaces.Discrete(3), [[0, 0, 0]] * 2, "the action mask allows no action"),
        (spaces.MultiDiscrete([2, 2]), [[1, 1, 0, 0]] * 2, "the action mask allows no action"),
        (spaces.Discrete(2), [[1, 1, 1]] * 2, "has 3 numbers, but the action space 2 choices"),
    ],
)
def test_a_wrong_mask_is_an_error_of_the_environment(space, masks, words):
    env = pgjax.ActionMask(Masked(space, masks))
    with pytest.raises(ValueError, match=words):
        env.reset()


def test_collecting_says_when_nothing_is_allowed():
    env = pgjax.ActionMask(Masked(spaces.Discrete(3), [[0, 1, 0], [0, 0, 0], [1, 1, 1]]))
    algorithm = pgjax.reinforce(pgjax.MaskedPolicy(pgjax.SoftmaxPolicy(3), 3), optax.sgd(0.1))
    state = algorithm.init(KEY, np.zeros(5, np.float32))
    with pytest.raises(pgjax.RolloutError, match="step 0: .* the action mask allows no action"):
        pgjax.collect_episodes(env, algorithm, state, 1)


def test_at_the_end_of_an_episode_nothing_needs_to_be_allowed():
    env = pgjax.ActionMask(Masked(spaces.Discrete(2), [[0, 1], [0, 0]]))
    env.reset()
    _, _, _, truncated, _ = env.step(1)
    assert truncated

    class Forgetful(Masked):  # its last info has no mask
        def __init__(self):
            super().__init__(spaces.Discrete(2), [[0, 1], [0, 1]])
            self.observation_space = spaces.Box(0, 1, (2,))

        def reset(self, **options):
            obs, _ = super().reset(**options)
            return obs["zeros"], {"action_mask": obs["action_mask"]}

        def step(self, action):
            obs, *rest = super().step(action)
            return obs["zeros"], *rest

    env = pgjax.ActionMask(Forgetful())
    env.reset()
    obs, *_ = env.step(1)
    assert obs["action_mask"].tolist() == [0, 0]


def test_an_environment_without_a_mask_says_so():
    with pytest.raises(ValueError, match="info has no 'action_mask'"):
        pgjax.ActionMask(gym.make("CartPole-v1")).reset()
    with pytest.raises(pgjax.SpaceError, match="Discrete or MultiDiscrete"):
        pgjax.ActionMask(gym.make("Pendulum-v1"))


OBS = jnp.array([[1.0, 0.0, 1.0, 0.3], [0.0, 0.0, 1.0, -2.0]])  # two masks of three, and a number


def test_what_is_not_allowed_has_probability_zero():
    policy = pgjax.MaskedPolicy(pgjax.SoftmaxPolicy(3, (4,)), 3)
    params = policy.init(KEY, OBS)
    distribution = policy.apply(params, OBS)
    plain = pgjax.SoftmaxPolicy(3, (4,)).apply({"params": params["params"]["policy"]}, OBS)
    assert isinstance(distribution, Categorical)
    p = jnp.stack([jnp.exp(distribution.log_prob(jnp.full(2, a))) for a in range(3)], -1)
    allowed = np.asarray(OBS[:, :3])
    expected = allowed * np.exp(plain.logits)
    np.testing.assert_allclose(p, expected / expected.sum(-1, keepdims=True), rtol=1e-5)
    samples = jax.vmap(distribution.sample)(jax.random.split(KEY, 200))
    assert set(np.asarray(samples[:, 0])) == {0, 2}
    assert set(np.asarray(samples[:, 1])) == {2}
    assert distribution.mode().tolist()[1] == 2
    assert distribution.mode().tolist()[0] in (0, 2)
    entropy = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), -1)
    np.testing.assert_allclose(distribution.entropy(), entropy, atol=1e-6)
    assert float(distribution.entropy()[1]) == 0.0

    def loss(params):
        found = policy.apply(params, OBS)
        return (found.log_prob(jnp.array([2, 2])) + found.entropy()).sum()

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.grad(loss)(params)))


def test_the_masks_of_several_choices_follow_each_other():
    policy = pgjax.MaskedPolicy(pgjax.MultiSoftmaxPolicy((2, 3), ()), 5)
    obs = jnp.array([0.0, 1.0, 1.0, 0.0, 0.0, 7.0])
    distribution = policy.apply(policy.init(KEY, obs), obs)
    assert isinstance(distribution, MultiCategorical)
    assert distribution.mode().tolist() == [1, 0]
    assert float(distribution.log_prob(jnp.array([1, 0]))) == 0.0


@pytest.mark.parametrize(
    ("inner", "size"),
    [
        (pgjax.SoftmaxPolicy(3), 2),
        (pgjax.GaussianPolicy(2), 2),
        (pgjax.BernoulliPolicy(2), 2),
        (pgjax.MultiSoftmaxPolicy((2, 2)), 3),
    ],
)
def test_a_mask_that_does_not_fit_the_policy_is_refused(inner, size):
    with pytest.raises(pgjax.ConfigError, match=f"a mask of {size} choices needs a policy"):
        pgjax.MaskedPolicy(inner, size).init(KEY, jnp.zeros(4))


def test_training_normalises_the_observation_but_not_the_mask(tmp_path):
    gym.register("Masked-v0", lambda: Masked(spaces.Discrete(3), [[0, 1, 1]] * 4))
    try:
        config = pgjax.TrainConfig(
            "Masked-v0", action_mask=True, normalize_obs=True, updates=2, episodes_per_update=4,
            num_envs=2, critic=True, max_episode_steps=3, eval_episodes=2, run_dir=tmp_path / "run",
        )  # fmt: skip
        run = training.train(config)
        assert pgjax.evaluate(run, 2)["mean"] == 3.0
    finally:
        del gym.registry["Masked-v0"]
    assert isinstance(run.agent.policy, pgjax.NormalizedObs)
    distribution = run.agent.policy.apply(run.state.params, jnp.array([0.0, 1.0, 1.0, 0.0, 0.0]))
    assert distribution.logits.tolist()[0] == -np.inf
    assert np.isfinite(distribution.logits[1:]).all()


def test_a_mask_that_is_not_used_is_pointed_out(tmp_path):
    gym.register("Masked-v1", lambda: Masked(spaces.Discrete(3), [[0, 1, 1]] * 2))
    try:
        config = pgjax.TrainConfig(
            "Masked-v1", updates=1, episodes_per_update=1, num_envs=1, run_dir=tmp_path / "run",
            max_episode_steps=5,
        )  # fmt: skip
        with pytest.warns(pgjax.RunWarning, match="--action-mask rules out actions by it"):
            training.train(config)
    finally:
        del gym.registry["Masked-v1"]
