"""Streams of steps: what stands in every row, in each way a vector may reset itself."""

import functools
import itertools
import json
import time

import gymnasium as gym
import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from spaces_envs import FEW_KINDS, SPACES, algorithm_for, ends, make, script

import pgjax
from pgjax.collect.noise import episode_keys, reset_seeds
from pgjax.collect.steps import Stream, collect_steps
from pgjax.training.verify import verify

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


def as_vector(kind, n, mode):
    """A vector that is not taken apart into its environments."""
    env = SyncVectorEnv([functools.partial(make, kind, kind)] * n, autoreset_mode=mode)
    return gym.vector.VectorWrapper(env)


def expected_rows(kind, seeds, gap):
    """(flattened obs, next obs, reward, flags, weight) of episodes one after the other."""
    for seed in seeds:
        rows = [spaces.flatten(SPACES[kind], obs) for obs in script(SPACES[kind], seed)]
        last = len(rows) - 2
        for t in range(last + 1):
            flags = ends(seed) if t == last else (False, False)
            yield rows[t], rows[t + 1], t + 1.0, flags, 1.0
        if gap:
            yield rows[-1], None, 0.0, (False, False), 0.0


def assert_columns(kind, rollouts, seeds, gap):
    """Of several rollouts in a row."""
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
def test_a_vector_that_resets_itself(kind, mode):
    """It goes on with the seeds after the first; the rollouts join without a seam."""
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
def test_one_that_leaves_resets_to_us(kind):
    """One by one, and a vector in mode DISABLED: the same, with seeds of their own."""
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
def test_processes_give_the_same(kind, mode):
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


def test_actions_are_drawn_with_the_key_of_their_column_and_step():
    algorithm, state = algorithm_for("Box", "MultiDiscrete")
    state = state._replace(step=np.int32(5))
    stream = Stream(SyncVectorEnv([functools.partial(make, "Box", "MultiDiscrete")] * 2))
    rollout = collect_steps(stream, algorithm, state, 70)  # more than a block of noise
    for b, t in ((0, 0), (1, 3), (0, 66), (1, 69)):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 5 * 2 + b), t)
        action = algorithm.act(state.params, key, rollout.obs[t, b])
        np.testing.assert_array_equal(action, rollout.action[t, b])


def test_gymnasium_s_own_vectors():
    """CartPole as one program: it takes one seed, and a step to reset itself."""
    env = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
    stream = Stream(env)
    rollout = collect_steps(stream, algorithm, state, 100)
    real, over = rollout.weight > 0, rollout.terminated | rollout.truncated
    assert over.sum() > 4
    np.testing.assert_array_equal(~real[1:], over[:-1])
    # what follows is what came next, but across a reset
    goes_on = real[:-1] & real[1:]
    np.testing.assert_array_equal(rollout.obs[1:][goes_on], rollout.next_obs[:-1][goes_on])
    begun = rollout.obs[1:][~real[:-1]]
    assert (np.abs(begun) <= 0.05).all()
    told = stream.episode_info()
    assert told["episodes"] == over.sum()
    np.testing.assert_allclose(told["mean_return"], told["mean_length"])
    lengths = [np.diff(np.flatnonzero(np.r_[True, over[:, b]])) for b in range(4)]
    # between two ends lies the step of the reset
    exact = [n - (i > 0) for column in lengths for i, n in enumerate(column.tolist())]
    np.testing.assert_allclose(told["mean_length"], np.mean(exact))


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_cut_short_a_stream_begins_anew(mode):
    """Environments have moved on: their next observation is not the one that was kept."""

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
    for last in range(6, 11):  # just after some episode's end, among others
        stream = Stream(Interrupted(as_vector("Box", 3, mode), last))
        collect_steps(stream, algorithm, state, 5)
        with pytest.raises(KeyboardInterrupt):
            collect_steps(stream, algorithm, state, 5)
        again = collect_steps(stream, algorithm, state, 20)
        for a, b in zip(again, fresh, strict=True):
            np.testing.assert_array_equal(a, b)


def test_streams_squash():
    """tanh of the raw action, scaled to the bounds of each dimension."""
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


def test_a_stream_that_hangs_is_given_up():
    class Hangs(gym.Env):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = SPACES["Box"]

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            while True:
                time.sleep(0.01)

    algorithm, state = algorithm_for("Box", "Box")
    with pytest.raises(pgjax.RolloutError, match=r"step 0: .*not come back for more than 0.2 s"):
        collect_steps(Stream(Hangs(), step_timeout=0.2), algorithm, state, 4)


def test_gymnasium_s_functional_vectors_are_refused():
    env = gym.make_vec("phys2d/CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(pgjax.SpaceError, match="loses a step"):
        Stream(env)


def test_same_step_without_the_successor():
    class Forgets(gym.vector.VectorWrapper):
        def step(self, actions):
            return (*super().step(actions)[:-1], {})

    algorithm, state = algorithm_for("Box", "Box")
    with pytest.raises(pgjax.RolloutError, match="gave no info.*SAME_STEP"):
        collect_steps(Stream(Forgets(as_vector("Box", 2, SAME))), algorithm, state, 20)


class Failing(gym.Env):
    """Wrong at step 3."""

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
        ((np.full(3, np.nan, np.float32), 0.0, False, False, {}), "step 4: the observation is not"),
        ((np.zeros(3, np.float32), np.inf, False, False, {}), "step 3: the reward is not finite"),
        ((np.zeros(4, np.float32), 0.0, False, False, {}), "step 4: the observation has shape"),
        ((np.zeros(3, np.float32), 0.0, False, {}), "step 3: step returned 4 values, not"),
        (None, "step 3: step returned None, not"),
        ((np.zeros(3, np.float32), "a", False, False, {}), "step 3: the reward is 'a', not"),
        ((np.zeros(3, np.float32), 0.0, np.zeros(2), False, {}), "step 3: .* not two flags"),
    ],
)
def test_what_goes_wrong_is_told(wrong, words):
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
    state = algorithm.init(jax.random.key(0), np.zeros(3, np.float32))
    with pytest.raises(pgjax.RolloutError, match=words):
        collect_steps(Stream(Failing(wrong)), algorithm, state, 8)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True])
def test_num_steps_out_of_range(num_steps):
    algorithm, state = algorithm_for("Box", "Box")
    with pytest.raises(pgjax.ConfigError, match="num_steps"):
        collect_steps(Stream(make("Box", "Box")), algorithm, state, num_steps)


CONFIG = dict(
    collect="steps", critic=True, estimator="gae", num_envs=2, num_steps=16, updates=3,
    hidden_sizes=(8,), eval_episodes=2,
)  # fmt: skip


def test_runs_of_streams(tmp_path):
    with pytest.warns(pgjax.RunWarning, match="not bit-exact: streams of steps begin anew"):
        one, two = (
            pgjax.train(pgjax.TrainConfig("CartPole-v1", run_dir=tmp_path / str(i), **CONFIG))
            for i in range(2)
        )
    assert_trees_equal(one.state, two.state)
    assert one.metrics[-1]["total_env_steps"] == 3 * 2 * 16
    manifest = json.loads((one.path / "manifest.json").read_text())
    assert "begin anew" in str(manifest)
    # from the beginning, since a stream goes on from no checkpoint
    assert verify(one.path, first=3)["identical"]
    with pytest.warns(pgjax.RunWarning, match="begin anew"):
        [longer] = pgjax.resume(one.path, updates=5)
    assert len(longer.metrics) == 5
    assert verify(one.path) == {"identical": True, "first": 1, "last": 3}
    with pytest.raises(pgjax.ConfigError, match="1:3 can be compared: a stream"):
        verify(one.path, last=4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"critic": False, "estimator": "reward_to_go"}, "add --critic"),
        ({"on_device": True}, "leave out --collect steps"),
        ({"leave_one_out": True}, "whole episodes"),
        ({"time_discount": True}, "whole episodes"),
        ({"vectorization": "envpool", "frame_stack": 2}, "not with envpool"),
        ({"collect": "episodes", "vectorization": "envpool"}, "add --collect steps"),
    ],
)
def test_what_does_not_go_together(change, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        pgjax.TrainConfig("CartPole-v1", **{**CONFIG, **change})


def test_an_error_ends_what_was_counted():
    """Episodes of three rewards of 1; the second observation of the second stream is wrong."""

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
    told = stream.episode_info()
    assert (told["episodes"], told["mean_return"], told["max_length"]) == (2, 3.0, 3.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # envpool's own
def test_envpool(tmp_path):
    """Its CartPole as Gymnasium's: steps that reset weigh nothing, and runs are evaluated."""
    pytest.importorskip("envpool")
    config = pgjax.TrainConfig(
        "CartPole-v1", vectorization="envpool", run_dir=tmp_path / "run", **CONFIG
    )
    with pytest.warns(pgjax.RunWarning, match="begin anew"):
        run = pgjax.train(config)
    assert run.metrics[-1]["total_env_steps"] <= 3 * 2 * 16
    assert pgjax.evaluate(run, 2)["episodes"] == 2
    assert_trees_equal(pgjax.load(run.path).state, run.state)
    other = dict(CONFIG, vectorization="envpool", run_dir=tmp_path / "other")
    with pytest.raises(pgjax.ConfigError, match="other spaces than Gymnasium's"):
        pgjax.train(pgjax.TrainConfig("Blackjack-v1", **other))
    with pytest.raises(pgjax.ConfigError, match="envpool cannot make"):
        pgjax.train(pgjax.TrainConfig("NoSuchThing-v1", **other))
    assert not (tmp_path / "other").exists()
