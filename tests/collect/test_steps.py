"""Streams of steps: the content of every row, in each autoreset mode of a vector."""

import functools
import itertools
import time

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from spaces_envs import FEW_KINDS, SPACES, algorithm_for, ends, make, script

import pgjax
from pgjax.collect.noise import episode_keys, reset_seeds
from pgjax.collect.steps import Stream, collect_steps

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


def as_vector(kind, n, mode):
    """Return a vector that a stream steps as a whole, not environment by environment."""
    env = SyncVectorEnv([functools.partial(make, kind, kind)] * n, autoreset_mode=mode)
    return gym.vector.VectorWrapper(env)


def expected_rows(kind, seeds, gap):
    """Yield (flattened obs, next obs, reward, flags, weight) of consecutive episodes."""
    for seed in seeds:
        rows = [spaces.flatten(SPACES[kind], obs) for obs in script(SPACES[kind], seed)]
        last = len(rows) - 2
        for t in range(last + 1):
            flags = ends(seed) if t == last else (False, False)
            yield rows[t], rows[t + 1], t + 1.0, flags, 1.0
        if gap:
            yield rows[-1], None, 0.0, (False, False), 0.0


def assert_columns(kind, rollouts, seeds, gap):
    """Check consecutive rollouts; `seeds` returns the reset seeds of a column."""
    for b in range(rollouts[0].weight.shape[1]):
        rows = expected_rows(kind, seeds(b), gap)
        for rollout in rollouts:
            for t in range(len(rollout.weight)):
                obs, next_obs, reward, flags, weight = next(rows)
                assert rollout.weight[t, b] == weight
                np.testing.assert_allclose(rollout.obs[t, b], obs, rtol=1e-6)
                assert rollout.reward[t, b] == reward
                assert (rollout.terminated[t, b], rollout.truncated[t, b]) == flags
                if weight:
                    np.testing.assert_allclose(rollout.next_obs[t, b], next_obs, rtol=1e-6)


@FEW_KINDS
@pytest.mark.parametrize("mode", [NEXT, SAME], ids=["NEXT_STEP", "SAME_STEP"])
def test_a_vector_that_resets_its_environments_itself(kind, mode):
    """Its resets use consecutive seeds; the second rollout continues where the first stopped."""
    algorithm, state = algorithm_for(kind, kind)
    stream = Stream(as_vector(kind, 3, mode))
    rollouts = [
        collect_steps(stream, algorithm, state._replace(step=np.int32(i)), 13) for i in range(2)
    ]
    seeds = _seeds_of(state, 3)
    assert_columns(kind, rollouts, lambda b: itertools.count(seeds[b]), gap=mode == NEXT)


def _seeds_of(state, count):
    numbers = np.arange(count, dtype=np.uint32)
    return np.asarray(reset_seeds(episode_keys(state.key, numbers))).tolist()


@FEW_KINDS
def test_environments_that_the_stream_resets(kind):
    """A vector in mode DISABLED gives the same as its environments in series; no seed repeats."""
    algorithm, state = algorithm_for(kind, kind)
    envs = SyncVectorEnv([functools.partial(make, kind, kind)] * 3)
    seen = [[] for _ in envs.envs]
    for env, seeds in zip(envs.envs, seen, strict=True):
        _keep_seeds(env, seeds)
    one_by_one = collect_steps(Stream(envs), algorithm, state, 20)
    assert_columns(kind, [one_by_one], lambda b: seen[b], gap=False)
    assert len(set(itertools.chain(*seen))) == sum(map(len, seen))
    assert [seeds[0] for seeds in seen] == _seeds_of(state, 3)
    disabled = collect_steps(Stream(as_vector(kind, 3, DISABLED)), algorithm, state, 20)
    for a, b in zip(one_by_one, disabled, strict=True):
        np.testing.assert_array_equal(a, b)


def _keep_seeds(env, seeds):
    reset = env.reset

    def keep(*, seed=None, options=None):
        seeds.append(seed)
        return reset(seed=seed, options=options)

    env.reset = keep


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("nested", SAME)]
    + [
        pytest.param(kind, mode, marks=pytest.mark.slow)
        for kind in SPACES
        for mode in (NEXT, SAME, DISABLED)
    ],
)
def test_a_vector_of_processes_gives_the_same_stream(kind, mode):
    algorithm, state = algorithm_for(kind, kind)
    env = AsyncVectorEnv(
        [functools.partial(make, kind, kind)] * 2, context="spawn", autoreset_mode=mode
    )
    try:
        theirs = collect_steps(Stream(env), algorithm, state, 12)
    finally:
        env.close()
    ours = collect_steps(Stream(as_vector(kind, 2, mode)), algorithm, state, 12)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_actions_are_drawn_with_the_key_of_their_column_and_time():
    algorithm, state = algorithm_for("Box", "MultiDiscrete")
    state = state._replace(step=np.int32(5))
    stream = Stream(SyncVectorEnv([functools.partial(make, "Box", "MultiDiscrete")] * 2))
    rollout = collect_steps(stream, algorithm, state, 70)  # more than a block of noise
    for b, t in ((0, 0), (1, 3), (0, 66), (1, 69)):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 5 * 2 + b), t)
        action = algorithm.act(state.params, key, rollout.obs[t, b])
        np.testing.assert_array_equal(action, rollout.action[t, b])


def test_many_environments_act_as_each_would_alone():
    """More than 64 environments act in blocks of 64, and one is a block of 8."""
    env = gym.make_vec("CartPole-v1", num_envs=70, vectorization_mode="vector_entry_point")
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (8,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))._replace(step=np.int32(2))
    stream = Stream(env)
    rollout = collect_steps(stream, algorithm, state, 30)
    steps = np.arange(30, dtype=np.uint32)
    for b in (0, 63, 64, 69):
        key = jax.random.fold_in(state.key, 2 * 70 + b)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, steps)
        actions = algorithm.act(state.params, keys, rollout.obs[:, b])
        np.testing.assert_array_equal(rollout.action[:, b], actions)
    # Its episodes, counted column by column in plain Python.
    lengths = []
    for b in range(70):
        length = 0.0
        for t in range(30):
            length += rollout.weight[t, b]
            if rollout.terminated[t, b] or rollout.truncated[t, b]:
                lengths.append((t, b, length))
                length = 0.0
    lengths = [length for _, _, length in sorted(lengths)]
    info = stream.episode_info()
    assert info["episodes"] == len(lengths) > 50
    assert info["mean_length"] == pytest.approx(np.mean(lengths))
    assert (info["min_return"], info["max_return"]) == (min(lengths), max(lengths))


def test_a_vector_with_one_seed_for_all_environments():
    """Gymnasium's vector of CartPole takes one seed for all, and one step for each reset."""
    env = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    stream = Stream(env)
    rollout = collect_steps(stream, algorithm, state, 100)
    real, over = rollout.weight > 0, rollout.terminated | rollout.truncated
    assert over.sum() > 4
    np.testing.assert_array_equal(~real[1:], over[:-1])
    # The next observation is the successor, except across a reset.
    continues = real[:-1] & real[1:]
    np.testing.assert_array_equal(rollout.obs[1:][continues], rollout.next_obs[:-1][continues])
    begun = rollout.obs[1:][~real[:-1]]
    assert (np.abs(begun) <= 0.05).all()
    info = stream.episode_info()
    assert info["episodes"] == over.sum()
    np.testing.assert_allclose(info["mean_return"], info["mean_length"])
    lengths = [np.diff(np.flatnonzero(np.r_[True, over[:, b]])) for b in range(4)]
    # Between two ends, the reset takes one step too.
    exact = [n - (i > 0) for column in lengths for i, n in enumerate(column.tolist())]
    np.testing.assert_allclose(info["mean_length"], np.mean(exact))


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_an_interrupted_stream_begins_new_episodes(mode):
    """The environments have stepped on, so the observation that the stream kept is outdated."""

    class Interrupted(gym.vector.VectorWrapper):
        def __init__(self, env, steps):
            super().__init__(env)
            self.left = steps

        def step(self, actions):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().step(actions)

    algorithm, state = algorithm_for("Box", "Box")
    fresh = collect_steps(Stream(as_vector("Box", 3, mode)), algorithm, state, 20)
    for last in range(6, 11):  # some of these are just after the end of an episode
        stream = Stream(Interrupted(as_vector("Box", 3, mode), last))
        collect_steps(stream, algorithm, state, 5)
        with pytest.raises(KeyboardInterrupt):
            collect_steps(stream, algorithm, state, 5)
        again = collect_steps(stream, algorithm, state, 20)
        for a, b in zip(again, fresh, strict=True):
            np.testing.assert_array_equal(a, b)


def test_squash_scales_tanh_to_the_bounds():
    sent = []

    class Sent(gym.Env):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = SPACES["Box"]

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            sent.append(action)
            return np.zeros(2, np.float32), 0.0, False, False, {}

    algorithm, state = algorithm_for("Box", "Box")
    rollout = collect_steps(Stream(Sent(), squash=True), algorithm, state, 30)
    low, high = Sent.action_space.low, Sent.action_space.high
    expected = low + (high - low) * (np.tanh(rollout.action[:, 0].astype(float)) + 1) / 2
    np.testing.assert_allclose(sent, expected, rtol=1e-5, atol=1e-6)


def test_a_stream_that_hangs_is_an_error():
    class Hangs(gym.Env):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = SPACES["Box"]

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            while True:
                time.sleep(0.01)

    algorithm, state = algorithm_for("Box", "Box")
    with pytest.raises(pgjax.RolloutError, match=r"step 0: .*not returned for more than 0.2 s"):
        collect_steps(Stream(Hangs(), step_timeout=0.2), algorithm, state, 4)


def test_same_step_without_final_observations_is_refused():
    class Forgets(gym.vector.VectorWrapper):
        def step(self, actions):
            return (*super().step(actions)[:-1], {})

    algorithm, state = algorithm_for("Box", "Box")
    with pytest.raises(pgjax.RolloutError, match="ended without info.*SAME_STEP"):
        collect_steps(Stream(Forgets(as_vector("Box", 2, SAME))), algorithm, state, 20)


class Failing(gym.Env):
    """An environment whose step 3 returns or raises something wrong."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, wrong):
        self._wrong = wrong

    def reset(self, *, seed=None, options=None):
        self._t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self._t += 1
        if self._t == 4:
            if isinstance(self._wrong, Exception):
                raise self._wrong
            return self._wrong
        return np.zeros(3, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (RuntimeError("broken"), "environment 0, update 1, step 3: .*broken"),
        ((np.full(3, np.nan, np.float32), 0.0, False, False, {}), "step 4: the observation is nan"),
        ((np.zeros(3, np.float32), np.inf, False, False, {}), "step 3: the reward is inf, not"),
        ((np.zeros(4, np.float32), 0.0, False, False, {}), "step 4: the observation has shape"),
        ((np.zeros(3, np.float32), 0.0, False, {}), "step 3: step returned 4 values, not"),
        (None, "step 3: step returned None, not"),
        ((np.zeros(3, np.float32), "a", False, False, {}), "step 3: the reward is 'a' .str., not"),
        (
            (np.zeros(3, np.float32), 0.0, np.zeros(2), False, {}),
            "step 3: terminated is .* not True or False",
        ),
    ],
)
def test_an_error_names_environment_update_and_step(wrong, words):
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    with pytest.raises(pgjax.RolloutError, match=words) as caught:
        collect_steps(Stream(Failing(wrong)), algorithm, state, 8)
    assert caught.value.__cause__ is (wrong if isinstance(wrong, Exception) else None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (RuntimeError("broken"), "environment 1, update 1, step 2: the environment raised"),
        ((np.zeros(3, np.float32), "a", {}), "environment 1, update 1, step 2: .*returned"),
        ((np.zeros(4, np.float32), {}), "environment 1, update 1, step 3: .*has shape"),
    ],
)
def test_an_error_in_a_reset_between_two_steps(wrong, words):
    class ResetFails(Failing):
        resets = 0

        def reset(self, *, seed=None, options=None):
            self.resets += 1
            if self.resets == 2 and isinstance(wrong, Exception):
                raise wrong
            return wrong if self.resets == 2 else super().reset(seed=seed)

        def step(self, action):
            self._t += 1
            return np.zeros(3, np.float32), 0.0, self._t == 3, False, {}

    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    envs = SyncVectorEnv([lambda: Failing(None), lambda: ResetFails(None)])
    with pytest.raises(pgjax.RolloutError, match=words):
        collect_steps(Stream(envs), algorithm, state, 8)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True])
def test_num_steps_out_of_range(num_steps):
    algorithm, state = algorithm_for("Box", "Box")
    with pytest.raises(pgjax.ConfigError, match="num_steps"):
        collect_steps(Stream(make("Box", "Box")), algorithm, state, num_steps)


def test_episode_counts_restart_after_an_error():
    """Episodes have three rewards of 1; the third observation of the first one is wrong."""

    class Three(gym.Env):
        observation_space = spaces.Box(-1, 1, (3,), np.float32)
        action_space = spaces.Discrete(2)
        wrong = True

        def reset(self, *, seed=None, options=None):
            self._t = 0
            return np.zeros(3, np.float32), {}

        def step(self, action):
            self._t += 1
            bad = self.wrong and self._t == 2
            obs = np.full(3, np.nan if bad else 0.0, np.float32)
            return obs, 1.0, self._t == 3, False, {}

    env = Three()
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    stream = Stream(env)
    with pytest.raises(pgjax.RolloutError):
        collect_steps(stream, algorithm, state, 2)
    env.wrong = False
    collect_steps(stream, algorithm, state, 2)
    assert stream.episode_info()["episodes"] == 0
    assert stream.episode_info()["mean_return"] == 2.0  # so far
    collect_steps(stream, algorithm, state, 5)
    info = stream.episode_info()
    assert (info["episodes"], info["mean_return"], info["max_length"]) == (2, 3.0, 3.0)


def test_arguments_of_the_wrong_type_are_named():
    env = gym.make("CartPole-v1")
    stream = pgjax.Stream(env)
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    for_three = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    for collect, source in ((pgjax.collect_episodes, env), (pgjax.collect_steps, stream)):
        for args, words in (
            ((source, state, algorithm, 2), "a pgjax.Algorithm is needed here, got .* TrainState"),
            (
                (source, algorithm, state.params, 2),
                "a pgjax.TrainState is needed here, got .* dict",
            ),
            ((source, algorithm, state, True), "must be an integer of at least 1, got True"),
            ((source, algorithm, for_three, 2), r"shape \(3, 2\), but observations \[..., 4\]"),
            (("CartPole-v1", algorithm, state, 2), "CartPole-v1"),
        ):
            with pytest.raises(pgjax.ConfigError, match=words):
                collect(*args)
