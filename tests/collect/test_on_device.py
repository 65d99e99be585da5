"""The on-device engine agrees with the Python loop, on any number of devices."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, assert_trees_equal, make_rollout

import pgjax
from pgjax import envs
from pgjax.types import zero_padding

SEED = 3
CARTPOLE = envs.make("CartPole-v1", max_episode_steps=70)
SOFTMAX = pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.03))


def trimmed(rollout, length):
    rollout = zero_padding(jax.tree.map(jnp.asarray, rollout))
    assert not rollout.weight[length:].any()
    return jax.tree.map(lambda x: x[:length], rollout)


@pytest.mark.parametrize(
    ("env_id", "policy", "num_episodes"),
    [
        ("CartPole-v1", pgjax.SoftmaxPolicy(2), 40),
        pytest.param(
            "Pendulum-v1", pgjax.GaussianPolicy(1, (64, 64), nn.tanh), 5, marks=pytest.mark.slow
        ),
    ],
)
def test_both_engines_give_the_same_bits(env_id, policy, num_episodes):
    """The episodes, the updates and their metrics."""
    env = envs.make(env_id, max_episode_steps=100)
    other = envs.as_gymnasium(env)
    algorithm = pgjax.reinforce(policy, optax.flatten(optax.adam(0.02)))

    @jax.jit
    def step(state):
        rollout = pgjax.collect_episodes_on_device(env, algorithm, state, num_episodes)
        return rollout, *algorithm.update(state, rollout)

    state = on_device = pgjax.init_on_device(algorithm, env, jax.random.key(SEED))
    for _ in range(3):
        expected = pgjax.collect_episodes(other, algorithm, state, num_episodes)
        got, on_device, info_on_device = step(on_device)
        length = int(expected.weight.sum(0).max())
        assert_trees_equal(trimmed(got, length), trimmed(expected, length))
        state, info = algorithm.update(state, expected)
        assert_trees_equal(on_device, state)
        assert_trees_equal(info_on_device, info)


def test_no_block_is_simulated_after_the_last_episode_has_ended():
    env = envs.make("CartPole-v1")
    state = pgjax.init_on_device(SOFTMAX, env, jax.random.key(SEED))
    rollout = pgjax.collect_episodes_on_device(env, SOFTMAX, state, 8)
    longest = int(rollout.weight.sum(0).max())
    assert 8 < longest < 63  # the first of eight blocks of 63
    np.testing.assert_array_equal(rollout.obs[63:], 0.0)
    assert rollout.obs[longest - 1].any()
    assert rollout.weight.shape == (504, 8)


def test_a_time_limit_truncates():
    """Pendulum never terminates."""
    env = envs.make("Pendulum-v1", max_episode_steps=3)
    algorithm = pgjax.reinforce(pgjax.GaussianPolicy(1, ()), optax.adam(0.02))
    state = pgjax.init_on_device(algorithm, env, jax.random.key(SEED))
    rollout = pgjax.collect_episodes_on_device(env, algorithm, state, 2)
    assert not rollout.terminated.any()
    np.testing.assert_array_equal(rollout.truncated[:3], [[False] * 2, [False] * 2, [True] * 2])


@pytest.mark.slow
def test_map_over_seeds_keeps_the_bits_and_vmap_rounds_differently():
    sharding = pgjax.Sharding(2)
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(0.03), sharding=sharding)
    step = pgjax.training_step(algorithm, CARTPOLE, 4, sharding=sharding)

    def run(seed):
        state = pgjax.init_on_device(algorithm, CARTPOLE, jax.random.key(seed))
        return jax.lax.scan(lambda s, _: step(s), state, None, length=3)[0].params

    seeds = jnp.arange(3)
    single = [jax.jit(run)(seed) for seed in seeds]
    single = jax.tree.map(lambda *x: jnp.stack(x), *single)
    assert_trees_equal(jax.jit(lambda s: jax.lax.map(run, s))(seeds), single)
    near = jax.jit(jax.vmap(run))(seeds)
    for x, y in zip(jax.tree.leaves(near), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import optax, pgjax
from jax.sharding import PartitionSpec as P
env = pgjax.envs.make("Pendulum-v1", max_episode_steps=70)
sharding = pgjax.Sharding(8, "devices")  # for 12 episodes: two columns each, some of them empty
make = {make}
algorithm = make(
    pgjax.GaussianPolicy(1), optax.adam(0.02), critic=pgjax.ValueNetwork((16,)),
    estimator=pgjax.advantages.normalized(pgjax.advantages.gae(0.95, 0.9)),
    sharding=sharding,
)
step = pgjax.training_step(algorithm, env, 12, sharding=sharding)
for n in (1, 8):
    mesh = jax.make_mesh((n,), ("devices",), devices=jax.devices()[:n])
    run = lambda state: jax.lax.scan(lambda s, _: step(s), state, None, length=3)
    state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
    state = jax.device_put(state, jax.sharding.NamedSharding(mesh, P()))
    run = jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    state, info = jax.jit(run)(state)
    print(pgjax.runs.digests.params_sha256(state.params), info["mean_return"], info["episodes"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        "pgjax.reinforce",
        "lambda *x, **options: pgjax.ppo(*x, num_epochs=3, minibatch_size=200, **options)",
        "lambda policy, optimizer, **options: pgjax.npg(policy, critic_optimizer=optimizer, "
        "num_epochs=3, minibatch_size=200, line_search=True, **options)",
    ],
)
def test_1_and_8_devices_give_the_same_bits(make):
    done = subprocess.run(
        [sys.executable, "-c", DEVICES.replace("{make}", make)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert "[12 12 12]" in lines[0]


STREAMS = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import optax, pgjax
from jax.sharding import NamedSharding, PartitionSpec as P
env = pgjax.envs.make("Acrobot-v1", max_episode_steps=20)
sharding = pgjax.Sharding(8, "devices")
algorithm = pgjax.ppo(
    pgjax.SoftmaxPolicy(3), optax.adam(0.02), critic=pgjax.ValueNetwork((16,)), num_epochs=2,
    minibatch_size=64, sharding=sharding,
)
step = pgjax.training_step(algorithm, env, num_envs=8, num_steps=32)
for n in (1, 2, 8):  # on eight devices, each has one environment
    mesh = jax.make_mesh((n,), ("devices",), devices=jax.devices()[:n])
    state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
    state = jax.device_put(state, NamedSharding(mesh, P()))
    def run(state):
        stream = pgjax.init_stream(env, state.key, 8, sharding=sharding)
        def one(carry, _):
            state, stream, info = step(*carry)
            return (state, stream), info
        (state, _), info = jax.lax.scan(one, (state, stream), None, length=3)
        return state, info
    state, info = jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    )(state)
    print(pgjax.runs.digests.params_sha256(state.params), info["mean_return"], info["episodes"])
"""


@pytest.mark.slow
def test_streams_give_the_same_bits_on_any_number_of_devices():
    done = subprocess.run(
        [sys.executable, "-c", STREAMS], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1


def test_errors_name_the_cause_and_the_remedy():
    state = pgjax.init_on_device(SOFTMAX, CARTPOLE, jax.random.key(SEED))

    def collect(env, algorithm=SOFTMAX, n=4, state=state):
        return pgjax.collect_episodes_on_device(env, algorithm, state, n)

    for n in (0, -1, 2.0, True):
        with pytest.raises(pgjax.ConfigError, match="num_episodes"):
            collect(CARTPOLE, n=n)
    with pytest.raises(pgjax.ConfigError, match="time_limit"):
        collect(CARTPOLE._replace(max_episode_steps=None))
    with pytest.raises(pgjax.ConfigError, match="observation must keep"):
        collect(CARTPOLE._replace(reset=lambda key: (CARTPOLE.reset(key)[0], jnp.zeros(5))))
    pendulum = envs.make("Pendulum-v1")
    misfit = pgjax.init_on_device(SOFTMAX, pendulum, jax.random.key(SEED))
    with pytest.raises(pgjax.SpaceError, match="SoftmaxPolicy"):
        collect(pendulum, state=misfit)
    of_three = pgjax.reinforce(pgjax.SoftmaxPolicy(3, (4,)), optax.sgd(0.1))
    state = pgjax.init_on_device(of_three, CARTPOLE, jax.random.key(SEED))
    with pytest.raises(pgjax.SpaceError, match="one of 3 values, but the action space has 2"):
        pgjax.collect_episodes_on_device(CARTPOLE, of_three, state, 1)
    with pytest.raises(pgjax.ConfigError, match="num_shards"):
        pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.sgd(0.1), sharding=pgjax.Sharding(0))


def test_shards_give_the_same_gradient(rng):
    """Sums that are grouped differently differ only by rounding."""
    rollout = make_rollout(rng, [13, 16, 4, 9, 16, 1, 7, 12])
    params = []
    for num_shards in (1, 5):  # 5 shards: two columns of padding
        algorithm = pgjax.reinforce(
            pgjax.SoftmaxPolicy(2),
            optax.sgd(0.1),
            sharding=pgjax.Sharding(num_shards),
            chunk_size=16,
        )
        state = pgjax.init_on_device(algorithm, CARTPOLE, jax.random.key(SEED))
        params.append(algorithm.update(state, rollout)[0].params)
    grads, _ = jax.jit(jax.grad(algorithm.loss, has_aux=True))(state.params, rollout)
    params.append(jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads))
    for other in params[1:]:
        for x, y in zip(jax.tree.leaves(other), jax.tree.leaves(params[0]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_training_step_uses_the_sharding_of_the_algorithm():
    sharding = pgjax.Sharding(8, "devices")
    sharded = pgjax.reinforce(pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1), sharding=sharding)
    for algorithm, wrong in (
        (sharded, pgjax.Sharding(8)),
        (sharded, pgjax.Sharding(4, "devices")),
        (SOFTMAX, sharding),
    ):
        with pytest.raises(pgjax.ConfigError, match="the algorithm was made with Sharding"):
            pgjax.training_step(algorithm, CARTPOLE, 4, sharding=wrong)
    state = jax.eval_shape(
        lambda key: pgjax.init_on_device(sharded, CARTPOLE, key), jax.random.key(0)
    )
    for given in (None, sharding):
        step = pgjax.training_step(sharded, CARTPOLE, np.int64(4), sharding=given)
        jax.eval_shape(_on_one_device(step), state)  # without the axis it would fail


def _on_one_device(step):
    mesh = jax.make_mesh((1,), ("devices",), devices=jax.devices()[:1])
    everywhere = jax.sharding.PartitionSpec()
    return jax.shard_map(
        step, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )


@pytest.mark.parametrize(
    "sharding", [pgjax.Sharding(), pgjax.Sharding(8), pgjax.Sharding(8, "devices")]
)
def test_an_estimator_counts_episodes_without_the_padding_of_shards(sharding):
    algorithm = pgjax.reinforce(
        pgjax.SoftmaxPolicy(2, ()), optax.sgd(0.1), sharding=sharding,
        estimator=pgjax.advantages.leave_one_out(pgjax.advantages.reward_to_go()),
    )  # fmt: skip
    state = jax.eval_shape(
        lambda key: pgjax.init_on_device(algorithm, CARTPOLE, key), jax.random.key(0)
    )
    for num_episodes in (1, 2):
        step = pgjax.training_step(algorithm, CARTPOLE, num_episodes)
        step = step if sharding.axis_name is None else _on_one_device(step)
        if num_episodes == 1:
            with pytest.raises(pgjax.ConfigError, match="at least 2, got 1"):
                jax.eval_shape(step, state)
        else:
            jax.eval_shape(step, state)


def test_arguments_of_the_wrong_type_are_named():
    state = pgjax.init_on_device(SOFTMAX, CARTPOLE, jax.random.key(SEED))
    gymnasium = envs.as_gymnasium(CARTPOLE)
    collect = pgjax.collect_episodes_on_device
    for fn, words in (
        (lambda: collect("CartPole-v1", SOFTMAX, state, 2), r"pgjax.envs.make\('CartPole-v1'\)"),
        (lambda: collect(gymnasium, SOFTMAX, state, 2), "pgjax.collect_episodes takes"),
        (lambda: collect(CARTPOLE, state, SOFTMAX, 2), "a pgjax.Algorithm .* TrainState"),
        (lambda: collect(CARTPOLE, SOFTMAX, state.params, 2), "a pgjax.TrainState .* dict"),
        (lambda: collect(CARTPOLE, SOFTMAX, state, 2, sharding=8), "pgjax.Sharding"),
        (lambda: pgjax.training_step(CARTPOLE, SOFTMAX, 2), "functional environment"),
        (lambda: pgjax.training_step(SOFTMAX, "CartPole-v1", 2), "pgjax.envs.make"),
        (lambda: pgjax.training_step(SOFTMAX, CARTPOLE, True), "num_episodes"),
        (lambda: pgjax.init_on_device(CARTPOLE, SOFTMAX, jax.random.key(0)), "functional env"),
        (lambda: pgjax.init_on_device(SOFTMAX, "CartPole-v1", jax.random.key(0)), "envs.make"),
        (lambda: pgjax.init_on_device(SOFTMAX, CARTPOLE, 0), "typed key"),
        (lambda: envs.check("CartPole-v1"), "pgjax.envs.make"),
        (lambda: envs.time_limit("CartPole-v1", 5), "pgjax.envs.make"),
    ):
        with pytest.raises(pgjax.ConfigError, match=words) as e:
            fn()
        assert "\n" not in str(e.value)
