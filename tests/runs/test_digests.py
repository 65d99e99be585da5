import jax
import jax.numpy as jnp
import numpy as np

from pgjax.runs.digests import params_digest, to_hex

MASK = 2**32 - 1


def by_hand(leaves):
    """The definition, computed with Python integers."""

    def mix(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B & MASK
        x = (x ^ (x >> 13)) * 0xC2B2AE35 & MASK
        return x ^ (x >> 16)

    words = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint32) for leaf in leaves]).tolist()
    mixed = [mix(word ^ mix(i + 1)) for i, word in enumerate(words)]
    salts = 0x9E3779B9, 0x7F4A7C15
    return "".join(f"{sum(mix(m ^ salt) for m in mixed) & MASK:08x}" for salt in salts)


def digest(params):
    return to_hex(np.asarray(jax.jit(params_digest)(params)))


def test_a_digest_matches_its_definition(rng):
    leaves = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 5), (7,), ())]
    assert digest(leaves) == by_hand(leaves)
    assert len(digest(leaves)) == 16


def test_every_bit_and_every_place_counts(rng):
    x = rng.normal(size=40).astype(np.float32)
    seen = {digest([x])}
    for i in range(32 * len(x)):
        bits = x.view(np.uint32).copy()
        bits[i // 32] ^= np.uint32(1 << i % 32)
        seen.add(digest([bits.view(np.float32)]))
    seen.add(digest([x[::-1].copy()]))
    assert len(seen) == 1 + 32 * len(x) + 1
    # the sign of zero is a bit too
    assert digest([np.float32([0.0])]) != digest([np.float32([-0.0])])


def test_other_dtypes():
    for dtype in (jnp.bfloat16, jnp.int8, jnp.bool_, jnp.int32):
        zeros, one = jnp.zeros(3, dtype), jnp.array([0, 0, 1], dtype)
        assert digest([zeros]) != digest([one])
