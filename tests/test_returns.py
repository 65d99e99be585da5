import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax import returns


def naive_returns(r, discount, bootstrap):
    """Sum r[k], for k >= t, times the product of the discounts from t to k - 1."""
    out = np.zeros_like(r)
    for t in range(len(r)):
        weight = 1.0
        for k in range(t, len(r)):
            out[t] += weight * r[k]
            weight = weight * discount[k]
        out[t] += weight * bootstrap
    return out


@pytest.mark.parametrize("shape", [(1,), (7,), (33,), (20, 3)])
def test_discounted_returns_equal_naive_sums(rng, shape):
    r, discount = rng.normal(size=shape), rng.uniform(0, 1, shape)
    bootstrap = rng.normal(size=shape[1:])
    expected = naive_returns(r, discount, bootstrap)
    np.testing.assert_allclose(
        returns.discounted_returns(r, discount, bootstrap), expected, rtol=1e-4, atol=1e-5
    )


def test_discounted_returns_by_hand():
    # 1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 8)), 2 + 0.5 * (3 + 0.5 * 8), 3 + 0.5 * 8
    np.testing.assert_allclose(returns.discounted_returns([1, 2, 3], 0.5, 8.0), [3.75, 5.5, 7.0])


def test_lambda_returns_by_hand():
    r, v = np.array([1.0, 2.0]), np.array([10.0, 20.0])
    # last: 2 + 0.5 * 20 = 12; first: 1 + 0.5 * (0.75 * 10 + 0.25 * 12) = 6.25
    np.testing.assert_allclose(returns.lambda_returns(r, 0.5, v, 0.25), [6.25, 12.0])


def test_a_discount_per_step_is_along_time_even_for_square_shapes(rng):
    r, discount = rng.normal(size=(4, 4)), rng.uniform(size=4)
    expected = naive_returns(r, np.repeat(discount[:, None], 4, 1), np.zeros(4))
    np.testing.assert_allclose(returns.discounted_returns(r, discount), expected, rtol=1e-4)


def test_lambda_one_is_monte_carlo_and_lambda_zero_is_one_step(rng):
    r, v = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    np.testing.assert_allclose(
        returns.lambda_returns(r, 0.9, v, 1.0),
        naive_returns(r, np.full((9, 2), 0.9), v[-1]),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(returns.lambda_returns(r, 0.9, v, 0.0), r + 0.9 * v, rtol=1e-5)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # gamma 0.5, lambda 0.5; reward 1, value 2, next_value 4 at both steps.
        # Bootstrapping delta = 1 + 0.5 * 4 - 2 = 1; terminal delta = 1 - 2 = -1.
        # If the episode continues from step 0 to 1, that adds 0.25 A_1.
        ([False, False], [False, False], [1.25, 1.0]),  # the rollout stops: bootstrap
        ([False, True], [False, False], [0.75, -1.0]),
        ([False, False], [False, True], [1.25, 1.0]),  # cut off: bootstrap
        ([False, True], [False, True], [0.75, -1.0]),  # both flags count as terminated
        ([True, True], [False, False], [-1.0, -1.0]),  # nothing flows back over an end
        ([False, False], [True, True], [1.0, 1.0]),
    ],
)
def test_gae_truncation_by_hand(terminated, truncated, expected):
    two = np.ones(2)
    advantage = returns.gae(
        two, 2 * two, 4 * two, np.array(terminated), np.array(truncated), 0.5, 0.5
    )
    np.testing.assert_allclose(advantage, expected)


def test_gae_is_a_sum_of_discounted_errors(rng):
    r, v = rng.normal(size=30), rng.normal(size=31)
    none = np.zeros(30, bool)
    delta = r + 0.9 * v[1:] - v[:-1]
    expected = [sum((0.9 * 0.8) ** k * d for k, d in enumerate(delta[t:])) for t in range(30)]
    np.testing.assert_allclose(
        returns.gae(r, v[:-1], v[1:], none, none, 0.9, 0.8), expected, rtol=1e-3, atol=1e-5
    )


def test_numpy_arrays_and_python_numbers_give_float32_jax_arrays():
    ones, flags = np.ones(3, np.int64), np.zeros(3, bool)
    for result in (
        returns.discounted_returns(ones, 0.9, 2),
        returns.lambda_returns(ones, np.float64(0.9), ones, np.full(3, 0.5)),
        returns.gae(ones, ones, ones, flags, flags, np.float64(0.9), 1),
    ):
        assert isinstance(result, jax.Array)
        assert result.dtype == np.float32


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float16, 1e-3), (jnp.bfloat16, 4e-3)])
def test_long_sums_of_16_bits_do_not_stop(dtype, rtol):
    ones = jnp.ones(4096, dtype)
    expected = (1 - 0.999**4096) / (1 - 0.999)  # 983.4
    found = returns.discounted_returns(ones, 0.999)
    assert found.dtype == dtype
    np.testing.assert_allclose(float(found[0]), expected, rtol=rtol)
    zeros, no = jnp.zeros(4096, dtype), np.zeros(4096, bool)
    found = returns.lambda_returns(ones, 0.999, zeros)
    assert found.dtype == dtype
    np.testing.assert_allclose(float(found[0]), expected, rtol=rtol)
    found = returns.gae(ones, zeros, zeros, no, no, 0.999, 1.0)
    assert found.dtype == dtype
    np.testing.assert_allclose(float(found[0]), expected, rtol=rtol)


def test_whole_numbers_give_float32():
    found = returns.discounted_returns(np.ones(3, np.int32), 0.5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [1.75, 1.5, 1.0])
