"""Streams on the device: fixed lengths, true successors, and statistics of finished episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal

import pgjax
from pgjax import envs
from pgjax.collect.device_streams import finished_info
from pgjax.envs.base import Box, Discrete, Env

KEY = jax.random.key(3)


def counter(limit=None):
    """A state counts up from 0 or 1; the reward is the action, and an episode ends at 3."""

    def observed(state):
        return jnp.float32(state)[None]

    def reset(key):
        state = jax.random.randint(key, (), 0, 2)
        return state, observed(state)

    def step(key, state, action):
        after = state + 1
        return after, observed(after), jnp.float32(action), after >= 3, jnp.bool_(False)

    env = Env(reset, step, Box(0.0, 9.0, (1,)), Discrete(2))
    return env if limit is None else envs.time_limit(env, limit)


COUNTER, SHORT = counter(), counter(limit=2)
POLICY = pgjax.SoftmaxPolicy(2, (4,))
ALGORITHM = pgjax.ppo(
    POLICY, optax.adam(0.01), critic=pgjax.ValueNetwork((4,)), num_epochs=1, minibatch_size=None
)
STATE = ALGORITHM.init(jax.random.key(0), np.zeros(1, np.float32))


def rollouts(env, num_envs, num_steps, count):
    """Return consecutive rollouts, as NumPy arrays, and the stream after each."""
    stream, found = pgjax.init_stream(env, KEY, num_envs), []
    for i in range(count):
        state = STATE._replace(step=jnp.int32(i))
        rollout, stream = pgjax.collect_steps_on_device(env, ALGORITHM, state, stream, num_steps)
        found.append((jax.tree.map(np.asarray, rollout), stream))
    return found


def joined(found):
    return jax.tree.map(lambda *x: np.concatenate(x), *(rollout for rollout, _ in found))


@pytest.mark.parametrize(("env", "limit"), [(COUNTER, 9), (SHORT, 2)])
def test_episodes_begin_and_end_inside_a_rollout_and_continue_in_the_next(env, limit):
    rollout = joined(rollouts(env, num_envs=11, num_steps=5, count=3))
    assert rollout.obs.shape == (15, 11, 1)
    over = rollout.terminated | rollout.truncated
    np.testing.assert_array_equal(rollout.weight, 1.0)
    np.testing.assert_array_equal(rollout.reward, rollout.action)
    np.testing.assert_array_equal(rollout.next_obs, rollout.obs + 1)  # at ends too
    np.testing.assert_array_equal(rollout.terminated, rollout.next_obs[..., 0] == 3)
    length = np.zeros(11, int)
    for t in range(15):
        length += 1
        np.testing.assert_array_equal(rollout.truncated[t], length == limit)
        length[over[t]] = 0
    after = rollout.obs[1:]
    assert set(after[over[:-1]].ravel()) == {0.0, 1.0}
    np.testing.assert_array_equal(after[~over[:-1]], rollout.next_obs[:-1][~over[:-1]])
    assert set(rollout.obs[0].ravel()) == {0.0, 1.0}


# Less than a block of rows, and more than two.
@pytest.mark.parametrize("num_envs", [3, pytest.param(65, marks=pytest.mark.slow)])
def test_actions_are_drawn_with_the_keys_of_column_and_time(num_envs):
    found = rollouts(COUNTER, num_envs, num_steps=4, count=2)
    for update, (rollout, _) in enumerate(found):
        for t in range(4):
            keys = jax.vmap(lambda e, t=t: jax.random.fold_in(jax.random.fold_in(STATE.key, e), t))
            columns = jnp.arange(num_envs, dtype=jnp.uint32) + num_envs * update
            expected = ALGORITHM.act(STATE.params, keys(columns), rollout.obs[t])
            np.testing.assert_array_equal(rollout.action[t], expected)


def by_hand(found):
    """The episodes that ended in each rollout, as (return, length, truncated)."""
    ended, running = [], None
    for rollout, _ in found:
        running = np.zeros((2, rollout.reward.shape[1])) if running is None else running
        ended.append([])
        for t in range(len(rollout.reward)):
            running += np.stack([rollout.reward[t], rollout.weight[t]])
            for b in np.flatnonzero(rollout.terminated[t] | rollout.truncated[t]):
                cut = rollout.truncated[t, b] and not rollout.terminated[t, b]
                ended[-1].append((*running[:, b], cut))
                running[:, b] = 0
    return ended, running


@pytest.mark.parametrize("env", [COUNTER, SHORT])
def test_metrics_are_of_the_episodes_that_ended_in_the_rollout(env):
    found = rollouts(env, num_envs=5, num_steps=4, count=3)
    ended, _ = by_hand(found)
    for episodes, (_, stream) in zip(ended, found, strict=True):
        info = {name: float(x) for name, x in finished_info(stream, pgjax.Sharding()).items()}
        returns, lengths, cut = np.array(episodes).T
        expected = {
            "episodes": len(episodes), "truncated_fraction": cut.mean(),
            "mean_return": returns.mean(), "min_return": returns.min(),
            "max_return": returns.max(), "mean_length": lengths.mean(),
            "min_length": lengths.min(), "max_length": lengths.max(),
        }  # fmt: skip
        assert info == pytest.approx(expected, rel=1e-6)


def test_before_the_first_end_metrics_are_of_the_running_episodes_and_later_of_the_last_ended():
    found = rollouts(COUNTER, num_envs=4, num_steps=1, count=4)
    ended, _ = by_hand(found)
    counts = [len(episodes) for episodes in ended]
    assert counts[0] == 0
    assert 0 < counts[1] < 4
    infos = [finished_info(stream, pgjax.Sharding()) for _, stream in found]
    assert [int(info["episodes"]) for info in infos] == counts
    assert float(infos[0]["mean_length"]) == 1.0
    assert float(infos[0]["mean_return"]) == found[0][0].reward.mean()
    # Steps 3 and 4: some columns end again, or none does and the last episodes are repeated.
    for i in (1, 2, 3):
        last = next(episodes for episodes in reversed(ended[: i + 1]) if episodes)
        if counts[i]:
            assert float(infos[i]["mean_length"]) == np.mean([length for _, length, _ in last])
        assert 2 <= float(infos[i]["min_length"]) <= float(infos[i]["max_length"]) <= 3


def test_training_step_collects_and_updates():
    step = pgjax.training_step(ALGORITHM, COUNTER, num_envs=3, num_steps=4)
    stream = pgjax.init_stream(COUNTER, KEY, 3)
    state, after, info = jax.jit(step)(STATE, stream)
    rollout, expected = pgjax.collect_steps_on_device(COUNTER, ALGORITHM, STATE, stream, 4)
    assert_trees_equal(after, expected)
    updated, plain = ALGORITHM.update(STATE, rollout)
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(updated.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    assert int(info["env_steps"]) == int(plain["env_steps"]) == 12
    assert int(info["episodes"]) == int(after.ended.sum())


def test_streams_of_two_keys_or_columns_differ():
    first, second = (pgjax.init_stream(COUNTER, jax.random.key(i), 64).obs for i in (0, 1))
    assert 10 < float(first.sum()) < 54
    assert (first != second).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pgjax.init_stream(COUNTER, KEY, 0), "num_envs must be an integer"),
        (lambda: pgjax.init_stream("CartPole-v1", KEY, 2), "pgjax.envs.make"),
        (
            lambda: pgjax.collect_steps_on_device(COUNTER, ALGORITHM, STATE, COUNTER, 2),
            "from pgjax.init_stream",
        ),
        (
            lambda: pgjax.collect_steps_on_device(
                COUNTER, ALGORITHM, STATE, pgjax.init_stream(COUNTER, KEY, 2), 0
            ),
            "num_steps must be an integer",
        ),
        (lambda: pgjax.training_step(ALGORITHM, COUNTER), "takes num_episodes for whole episodes"),
        (lambda: pgjax.training_step(ALGORITHM, COUNTER, num_envs=2), "num_envs and num_steps"),
        (
            lambda: pgjax.training_step(ALGORITHM, COUNTER, 2, num_envs=2, num_steps=2),
            "takes num_episodes",
        ),
        (
            lambda: pgjax.training_step(ALGORITHM, COUNTER, num_envs=3, num_steps=2)(
                STATE, pgjax.init_stream(COUNTER, KEY, 2)
            ),
            "the stream has 2 environments, not num_envs=3",
        ),
        (
            lambda: pgjax.training_step(ALGORITHM, COUNTER, num_envs=2, num_steps=2)(STATE, None),
            "from pgjax.init_stream",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        call()
