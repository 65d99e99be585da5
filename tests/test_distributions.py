import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from conftest import import_with_torch

from pgjax import distributions as d

LOGITS = np.array([[0.3, -1.2, 2.0], [5.0, -5.0, 0.0]], np.float32)
MEAN = np.array([[0.3, -1.2], [0.0, 4.0]], np.float32)
STD = np.array([[0.5, 2.0], [1e-3, 30.0]], np.float32)

# our distribution, the same one in torch, and actions to compare at
CASES = {
    "categorical": (
        d.Categorical(jnp.array(LOGITS)),
        lambda torch: torch.distributions.Categorical(logits=torch.tensor(LOGITS)),
        np.array([2, 1]),
    ),
    "gaussian": (
        d.DiagonalGaussian(jnp.array(MEAN), jnp.array(STD)),
        lambda torch: torch.distributions.Independent(
            torch.distributions.Normal(torch.tensor(MEAN), torch.tensor(STD)), 1
        ),
        np.array([[0.1, 0.2], [0.002, -40.0]], np.float32),
    ),
    "bernoulli": (
        d.Bernoulli(jnp.array(LOGITS)),
        lambda torch: torch.distributions.Independent(
            torch.distributions.Bernoulli(logits=torch.tensor(LOGITS)), 1
        ),
        np.array([[1, 0, 0], [0, 1, 1]]),
    ),
}
ALL = {name: case[0] for name, case in CASES.items()} | {
    "squashed": d.SquashedGaussian(jnp.array(MEAN), jnp.array(STD)),
    "multicategorical": d.MultiCategorical((jnp.array(LOGITS), jnp.array(LOGITS[:, :2]))),
}


@pytest.mark.parametrize("name", CASES)
def test_log_prob_and_entropy_equal_torch(name):
    torch = import_with_torch("torch")
    ours, make_theirs, action = CASES[name]
    theirs = make_theirs(torch)
    # torch's Bernoulli needs floats, its Categorical integers
    asked = torch.tensor(action, dtype=torch.float32 if name == "bernoulli" else None)
    np.testing.assert_allclose(ours.log_prob(action), theirs.log_prob(asked), rtol=1e-5)
    np.testing.assert_allclose(ours.entropy(), theirs.entropy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_kl_equals_torch(name):
    torch = import_with_torch("torch")
    ours, make_theirs, _ = CASES[name]
    other = jax.tree.map(lambda x: 0.5 * x[::-1], ours)  # the rows swapped and halved
    theirs = make_theirs(torch)
    base = getattr(theirs, "base_dist", theirs)
    changed = {k: 0.5 * v.flip(0) for k, v in vars(base).items() if k in ("loc", "scale")}
    if not changed:
        changed = {"logits": 0.5 * base.logits.flip(0)}
    another = type(base)(**changed)
    if base is not theirs:
        another = torch.distributions.Independent(another, 1)
    expected = torch.distributions.kl_divergence(theirs, another)
    np.testing.assert_allclose(ours.kl(other), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_kl_is_the_mean_of_the_difference_of_log_probs(name):
    """Zero for the same distribution; else by samples, within five standard errors."""
    dist = jax.tree.map(lambda x: jnp.clip(x, -2.0, 2.0), ALL[name])
    np.testing.assert_allclose(dist.kl(dist), 0.0, atol=1e-6)
    other = jax.tree.map(lambda x: 0.8 * x + 0.1, dist)
    actions = jax.vmap(dist.sample)(jax.random.split(jax.random.key(5), 20_000))
    difference = jax.vmap(lambda a: dist.log_prob(a) - other.log_prob(a))(actions)
    error = difference.std(0) / np.sqrt(20_000)
    assert (abs(difference.mean(0) - dist.kl(other)) < 5 * error + 1e-5).all()


def test_kl_of_joint_distributions_is_a_sum():
    joint, other = (
        d.Joint((d.Categorical(LOGITS * scale), d.DiagonalGaussian(MEAN * scale, STD)))
        for scale in (1.0, 0.5)
    )
    expected = sum(p.kl(q) for p, q in zip(joint.parts, other.parts, strict=True))
    np.testing.assert_allclose(joint.kl(other), expected)


@pytest.mark.parametrize("kind", [d.Categorical, d.Bernoulli])
def test_kl_where_a_choice_is_ruled_out(kind):
    """Nothing is expected of what has probability 0; to rule out what may happen is infinite."""
    certain, open_ = np.array([0.5, -np.inf]), np.array([0.5, 0.3])
    one, two = kind(jnp.array(certain)), kind(jnp.array(open_))
    assert float(one.kl(one)) == 0.0
    assert 0 < float(one.kl(two)) < 1
    assert float(two.kl(one)) == np.inf
    gradient = jax.grad(lambda x: one.kl(kind(x)))(jnp.array(open_))
    assert np.isfinite(gradient).all()


def test_multicategorical_is_a_sum_of_categoricals():
    torch = import_with_torch("torch")
    parts = [
        torch.distributions.Categorical(logits=torch.tensor(x)) for x in (LOGITS, LOGITS[:, :2])
    ]
    action = np.array([[2, 0], [1, 1]])
    expected = sum(p.log_prob(torch.tensor(action[:, i])) for i, p in enumerate(parts))
    np.testing.assert_allclose(ALL["multicategorical"].log_prob(action), expected, rtol=1e-5)
    expected = sum(p.entropy() for p in parts)
    np.testing.assert_allclose(ALL["multicategorical"].entropy(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_all_distributions_have_the_same_protocol(name):
    """They are pytrees whose methods return the batch shape, also under vmap."""
    dist = ALL[name]
    action = dist.sample(jax.random.key(0))
    assert action.shape == dist.mode().shape
    assert action.dtype == dist.mode().dtype
    assert dist.log_prob(action).shape == dist.entropy().shape == (2,)
    rows = jax.vmap(lambda row, a: row.log_prob(a))(dist, action)
    np.testing.assert_allclose(rows, dist.log_prob(action), rtol=1e-6)
    with pytest.raises(AttributeError):
        dist.logits = None  # immutable, whether or not it has a field `logits`


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "multicategorical"])
def test_sample_frequencies_match_the_probabilities(name):
    dist = ALL[name]
    n = 20_000
    keys = jax.random.split(jax.random.key(3), n)
    samples = np.asarray(jax.vmap(dist.sample)(keys))
    for action in np.unique(samples[:, 0], axis=0):
        seen = np.mean((samples[:, 0] == action).reshape(n, -1).all(1))
        p = float(jnp.exp(dist.log_prob(jnp.broadcast_to(action, samples.shape[1:])))[0])
        # 5 standard errors
        assert abs(seen - p) < 5 * np.sqrt(p * (1 - p) / n) + 1e-4


def test_gaussian_samples_pass_a_kolmogorov_smirnov_test():
    dist = d.DiagonalGaussian(jnp.array([0.7]), jnp.array([2.5]))
    samples = jax.vmap(dist.sample)(jax.random.split(jax.random.key(4), 5000))
    assert scipy.stats.kstest(np.ravel(samples), scipy.stats.norm(0.7, 2.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.3), (-1.5, 2.0)])
def test_squashed_density_and_entropy_match_numerical_integration(mean, std):
    dist = d.SquashedGaussian(jnp.array([mean]), jnp.array([std]))

    def slope(raw):  # d tanh(raw) / d raw, in float64
        return 1 / np.cosh(raw) ** 2

    raw = np.linspace(-9, 9, 2001)
    log_p = jax.vmap(dist.log_prob)(raw[:, None].astype(np.float32))
    p = np.exp(np.asarray(log_p, np.float64))
    mass = scipy.integrate.simpson(p * slope(raw), x=raw)
    assert mass == pytest.approx(1.0, abs=2e-3)
    entropy = -scipy.integrate.simpson(p * slope(raw) * np.log(p), x=raw)
    assert float(dist.entropy()) == pytest.approx(entropy, abs=1e-2)


def test_squashed_log_prob_equals_torch_near_zero_and_is_finite_far_out():
    torch = import_with_torch("torch")
    dist = d.SquashedGaussian(jnp.array(MEAN), jnp.array(STD))
    theirs = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(torch.tensor(MEAN).double(), torch.tensor(STD).double()),
        [torch.distributions.transforms.TanhTransform()],
    )
    raw = np.array([[0.1, -2.0], [1e-3, 1.5]])
    expected = theirs.log_prob(torch.tanh(torch.tensor(raw))).sum(-1)
    np.testing.assert_allclose(dist.log_prob(raw), expected, rtol=1e-4)
    far = d.SquashedGaussian(jnp.zeros(1), jnp.ones(1))
    value, slope = jax.value_and_grad(lambda x: far.log_prob(x[None]))(50.0)
    # log N(50) - log(1 - tanh(50)^2) = -50^2/2 - log sqrt(2 pi) + 100 - 2 log 2
    expected = -1250 - 0.5 * np.log(2 * np.pi) + 100 - 2 * np.log(2)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(slope) == pytest.approx(-50 + 2, rel=1e-5)


def test_impossible_and_certain_actions():
    masked = d.Categorical(jnp.array([0.0, -jnp.inf, 0.0]))
    assert float(masked.entropy()) == pytest.approx(np.log(2))
    slope = jax.grad(lambda x: d.Categorical(jnp.array([0.0, -jnp.inf, 0.0]) + x).entropy())
    assert np.isfinite(slope(jnp.zeros(3))).all()
    assert float(masked.log_prob(1)) == -np.inf
    # an action outside the range is impossible; it does not wrap around to the last one
    assert float(masked.log_prob(-1)) == -np.inf
    assert float(masked.log_prob(3)) == -np.inf
    certain = d.Bernoulli(jnp.array([200.0]))
    assert float(certain.log_prob(jnp.array([0]))) == pytest.approx(-200.0)


@pytest.mark.parametrize(("logit", "outcome"), [(np.inf, 1), (-np.inf, 0)])
def test_a_certain_coin(logit, outcome):
    """Beside a fair coin, whose entropy is log 2 and whose gradients are those of one coin."""

    def coins(fair):
        return d.Bernoulli(jnp.stack([jnp.float32(logit), fair]))

    assert coins(0.0).sample(jax.random.key(0))[0] == outcome
    entropy, slope = jax.value_and_grad(lambda x: coins(x).entropy())(0.5)
    p = 1 / (1 + np.exp(-0.5))
    assert float(entropy) == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p))
    assert float(slope) == pytest.approx(-0.5 * p * (1 - p))
    log_p, slope = jax.value_and_grad(lambda x: coins(x).log_prob(np.array([outcome, 1])))(0.5)
    assert float(log_p) == pytest.approx(np.log(p))
    assert float(slope) == pytest.approx(1 - p)
    assert float(coins(0.0).log_prob(np.array([1 - outcome, 1]))) == -np.inf
    whole = jax.grad(lambda x: d.Bernoulli(x).entropy())(jnp.array([logit, 0.5], jnp.float32))
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("raw", [np.inf, -np.inf])
def test_infinite_actions_have_density_zero(raw):
    for distribution in (d.DiagonalGaussian, d.SquashedGaussian):
        found = distribution(np.zeros(2), np.ones(2)).log_prob(np.array([0.5, raw]))
        assert float(found) == -np.inf


@pytest.mark.parametrize("outside", [2, -1, 0.5, np.nan])
def test_what_is_no_action_has_log_prob_minus_infinity(outside):
    inside = np.array([1.0, 0.0])
    for i in range(2):
        action = inside.copy()
        action[i] = outside
        assert float(d.Bernoulli(np.zeros(2)).log_prob(action)) == -np.inf
        assert float(d.MultiCategorical((np.zeros(2), np.zeros(2))).log_prob(action)) == -np.inf
        joint = d.Joint((d.Categorical(np.zeros(2)), d.Bernoulli(np.zeros(1))))
        assert float(joint.log_prob(action)) == -np.inf
    assert float(d.Categorical(np.zeros(2)).log_prob(outside)) == -np.inf


def test_a_certain_choice_has_entropy_zero_and_finite_gradients():
    logits = jnp.array([0.3, np.inf, -np.inf])
    certain = d.Categorical(logits)
    assert float(certain.entropy()) == 0.0
    np.testing.assert_array_equal([certain.log_prob(i) for i in range(3)], [-np.inf, 0.0, -np.inf])
    assert int(certain.sample(jax.random.key(0))) == int(certain.mode()) == 1
    for value in ("entropy", "log_prob"):
        arguments = () if value == "entropy" else (1,)
        slope = jax.grad(lambda x: getattr(d.Categorical(x), value)(*arguments))(logits)  # noqa: B023
        np.testing.assert_array_equal(slope, 0.0)


def of_dtype(dist, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), dist)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", [*ALL, "joint"])
def test_parameters_of_16_bits_are_used_in_float32(name, dtype):
    dist = ALL.get(name, d.Joint((ALL["categorical"], ALL["gaussian"])))
    short = of_dtype(dist, dtype)
    same = of_dtype(short, jnp.float32)  # the same numbers
    action, expected = short.sample(jax.random.key(0)), same.sample(jax.random.key(0))
    np.testing.assert_allclose(action.astype(np.float32), expected, rtol=2.0**-8)
    dtypes = {"gaussian": dtype, "squashed": dtype, "joint": jnp.float32}
    assert action.dtype == short.mode().dtype == dtypes.get(name, jnp.int32)
    for x, y in [(short.log_prob(expected), same.log_prob(expected)),
                 (short.entropy(), same.entropy())]:  # fmt: skip
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rare_actions_are_drawn_as_often_as_they_should(dtype):
    n = 400_000
    p = 0.001
    logits = jnp.broadcast_to(jnp.array([np.log(p / (1 - p)), 0.0], dtype), (n, 2))
    seen = float(jnp.mean(d.Categorical(logits).sample(jax.random.key(1)) == 0))
    assert abs(seen - p) < 5 * np.sqrt(p / n) + 0.01 * p  # 0.01: the logit's rounding
    z = d.DiagonalGaussian(jnp.zeros(n, dtype), jnp.ones(n, dtype)).sample(jax.random.key(2))
    # Of 400,000 normal numbers about 1,080 pass 3 and about 25 pass 4.
    assert abs(int((jnp.abs(z) >= 3).sum()) - 1080) < 5 * np.sqrt(1080) + 20
    assert 4 < int((jnp.abs(z) > 4).sum()) < 60


@pytest.mark.parametrize("std", [0.01, 0.59, 0.61, 3.0, 30.0])
def test_the_entropy_of_a_squashed_gaussian_and_its_gradients(std):
    def exact(mean, std):  # in float64, with the kink of |x| between two pieces
        def f(x):
            away = abs(x)
            slope = 2 * (np.log(2) - away - np.log1p(np.exp(-2 * away)))
            return slope * np.exp(-0.5 * ((x - mean) / std) ** 2) / std / np.sqrt(2 * np.pi)

        ends = sorted({0.0, *(mean + k * std for k in (-9, -3, -1, 0, 1, 3, 9))})
        integral = sum(
            scipy.integrate.quad(f, low, high, epsabs=1e-11, epsrel=1e-11)[0]
            for low, high in itertools.pairwise(ends)
        )
        return 0.5 + 0.5 * np.log(2 * np.pi) + np.log(std) + integral

    ours = jax.value_and_grad(
        lambda m, s: d.SquashedGaussian(m[None], s[None]).entropy(), argnums=(0, 1)
    )
    for mean in (0.0, -0.7, 2.5, 30.0):
        value, slopes = ours(jnp.float32(mean), jnp.float32(std))
        assert float(value) == pytest.approx(exact(mean, std), abs=1e-4, rel=1e-5)
        h = 1e-3 * std
        by_mean = (exact(mean + h, std) - exact(mean - h, std)) / (2 * h)
        by_std = (exact(mean, std + h) - exact(mean, std - h)) / (2 * h)
        np.testing.assert_allclose(slopes, (by_mean, by_std), rtol=1e-3, atol=1e-4)


def test_a_std_far_outside_keeps_finite_gradients():
    slopes = jax.grad(lambda s: d.SquashedGaussian(jnp.zeros(2), s).entropy())
    np.testing.assert_allclose(slopes(jnp.array([1e-12, 1e-12])), 1e12, rtol=1e-3)
    assert np.isfinite(slopes(jnp.array([1e6, 1e12]))).all()


@pytest.mark.parametrize("name", ALL)
def test_expected_score_is_zero(name):
    """E[d log p / d parameter] = 0 for every distribution."""
    dist = jax.tree.map(lambda x: x[:1], ALL[name])
    if name in ("gaussian", "squashed"):  # a moderate scale, for a good estimate of the mean
        dist = type(dist)(jnp.array([[0.3, -1.0]]), jnp.array([[0.5, 2.0]]))
    n = 20_000
    actions = jax.vmap(dist.sample)(jax.random.split(jax.random.key(5), n))
    score = jax.vmap(lambda a: jax.grad(lambda p: p.log_prob(a).sum())(dist))(actions)
    for leaf in jax.tree.leaves(score):
        leaf = np.asarray(leaf, np.float64)
        error = leaf.std(0) / np.sqrt(n)
        assert (np.abs(leaf.mean(0)) < 5 * error + 1e-3).all()


@pytest.mark.parametrize("name", ALL)
def test_numpy_parameters_and_actions_work(name):
    """Even in float64, where a request for that dtype would make JAX warn."""
    dist = ALL[name]
    ours = jax.tree.map(lambda x: np.asarray(x, np.float64), dist)
    action = dist.sample(jax.random.key(6))
    results = (
        ours.sample(jax.random.key(6)),
        ours.log_prob(np.asarray(action)),
        ours.entropy(),
        ours.mode(),
    )
    expected = action, dist.log_prob(action), dist.entropy(), dist.mode()
    for result, same in zip(results, expected, strict=True):
        assert isinstance(result, jax.Array)
        assert result.dtype == same.dtype
        np.testing.assert_allclose(result, same, rtol=1e-5)
