"""Running moments: their values, that they are never trained, and that padding changes no bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, make_rollout

import pgjax
from pgjax import advantages
from pgjax.algorithms import actor_critic
from pgjax.numerics import running_moments
from pgjax.training import train as training

OBS = np.zeros(3, np.float32)
POLICY = pgjax.NormalizedObs(pgjax.SoftmaxPolicy(2, (8,)))
CRITIC = pgjax.NormalizedObs(pgjax.ValueNetwork((8,)))


def make(**options):
    # Weight decay reveals every variable that the optimiser should not train.
    optimizer = optax.adamw(0.01, weight_decay=0.5)
    estimator = advantages.gae(0.9, 0.9)
    return pgjax.reinforce(POLICY, optimizer, critic=CRITIC, estimator=estimator, **options)


@pytest.fixture(scope="module")
def algorithm():
    return make()


def test_merged_batches_give_the_moments_of_all_rows(rng):
    """Even if the mean is much larger than the standard deviation."""
    x = (1000.0 + 0.01 * rng.normal(size=(900, 2))).astype(np.float32)
    weights = rng.integers(2, size=(9, 100)).astype(np.float32)
    kept = running_moments.initial_moments(2)
    for rows, weight in zip(np.split(x, 9), weights, strict=True):
        padded = np.where(weight[:, None] > 0, rows, np.nan)
        known = running_moments.centred_on(kept, rows[0])
        kept = running_moments.merge(known, running_moments.weighted_sums(known, padded, weight))
    seen = x[weights.ravel() > 0].astype(float)
    assert float(kept["count"]) == len(seen)
    np.testing.assert_allclose(kept["mean"], seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(kept["var"]), seen.std(0), rtol=0.01)


def test_an_empty_batch_changes_nothing():
    rows, nothing = jnp.full((4, 2), jnp.nan), jnp.zeros(4)
    kept = running_moments.initial_moments(2)
    known = running_moments.centred_on(kept, jnp.ones(2))
    assert_trees_equal(
        running_moments.merge(known, running_moments.weighted_sums(known, rows, nothing)), kept
    )
    some = jnp.array([[0.1, 3.0], [0.7, 3.1], [0.3, 3.3]])
    kept = running_moments.merge(known, running_moments.weighted_sums(known, some, jnp.ones(3)))
    assert_trees_equal(
        running_moments.merge(kept, running_moments.weighted_sums(kept, rows, nothing)), kept
    )


def test_policy_and_critic_see_standardized_observations(algorithm):
    params = algorithm.init(jax.random.key(0), OBS).params
    mean, var = jnp.array([1.0, -2.0, 0.0]), jnp.array([4.0, 0.25, 0.0])
    known = {**params, running_moments.OBS: {"count": jnp.ones(()), "mean": mean, "var": var}}
    obs = jnp.array([[3.0, -1.5, 0.0], [1.0, -2.0, 0.0], [1e4, -2.0, 0.0]])
    seen = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    inner = {"params": params["params"]["module"]}
    np.testing.assert_allclose(
        POLICY.apply(known, obs).logits, POLICY.module.apply(inner, seen).logits, rtol=1e-5
    )
    inner = {"params": params["critic"]["module"]}
    np.testing.assert_allclose(
        CRITIC.apply(actor_critic.of_critic(known), obs),
        CRITIC.module.apply(inner, seen),
        rtol=1e-5,
    )


def test_an_update_uses_the_old_moments_and_then_adds_its_batch(algorithm, rng):
    state = algorithm.init(jax.random.key(0), OBS)
    first = make_rollout(rng, [5, 9], obs_dim=3, padding=np.nan)
    first = first._replace(obs=5.0 + 2.0 * first.obs)
    real = np.isfinite(first.obs).all(-1)
    after, _ = algorithm.update(state, first)
    kept = after.params[running_moments.OBS]
    assert int(kept["count"]) == 14
    np.testing.assert_allclose(kept["mean"], first.obs[real].mean(0), rtol=1e-5)
    np.testing.assert_allclose(kept["var"], first.obs[real].var(0), rtol=1e-4)
    # Without data so far, the update is the one without normalisation.
    plain = pgjax.reinforce(
        POLICY.module,
        optax.adamw(0.01, weight_decay=0.5),
        critic=CRITIC.module,
        estimator=advantages.gae(0.9, 0.9),
    )
    inner = {name: state.params[name]["module"] for name in ("params", "critic")}
    without, _ = plain.update(state._replace(params=inner, opt_state=_inside(state)), first)
    for name in ("params", "critic"):
        for a, b in zip(
            jax.tree.leaves(after.params[name]), jax.tree.leaves(without.params[name]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def _inside(state):
    """Convert the optimiser state of wrapped modules to that of the inner modules."""

    def unwrap(tree):
        if isinstance(tree, dict):
            return {name: tree[name]["module"] for name in tree}
        return tree

    return jax.tree.map(unwrap, state.opt_state, is_leaf=lambda x: isinstance(x, dict))


def test_moments_have_zero_gradient(algorithm, rng):
    state = algorithm.init(jax.random.key(0), OBS)
    grads = jax.grad(lambda p: algorithm.loss(p, make_rollout(rng, [4, 3], obs_dim=3))[0])(
        state.params
    )
    assert all((x == 0).all() for x in jax.tree.leaves(grads[running_moments.OBS]))
    assert any((x != 0).any() for x in jax.tree.leaves(grads["params"]))


def padded_to(rollout, length):
    """Pad a rollout to `length` steps, with NaN in float32 leaves."""

    def pad(x):
        missing = ((0, length - len(x)),) + ((0, 0),) * (x.ndim - 1)
        return np.pad(x, missing, constant_values=np.nan if x.dtype == np.float32 else 0)

    longer = jax.tree.map(pad, rollout)
    return longer._replace(weight=np.nan_to_num(longer.weight))


@pytest.mark.parametrize("lengths", [[8, 8], pytest.param([33, 61, 12, 5], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("estimator", "critic"),
    [
        (advantages.gae(0.9, 0.9), CRITIC),
        pytest.param(advantages.reward_to_go(0.9), CRITIC, marks=pytest.mark.slow),
        pytest.param(
            advantages.normalized(advantages.leave_one_out(advantages.reward_to_go(0.9))),
            None,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["gae", "reward_to_go", "leave_one_out"],
)
def test_padding_changes_no_bit(estimator, critic, lengths, rng):
    """In a second update, for fewer and more rows than a chunk, and for partial loop turns."""
    algorithm = pgjax.reinforce(
        POLICY, optax.adam(0.01), critic=critic, estimator=estimator, normalize_rewards=0.9
    )
    rollout = make_rollout(rng, lengths, obs_dim=3)
    state, _ = algorithm.update(algorithm.init(jax.random.key(0), OBS), rollout)
    once, _ = algorithm.update(state, rollout)
    for length in (64, 256):
        padded, _ = algorithm.update(state, padded_to(rollout, length))
        assert_trees_equal(once, padded)


def test_rewards_are_divided_by_the_rms_of_earlier_returns(rng):
    """The first update divides by 1, the second by the root mean square of the first batch."""
    options = dict(critic=pgjax.ValueNetwork((8,)), estimator=advantages.gae(0.9, 0.9))
    scaled = pgjax.reinforce(POLICY.module, optax.sgd(0.1), normalize_rewards=0.5, **options)
    plain = pgjax.reinforce(POLICY.module, optax.sgd(0.1), **options)
    state = scaled.init(jax.random.key(0), OBS)
    first, second = (make_rollout(rng, [2, 1], obs_dim=3) for _ in range(2))
    first = first._replace(reward=np.array([[3.0, 1.0], [4.0, np.nan]], np.float32))
    after, info = scaled.update(state, first)
    # returns 3 + 0.5 * 4, 4 and 1
    size = np.sqrt((25 + 16 + 1) / 3)
    np.testing.assert_allclose(
        1 / running_moments.reciprocal_rms(after.params[actor_critic.RETURNS]), size, rtol=1e-6
    )
    np.testing.assert_allclose(info["mean_return"], 4.0)
    bare = {name: after.params[name] for name in ("params", "critic")}
    both = [
        algorithm.loss(params, second._replace(reward=second.reward / by))[0]
        for algorithm, params, by in ((scaled, after.params, 1.0), (plain, bare, size))
    ]
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_reciprocal_rms_is_one_for_no_data_and_for_zeros():
    kept = running_moments.initial_moments(1)
    assert float(running_moments.reciprocal_rms(kept)) == 1.0
    kept = running_moments.merge(
        kept, running_moments.weighted_sums(kept, jnp.zeros((5, 1)), jnp.ones(5))
    )
    assert float(running_moments.reciprocal_rms(kept)) == 1.0


@pytest.mark.parametrize("scale", [-0.1, 1.5, float("nan")])
def test_a_discount_out_of_range_raises(scale):
    with pytest.raises(pgjax.ConfigError, match="normalize_rewards"):
        make(normalize_rewards=scale)


@pytest.mark.slow
def test_an_entropy_schedule_counts_updates(rng):
    rollout = make_rollout(rng, [6, 4], obs_dim=3)

    def after(coef, step):
        algorithm = make(entropy_coef=coef)
        state = algorithm.init(jax.random.key(0), OBS)
        return algorithm.update(state._replace(step=jnp.int32(step)), rollout)[0].params

    schedule = optax.linear_schedule(0.8, 0.0, 4)
    for step, coef in ((1, 0.6), (4, 0.0)):
        for a, b in zip(*(jax.tree.leaves(after(x, step)) for x in (schedule, coef)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


CONFIG = pgjax.TrainConfig(
    "Pendulum-v1",
    updates=3,
    episodes_per_update=3,
    max_episode_steps=20,
    hidden_sizes=(8,),
    critic=True,
    estimator="gae",
    normalize_obs=True,
    normalize_rewards=True,
    entropy_coef=0.01,
    anneal_entropy=True,
    eval_episodes=2,
)


def trained(path, **options):
    return training.train(dataclasses.replace(CONFIG, run_dir=path, **options))


def test_runs_are_bit_identical_and_evaluation_changes_nothing(tmp_path):
    one, three = (trained(tmp_path / str(n), num_envs=n) for n in (1, 3))
    assert_trees_equal(one.state, three.state)
    kept = one.state.params[running_moments.OBS]
    assert float(kept["count"]) == 3 * 3 * 20
    before = jax.tree.map(np.array, one.state.params)
    pgjax.evaluate(one, 2)
    assert_trees_equal(one.state.params, before)
    assert_trees_equal(pgjax.load(one.path).state.params, before)
    with pytest.raises(pgjax.ConfigError, match="entropy bonus is annealed over 3"):
        training.resume(one.path, updates=4)


@pytest.mark.slow
def test_on_device_runs_keep_moments_too(tmp_path):
    run = trained(tmp_path / "run", on_device=True, num_shards=2)
    kept = run.state.params[running_moments.OBS]
    assert float(kept["count"]) == 3 * 3 * 20
    # cos² + sin² of an angle is 1
    np.testing.assert_allclose((kept["mean"] ** 2 + kept["var"])[:2].sum(), 1.0, rtol=1e-4)


def test_the_first_batch_keeps_a_small_variance_around_a_large_mean(algorithm, rng):
    state = algorithm.init(jax.random.key(0), OBS)
    rollout = make_rollout(rng, [90, 70], obs_dim=3)
    rollout = rollout._replace(obs=(500.0 + 0.01 * rollout.obs).astype(np.float32))
    kept = algorithm.update(state, rollout)[0].params[running_moments.OBS]
    real = rollout.obs[rollout.weight > 0].astype(float)
    np.testing.assert_allclose(np.sqrt(kept["var"]), real.std(0), rtol=0.01)
