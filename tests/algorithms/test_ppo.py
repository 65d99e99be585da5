import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import OBS, gaussian_actions, plain_ppo
from conftest import make_rollout

import pgjax
from pgjax import losses
from pgjax.advantages import gae, normalized
from pgjax.algorithms import minibatches

LENGTHS = [40, 9, 31]
ONE_SHARD = pgjax.Sharding()


def started(algorithm):
    return algorithm.init(jax.random.key(0), OBS)


@pytest.fixture
def batch(rng):
    return make_rollout(rng, LENGTHS, action=gaussian_actions(rng))


def whole_batch(**options):
    return plain_ppo(minibatch_size=None, value_clip=None, **options)


def test_the_first_gradient_is_that_of_reinforce():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batch = make_rollout(rng, LENGTHS, action=gaussian_actions(rng))
        batch = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, batch)
        parts = {"critic": pgjax.ValueNetwork((8,)), "estimator": normalized(gae(0.99, 0.95))}
        policy = pgjax.GaussianPolicy(2, (8,))
        ppo = pgjax.ppo(policy, optax.adam(0.01), entropy_coef=0.1, **parts)
        reinforce = pgjax.reinforce(
            policy, optax.adam(0.01), entropy_coef=0.1, mean_over="steps", **parts
        )
        params = jax.tree.map(lambda x: x.astype(float), started(ppo).params)
        ours, theirs = (
            jax.jit(jax.grad(x.loss, has_aux=True))(params, batch)[0] for x in (ppo, reinforce)
        )
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_one_step_with_all_rows_is_a_step_of_reinforce(batch):
    policy, critic = pgjax.GaussianPolicy(2, (8,)), pgjax.ValueNetwork((8,))
    reinforce = pgjax.reinforce(
        policy,
        optax.adam(0.01),
        critic=critic,
        estimator=normalized(gae(0.99, 0.95)),
        entropy_coef=0.01,
        mean_over="steps",
    )
    ppo = whole_batch(num_epochs=1)
    state = started(ppo)
    (ours, info), (theirs, expected) = (x.update(state, batch) for x in (ppo, reinforce))
    # Adam's first step is a rate times the sign of the gradient, except where that is tiny.
    for x, y in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    assert float(info["approx_kl"]) == pytest.approx(0.0, abs=1e-6)
    assert float(info["clip_fraction"]) == 0.0
    for name in ("entropy", "value_loss", "grad_norm", "explained_variance", "mean_return"):
        assert float(info[name]) == pytest.approx(float(expected[name]), rel=1e-4), name


def members(real, num_columns, size, epoch=0, step=0, sharding=ONE_SHARD, key=0):
    """Return the (time, column) of the rows of each minibatch, for flags [T, B]."""
    shards = sharding.num_shards
    time = np.broadcast_to(np.arange(real.shape[0])[:, None], real.shape)
    column = np.broadcast_to(np.arange(num_columns), real.shape)

    def rows(x):  # time-major within each shard
        return np.stack([x.ravel() for x in np.split(x, shards, axis=1)])

    where = np.stack([rows(time), rows(column)], -1)[:, None]  # [shards, 1 chunk, rows, 2]
    run_key = minibatches.shuffling_key(jax.random.key(key), step, epoch)
    shuffled = minibatches.shuffle(run_key, rows(real), num_columns // shards, sharding)
    result = []
    each = minibatches.quota(size, sharding)
    for number in range(int(minibatches.count(shuffled, each, sharding))):
        taken, mask = minibatches.take(where, shuffled, number, each, 128)
        result.append([tuple(x) for x in np.asarray(taken)[np.asarray(mask)].tolist()])
    return result


def real_steps(lengths, time):
    return np.arange(time)[:, None] < np.array(lengths)


def test_each_real_step_is_in_one_minibatch_of_an_epoch():
    real = real_steps(LENGTHS, 64)
    steps = {(t, b) for b, length in enumerate(LENGTHS) for t in range(length)}
    for size in (1, 7, 80, 500):
        found = members(real, 3, size)
        assert [len(x) for x in found[:-1]] == [size] * (len(found) - 1)
        assert 1 <= len(found[-1]) <= size
        flat = [step for minibatch in found for step in minibatch]
        assert len(flat) == len(steps)
        assert set(flat) == steps


def test_membership_follows_from_column_and_time_alone():
    expected = members(real_steps(LENGTHS, 40), 3, 16)
    assert members(real_steps(LENGTHS, 512), 3, 16) == expected  # padded in time
    padded = real_steps([*LENGTHS, 0, 0, 0, 0, 0], 40)
    assert members(padded, 8, 16) == expected  # and in columns
    # Other steps come and go; those that stay keep their order.
    order = [step for minibatch in expected for step in minibatch]
    fewer = [x for minibatch in members(real_steps([40, 9, 0], 40), 3, 16) for x in minibatch]
    assert fewer == [step for step in order if step[1] != 2]


def test_epochs_updates_and_runs_are_shuffled_differently():
    real = real_steps(LENGTHS, 64)
    orders = [
        members(real, 3, 16, **options) for options in ({}, {"epoch": 1}, {"step": 1}, {"key": 1})
    ]
    firsts = [tuple(sorted(x[0])) for x in orders]
    assert len(set(firsts)) == 4


def test_a_minibatch_takes_as_many_steps_from_each_shard():
    real = real_steps([30] * 8, 30)
    found = members(real, 8, 16, sharding=pgjax.Sharding(4))
    assert len(found) == 15
    for minibatch in found:
        assert [sum(b // 2 == shard for _, b in minibatch) for shard in range(4)] == [4] * 4


def test_minibatches_are_uniform():
    """Each of 60 steps is in the first of 6 minibatches in a sixth of 600 epochs."""
    real = real_steps([20, 20, 20], 20)

    def first(epoch):
        key = minibatches.shuffling_key(jax.random.key(0), 0, epoch)
        shuffled = minibatches.shuffle(key, real.reshape(1, -1), 3, pgjax.Sharding())
        return shuffled.order[0, :10]

    order = np.asarray(jax.jit(jax.vmap(first))(jnp.arange(600)))
    times = np.bincount(order.ravel(), minlength=60)
    assert times.sum() == 6000
    chi2 = ((times - 100) ** 2 / (100 * 5 / 6)).sum()
    assert 30 < chi2 < 98  # the 0.1 % tails of chi-squared with 59 degrees of freedom


def test_the_number_of_optimiser_steps(batch):
    algorithm = plain_ppo()
    _, info = algorithm.update(started(algorithm), batch)
    assert int(info["optimizer_steps"]) == 3 * 8  # 80 real steps in minibatches of 10


def test_a_schedule_over_updates_is_the_same_for_every_step_of_one(batch):
    """At a rate of 0 in the first update, and 0.5 in the second, SGD changes only in the second."""
    rate = pgjax.scale_by_updates(lambda made: 0.5 * jnp.minimum(made, 1))
    algorithm = pgjax.ppo(
        pgjax.GaussianPolicy(2, (8,)), rate, critic=pgjax.ValueNetwork((8,)), num_epochs=2,
        minibatch_size=40,
    )  # fmt: skip
    begun = started(algorithm)
    first, _ = algorithm.update(begun, batch)
    second, info = algorithm.update(first, batch)
    assert int(info["optimizer_steps"]) == 4
    unchanged = [
        [np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, pair), strict=True)]
        for pair in ((begun.params, first.params), (first.params, second.params))
    ]
    assert all(unchanged[0])
    assert not any(unchanged[1])


def test_a_minibatch_larger_than_the_batch_takes_all_of_it(batch):
    algorithm = plain_ppo(minibatch_size=4096)
    with pytest.warns(pgjax.RunWarning, match="larger than the rollout of 40 x 3 steps"):
        _, info = algorithm.update(started(algorithm), batch)
    assert int(info["optimizer_steps"]) == 3


@pytest.mark.parametrize("most", [3, 2**32 - 1])  # ties, and almost surely none
def test_rows_are_taken_in_the_order_of_their_bits(most, rng):
    """As NumPy's stable sort orders them; a row of all ones is not taken for padding."""
    bits = rng.integers(0, most, (2, 50), np.uint32)
    real = rng.random((2, 50)) < 0.7
    bits[0, np.argmax(real[0])] = 2**32 - 1
    order = minibatches.order_of(jnp.array(bits), jnp.array(real))
    for i in range(2):
        rows = np.flatnonzero(real[i])
        expected = rows[np.argsort(bits[i, rows], kind="stable")]
        np.testing.assert_array_equal(order[i, : len(rows)], expected)


def test_the_last_minibatches_take_nothing_from_shards_that_have_no_steps_left():
    found = members(real_steps([40, 1, 1, 1], 40), 4, 16, sharding=pgjax.Sharding(4))
    assert [len(x) for x in found] == [7, *[4] * 9]


def test_running_moments_are_merged_once_as_by_reinforce(batch):
    policy = pgjax.NormalizedObs(pgjax.GaussianPolicy(2, (8,)))
    parts = {
        "critic": pgjax.NormalizedObs(pgjax.ValueNetwork((8,))),
        "estimator": normalized(gae(0.99, 0.95)),
        "normalize_rewards": 0.9,
    }
    ppo = pgjax.ppo(policy, optax.adam(0.01), num_epochs=3, minibatch_size=50, **parts)
    reinforce = pgjax.reinforce(policy, optax.adam(0.01), **parts)
    state = started(ppo)
    ours, theirs = (x.update(state, batch)[0].params for x in (ppo, reinforce))
    kept = ours.keys() - {"params", "critic"}
    assert len(kept) == 2
    for name in kept:  # two programs may round differently
        for x, y in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_16_bit_parameters_are_compared_as_they_are_trained(batch):
    """The ratios of probabilities are 1 before the first step, also where both are rounded."""
    algorithm = whole_batch(num_epochs=1)
    state = started(algorithm)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params)
    narrow["params"]["log_std"] -= 2
    batch = batch._replace(
        obs=jnp.asarray(batch.obs, jnp.bfloat16), next_obs=jnp.asarray(batch.next_obs, jnp.bfloat16)
    )
    _, info = algorithm.update(state._replace(params=narrow), batch)
    assert float(info["approx_kl"]) < 1e-6
    assert float(info["clip_fraction"]) == 0


def test_an_optimizer_whose_state_changes_its_dtype(batch):
    """As that of optax.inject_hyperparams does under x64."""

    def step(grads, count, params=None):
        return jax.tree.map(lambda g: -0.01 * g, grads), count + jnp.float32(1)

    counting = optax.GradientTransformation(lambda params: 0, step)
    algorithm = pgjax.ppo(
        pgjax.GaussianPolicy(2, (8,)), counting, critic=pgjax.ValueNetwork((8,)), num_epochs=2,
        minibatch_size=40,
    )  # fmt: skip
    state, _ = algorithm.update(started(algorithm), batch)
    assert int(state.opt_state) == 4


def test_the_clipped_surrogate_has_no_gradient_beyond_the_range():
    """For A > 0 above 1.2 and for A < 0 below 0.8, up to ratios that float32 cannot hold."""
    log_ratio = jnp.log(jnp.array([0.5, 0.5, 1.0, 1.0, 2.0, 2.0]))
    log_ratio = jnp.append(log_ratio, jnp.array([100.0, 100.0, -200.0]))
    advantage = jnp.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0, 1.0, 0.0, -1.0])
    value, gradient = jax.vmap(jax.value_and_grad(losses.ppo_clip_loss), (0, None, 0, None))(
        log_ratio, 0.0, advantage, 0.2
    )
    np.testing.assert_allclose(value, [-1.0, 1.6, -2.0, 2.0, -2.4, 4.0, -1.2, 0.0, 0.8], rtol=1e-6)
    np.testing.assert_allclose(gradient, [-1.0, 0, -2.0, 2.0, 0, 4.0, 0, 0, 0], rtol=1e-6)


def test_the_clipped_value_loss_is_the_larger_of_two():
    value, old = jnp.array([3.0, 3.0, 1.2]), jnp.array([1.0, 1.0, 1.0])
    target = jnp.array([4.0, 0.0, 4.0])
    loss, gradient = jax.vmap(jax.value_and_grad(losses.clipped_value_loss), (0, 0, 0, None))(
        value, old, target, 0.5
    )
    np.testing.assert_allclose(loss, [2.5**2 / 2, 9 / 2, 2.8**2 / 2], rtol=1e-6)
    np.testing.assert_allclose(gradient, [0.0, 3.0, -2.8], rtol=1e-6)


def test_a_large_kl_ends_the_update_before_its_step(batch):
    """With one step per epoch the KL is known: zero before the first, then that of each step."""
    by_epochs = [whole_batch(num_epochs=n) for n in (2, 3)]
    state = started(by_epochs[0])
    stepped = [x.update(state, batch) for x in by_epochs]
    kls = [float(info["approx_kl"]) for _, info in stepped]
    assert 1e-5 < kls[0] < kls[1]
    target = sum(kls) / 2 / 1.5
    ended, info = whole_batch(num_epochs=9, target_kl=target).update(state, batch)
    assert int(info["optimizer_steps"]) == 2
    for x, y in zip(
        jax.tree.leaves(ended.params), jax.tree.leaves(stepped[0][0].params), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert float(info["approx_kl"]) == pytest.approx(kls[1], rel=1e-4)
    assert int(ended.step) == 1


@pytest.mark.slow
def test_schedules_follow_the_number_of_updates(batch):
    """At update 1 a schedule has the value of a constant; at update 0 it has another."""
    clip = optax.linear_schedule(0.3, 0.1, 2)
    entropy_coef = optax.linear_schedule(0.1, 0.3, 2)
    scheduled = whole_batch(num_epochs=4, clip=clip, entropy_coef=entropy_coef)
    constant = whole_batch(num_epochs=4, clip=0.2, entropy_coef=0.2)
    later = started(scheduled)._replace(step=jnp.int32(1))
    for x, y in zip(
        jax.tree.leaves(scheduled.update(later, batch)[0].params),
        jax.tree.leaves(constant.update(later, batch)[0].params),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_without_a_critic():
    algorithm = pgjax.ppo(
        pgjax.SoftmaxPolicy(2, (8,)),
        optax.adam(0.01),
        critic=None,
        estimator=pgjax.advantages.reward_to_go(0.9),
        num_epochs=2,
        minibatch_size=16,
    )
    batch = make_rollout(np.random.default_rng(0), [30])
    _, info = algorithm.update(started(algorithm), batch)
    assert int(info["optimizer_steps"]) == 4
    assert "value_loss" not in info


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, r"clip must be in \(0, 1\), got 0.0"),
        ({"clip": 1.0}, r"clip must be in \(0, 1\)"),
        ({"clip": np.nan}, r"clip must be in \(0, 1\)"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"num_epochs": 1.5}, "num_epochs"),
        ({"minibatch_size": 0}, "minibatch_size"),
        ({"value_clip": 0.0}, "value_clip must be None, or finite and above 0, got 0.0"),
        ({"critic": None}, "value_clip limits the loss of a critic: give one, or leave it out"),
        ({"target_kl": np.inf}, "target_kl must be None, or finite and above 0, got inf"),
        ({"recompute_advantages": 1}, "recompute_advantages must be True or False, got 1"),
        ({"entropy_coef": -1.0}, "entropy_coef"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(pgjax.ConfigError, match=message):
        plain_ppo(**options)


def test_an_estimator_that_needs_a_critic_is_refused_without_one():
    algorithm = pgjax.ppo(pgjax.SoftmaxPolicy(2), optax.adam(0.01), critic=None)
    with pytest.raises(pgjax.ConfigError, match="critic"):
        started(algorithm)


@pytest.mark.slow
def test_vmap_over_hyperparameters_gives_what_each_gives_alone(batch):
    """Lanes of which one ends earlier keep its result."""
    state = started(whole_batch())

    def trained(target_kl, clip):
        algorithm = plain_ppo.__wrapped__(
            target_kl=target_kl, clip=clip, num_epochs=4, minibatch_size=32
        )
        state_, info = algorithm.update(state, batch)
        return state_.params, info["optimizer_steps"]

    targets, clips = jnp.array([1e-4, 10.0]), jnp.array([0.2, 0.1])
    params, steps = jax.jit(jax.vmap(trained))(targets, clips)
    assert 0 < int(steps[0]) < 12
    assert int(steps[1]) == 12
    for i in range(2):
        alone, _ = jax.jit(trained)(targets[i], clips[i])
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-3, atol=1e-4)
