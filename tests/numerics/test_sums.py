import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.numerics.sums import (
    Sharding,
    join_rows,
    max_over_vmap,
    scan_in_fixed_order,
    split_rows,
    sum_rows,
)


def decayed_sum(carry, x):
    carry = x["add"] + x["keep"] * carry
    return carry, (carry, 2 * carry)


def scan(xs, **options):
    return scan_in_fixed_order(decayed_sum, jnp.ones(3), xs, {"add": 0, "keep": 1}, **options)


@pytest.fixture
def xs(rng):
    shape = (40, 3)
    return {"add": rng.normal(size=shape).astype("f"), "keep": rng.uniform(size=shape).astype("f")}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 7, 8, 16, 40])
def test_scan_equals_lax_scan(xs, length, reverse):
    xs = {name: x[:length] for name, x in xs.items()}
    expected = jax.lax.scan(decayed_sum, jnp.ones(3), xs, reverse=reverse)
    for ours, theirs in zip(
        jax.tree.leaves(scan(xs, reverse=reverse)), jax.tree.leaves(expected), strict=True
    ):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_scan_rounds_alike_at_every_length(xs):
    """In one program with other arithmetic, which XLA may fuse with a loop that it inlines."""

    @jax.jit
    def forward(xs):
        return scan({name: jnp.sin(x) * 1.1 for name, x in xs.items()})[1][0] * 0.3 + 0.7

    whole = forward(xs)
    for length in (1, 3, 8, 9, 17):
        part = forward({name: x[:length] for name, x in xs.items()})
        np.testing.assert_array_equal(part, whole[:length])


@pytest.mark.parametrize("chunk_size", [None, 2, 5, 128])
@pytest.mark.parametrize("shards", [1, 2])
def test_join_rows_inverts_split_rows(rng, chunk_size, shards):
    x = rng.normal(size=(5, 4, 3))
    chunks = split_rows(jnp.asarray(x), chunk_size, shards)
    assert chunks.shape[0] == shards
    assert chunks.shape[2:] == (chunk_size or 20 // shards, 3)
    assert chunk_size is None or chunks.shape[1] >= 2
    np.testing.assert_array_equal(join_rows(chunks, (5, 4)), x.astype(np.float32))


def test_columns_are_padded_to_whole_shards():
    assert [Sharding(4).pad(n) for n in (1, 4, 5, 8)] == [4, 4, 8, 8]


def test_sum_rows_is_exact_over_many_rows(rng):
    x = rng.integers(-1000, 1000, size=(1000, 3))
    y = rng.integers(2, size=(1000, 3)).astype(bool)
    assert [int(s) for s in sum_rows((jnp.asarray(x), jnp.asarray(y)))] == [x.sum(), y.sum()]


def test_max_over_vmap_is_the_maximum_of_the_batch():
    x = jnp.array([[1, 5, 2], [4, 3, 0]])
    assert max_over_vmap(x[0, 1]) == 5
    np.testing.assert_array_equal(jax.vmap(max_over_vmap)(x[1]), [4, 4, 4])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(max_over_vmap))(x), np.full((2, 3), 5))
    flags = jax.jit(jax.vmap(lambda v: v + max_over_vmap(v > 4)))(x[0])
    np.testing.assert_array_equal(flags, [2, 6, 3])
