import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from probe_envs import PROBES, Probe, Scripted

import pgjax
from pgjax import advantages

POLICY = pgjax.SoftmaxPolicy(2, (8,))
ALGORITHM = pgjax.reinforce(POLICY, optax.adam(0.01))
STATE = ALGORITHM.init(jax.random.key(0), np.zeros(3, np.float32))


def box_algorithm(action_dim, obs_dim=3):
    algorithm = pgjax.reinforce(pgjax.GaussianPolicy(action_dim, (8,)), optax.adam(0.01))
    return algorithm, algorithm.init(jax.random.key(0), np.zeros(obs_dim, np.float32))


def test_a_column_is_an_episode_of_the_environment():
    """Observations, rewards, ends, successors and padding follow from the script."""
    env = Scripted()
    state = STATE._replace(step=np.int32(3))
    rollout = pgjax.collect_episodes(env, ALGORITHM, state, 5)
    assert len(set(env.seeds)) == 5
    assert all(type(seed) is int for seed in env.seeds)
    lengths = rollout.weight.sum(0).astype(int)
    assert rollout.weight.shape == (512, 5)
    sent = iter(env.actions)
    for b, length in enumerate(lengths):
        name = rollout.obs[0, b, 0]
        t = np.arange(length)
        ones = np.ones(length)
        expected = np.stack([name * ones, t, length * ones], 1)
        np.testing.assert_array_equal(rollout.obs[:length, b], expected)
        np.testing.assert_array_equal(rollout.next_obs[:length, b], expected + [0, 1, 0])
        np.testing.assert_array_equal(rollout.reward[:length, b], name + t + 1)
        np.testing.assert_array_equal(
            rollout.terminated[:, b], np.arange(len(rollout.weight)) == length - 1
        )
        np.testing.assert_array_equal(rollout.action[:length, b], [next(sent) for _ in t])
        np.testing.assert_array_equal(rollout.weight[:, b], np.arange(len(rollout.weight)) < length)
    assert not rollout.truncated.any()
    assert next(sent, None) is None


def test_actions_are_drawn_with_the_key_of_their_episode_and_step():
    """The public act with fold_in(fold_in(key, e), t) gives the same actions."""
    state = STATE._replace(step=np.int32(2))
    rollout = pgjax.collect_episodes(Scripted(mean_length=4), ALGORITHM, state, 3)
    for b in range(3):
        for t in range(int(rollout.weight[:, b].sum())):
            key = jax.random.fold_in(jax.random.fold_in(state.key, 2 * 3 + b), t)
            action = ALGORITHM.act(state.params, key, rollout.obs[t, b])
            assert int(action) == rollout.action[t, b]


@pytest.mark.parametrize("make", [
    lambda n: Scripted(),
    lambda n: SyncVectorEnv([Scripted] * n),
    lambda n: SyncVectorEnv([Scripted] * n, autoreset_mode=AutoresetMode.SAME_STEP),
    lambda n: SyncVectorEnv([Scripted] * n, autoreset_mode=AutoresetMode.DISABLED),
    lambda n: gym.wrappers.vector.RecordEpisodeStatistics(
        SyncVectorEnv([Scripted] * n, autoreset_mode=AutoresetMode.DISABLED)
    ),
])  # fmt: skip
@pytest.mark.parametrize("n", [1, 3, 12])
def test_the_rollout_does_not_depend_on_the_number_of_environments(make, n):
    expected = pgjax.collect_episodes(Scripted(), ALGORITHM, STATE, 7)
    env = make(n)
    assert_trees_equal(pgjax.collect_episodes(env, ALGORITHM, STATE, 7), expected)
    # And again, with the environments in another state.
    assert_trees_equal(pgjax.collect_episodes(env, ALGORITHM, STATE, 7), expected)


def test_continuous_actions_have_the_same_bits_for_any_number_of_environments():
    """Unless blocks are fixed, an output of width 1 rounds differently for 1, 2, 8 and 80 rows."""
    policy = pgjax.GaussianPolicy(1, (64, 64), jax.numpy.tanh)
    algorithm = pgjax.reinforce(policy, optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    # Larger than the initial mean, which is too small to show a difference.
    state = state._replace(params=jax.tree.map(lambda x: x + 0.1, state.params))

    def env():
        return Scripted(action_space=spaces.Box(-np.inf, np.inf, (1,), np.float32))

    expected = pgjax.collect_episodes(env(), algorithm, state, 20)
    for n in (2, 3, 8, 9, 40, 80):
        rollout = pgjax.collect_episodes(SyncVectorEnv([env] * n), algorithm, state, 20)
        assert_trees_equal(rollout, expected)


def test_async_environments_give_the_same_rollout():
    expected = pgjax.collect_episodes(Scripted(), ALGORITHM, STATE, 5)
    env = AsyncVectorEnv(
        [Scripted] * 3, autoreset_mode=AutoresetMode.DISABLED, context="forkserver"
    )
    try:
        assert_trees_equal(pgjax.collect_episodes(env, ALGORITHM, STATE, 5), expected)
    finally:
        env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_that_resets_itself_is_refused_with_the_mode_to_use(mode):
    env = gym.wrappers.vector.RecordEpisodeStatistics(
        SyncVectorEnv([Scripted] * 2, autoreset_mode=mode)
    )
    with pytest.raises(pgjax.SpaceError, match=r"AutoresetMode\.DISABLED"):
        pgjax.collect_episodes(env, ALGORITHM, STATE, 2)


def test_no_environment_idles_while_episodes_remain():
    env = SyncVectorEnv([Scripted] * 4)
    rollout = pgjax.collect_episodes(env, ALGORITHM, STATE, 20)
    steps = [len(e.actions) for e in env.envs]
    assert sum(steps) == rollout.weight.sum()  # no step is wasted
    longest = int(rollout.weight.sum(0).max())
    assert max(steps) - min(steps) <= longest


@pytest.mark.parametrize(("ends", "flags"), [
    ("terminated", (True, False)), ("truncated", (False, True)), ("both", (True, True))
])  # fmt: skip
def test_terminated_and_truncated_are_never_merged(ends, flags):
    rollout = pgjax.collect_episodes(Scripted(ends=ends), ALGORITHM, STATE, 2)
    assert (rollout.terminated.sum() == 2, rollout.truncated.sum() == 2) == flags


BOXES = [
    spaces.Box(-1.0, 2.0, (2,), np.float32),
    spaces.Box(np.array([-0.1, -np.inf]), np.array([0.1, 0.3]), dtype=np.float64),
    spaces.Box(np.float32([[-1], [0]]), np.float32([[np.inf], [5]]), dtype=np.float32),
    spaces.Box(-np.inf, np.inf, (1,), np.float32),
    spaces.Box(0, 3, (2,), np.int64),
    spaces.Box(0.5, 0.6, (), np.float32),
]


@pytest.mark.parametrize("space", BOXES, ids=str)
@pytest.mark.parametrize("squash", [False, True])
def test_sent_actions_are_in_the_box_and_recorded_actions_are_raw(space, squash):
    size = int(np.prod(space.shape))
    algorithm, state = box_algorithm(size)
    env = Scripted(action_space=space)  # it asserts action_space.contains
    if squash and not space.is_bounded():
        with pytest.raises(pgjax.SpaceError, match="finite bounds"):
            pgjax.collect_episodes(env, algorithm, state, 4, squash=True)
        return
    rollout = pgjax.collect_episodes(env, algorithm, state, 4, squash=squash)
    raw = np.concatenate([rollout.action[rollout.weight[:, b] > 0, b] for b in range(4)])
    sent = np.stack(env.actions).reshape(len(raw), size).astype(np.float64)
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    if squash:
        expected = low + (high - low) * (np.tanh(raw) + 1) / 2
    else:
        expected = np.clip(raw, low, high)
    if np.issubdtype(space.dtype, np.integer):
        expected = np.rint(expected)
    np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-6)
    # The log-probability is that of the raw action.
    log_prob = algorithm.log_prob(state.params, rollout.obs[0], rollout.action[0])
    dist = pgjax.GaussianPolicy(size, (8,)).apply(state.params, rollout.obs[0])
    np.testing.assert_allclose(log_prob, dist.log_prob(rollout.action[0]), rtol=1e-6)


def test_discrete_actions_begin_at_the_start_of_the_space():
    env = Scripted(action_space=spaces.Discrete(2, start=-1))
    rollout = pgjax.collect_episodes(env, ALGORITHM, STATE, 6)
    raw = [rollout.action[rollout.weight[:, b] > 0, b] for b in range(6)]
    assert env.actions == (np.concatenate(raw) - 1).tolist()
    assert set(env.actions) == {-1, 0}


def test_observations_are_flattened_and_discrete_ones_are_one_hot():
    env = Scripted(obs_space=spaces.Box(-np.inf, np.inf, (2, 3), np.float64))
    state = ALGORITHM.init(jax.random.key(0), np.zeros(6, np.float32))
    rollout = pgjax.collect_episodes(env, ALGORITHM, state, 2)
    assert rollout.obs.shape[2:] == (6,)
    assert rollout.obs.dtype == np.float32
    env = Scripted(obs_space=spaces.Discrete(4, start=-2))
    state = ALGORITHM.init(jax.random.key(0), np.zeros(4, np.float32))
    rollout = pgjax.collect_episodes(env, ALGORITHM, state, 2)
    length = int(rollout.weight[:, 0].sum())
    np.testing.assert_array_equal(rollout.obs[:length, 0], np.eye(4)[np.arange(length) % 4])
    pixels = spaces.Box(0, 255, (3,), np.uint8)
    assert (
        pgjax.collect_episodes(Scripted(obs_space=pixels), ALGORITHM, STATE, 1).obs.dtype
        == np.uint8
    )


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Dict(a=spaces.Text(3))]
)
def test_spaces_that_are_not_supported(space):
    with pytest.raises(pgjax.SpaceError, match="Box, Discrete, MultiDiscrete"):
        pgjax.collect_episodes(Scripted(obs_space=space), ALGORITHM, STATE, 1)
    env = Scripted(action_space=space)
    with pytest.raises(pgjax.SpaceError, match="Box, Discrete, MultiDiscrete"):
        pgjax.collect_episodes(env, ALGORITHM, STATE, 1)
    assert env.seeds == []  # before the first step


class Broken(Scripted):
    """An environment with a wrong value in step 2 of its second, practically endless episode."""

    def __init__(self, field, value):
        super().__init__(mean_length=10**6)
        self._wrong = field, value

    def reset(self, *, seed=None, options=None):
        obs = super().reset(seed=seed)
        if len(self.seeds) == 1:
            self._length = 3
        return obs

    def step(self, action):
        obs, reward, *rest = super().step(action)
        if len(self.seeds) > 1 and self._t == 2:
            field, value = self._wrong
            return (
                (value if field == "observation" else obs),
                (value if field == "reward" else reward),
                *rest,
            )
        return obs, reward, *rest


@pytest.mark.parametrize(("field", "value", "step"), [
    ("reward", np.nan, 1),
    ("reward", np.inf, 1),
    ("observation", np.array([0, np.nan, 0], np.float32), 2),
    ("observation", np.zeros(4, np.float32), 2),
    ("observation", np.zeros((1,), np.float32), 2),
    ("observation", "text", 2),
    ("observation", np.array(["a", "b", "c"]), 2),
    ("reward", None, 1),
    ("reward", "text", 1),
])  # fmt: skip
def test_an_error_names_the_wrong_value_episode_seed_and_step(field, value, step):
    message = rf"environment 0, episode 1 \(reset seed (\d+)\), step {step}: the {field} "
    env = Broken(field, value)
    with pytest.raises(pgjax.RolloutError, match=message) as caught:
        pgjax.collect_episodes(env, ALGORITHM, STATE, 2)
    # Only the actions up to the wrong value, although values are checked only periodically.
    replay = {"reset_seed": env.seeds[1], "actions": env.actions[3:5]}
    assert caught.value.replay == replay


def test_a_policy_that_has_diverged_is_named_as_the_cause():
    algorithm, state = box_algorithm(1)
    state = state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
    env = Scripted(action_space=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    env.action_space.contains = lambda action: True
    with pytest.raises(pgjax.RolloutError, match="action is .*learning rate"):
        pgjax.collect_episodes(env, algorithm, state, 1)


@pytest.mark.parametrize(
    ("policy", "space"),
    [
        (pgjax.GaussianPolicy(1, (8,)), spaces.Box(-1, 1, (3,), np.float32)),
        (pgjax.SoftmaxPolicy(2, (8,)), spaces.Box(-1, 1, (1,), np.float32)),
        (pgjax.GaussianPolicy(1, (8,)), spaces.Discrete(2)),
    ],
)
def test_a_policy_that_does_not_fit_the_action_space(policy, space):
    algorithm = pgjax.reinforce(policy, optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    env = Scripted(action_space=space)
    with pytest.raises(pgjax.SpaceError, match="fits Discrete"):
        pgjax.collect_episodes(env, algorithm, state, 1)
    assert env.actions == []


@pytest.mark.parametrize("num_episodes", [0, -1, 2.0, True])
def test_num_episodes_out_of_range(num_episodes):
    with pytest.raises(pgjax.ConfigError, match="num_episodes"):
        pgjax.collect_episodes(Scripted(), ALGORITHM, STATE, num_episodes)


def test_a_numpy_integer_counts_episodes():
    expected = pgjax.collect_episodes(Scripted(), ALGORITHM, STATE, 3)
    rollout = pgjax.collect_episodes(Scripted(), ALGORITHM, STATE, np.int64(3))
    assert_trees_equal(rollout, expected)


def test_runs_with_adjacent_seeds_share_no_reset_seed():
    seen = []
    env = Scripted(mean_length=1)
    for run in range(20):
        state = ALGORITHM.init(jax.random.key(run), np.zeros(3, np.float32))
        pgjax.collect_episodes(env, ALGORITHM, state, 100)
    seen = env.seeds
    assert len(seen) == len(set(seen)) == 2000
    assert all(0 <= seed < 2**32 for seed in seen)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * (x in ("delayed", "observation"))) for x in PROBES],
)
def test_values_of_probe_environments_are_learned(name):
    reward, length = PROBES[name]
    env = SyncVectorEnv([lambda: Probe(reward, length)])
    gamma = 0.5
    critic = pgjax.ValueNetwork((16,))
    algorithm = pgjax.reinforce(
        pgjax.SoftmaxPolicy(2, (16,)), optax.adam(0.03), critic=critic,
        estimator=advantages.gae(gamma, 0.9),
    )  # fmt: skip
    state = algorithm.init(jax.random.key(0), np.zeros(2, np.float32))
    for _ in range(200):
        rollout = pgjax.collect_episodes(env, algorithm, state, 16)
        state, _ = algorithm.update(state, rollout)
    obs = np.array([[-1, 0], [1, 0], [-1, 1], [1, 1]], np.float32)[: 2 * length]
    value = critic.apply({"params": state.params["critic"]}, obs)
    expected = {
        "constant": [1, 1],
        "observation": [-1, 1],
        "delayed": [gamma, gamma, 1, 1],
        "action": [1, 1],
        "both": [1, 1],
    }[name]
    np.testing.assert_allclose(value, expected, atol=0.1)
    best = {"action": [1, 1], "both": [0, 1]}
    if name in best:
        p = np.asarray(
            jax.nn.softmax(pgjax.SoftmaxPolicy(2, (16,)).apply(state.params, obs).logits)
        )
        assert (p[np.arange(2), best[name]] > 0.95).all()
