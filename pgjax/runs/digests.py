"""Digests of parameters: SHA-256, and a cheap one for compiled programs."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pgjax.types import Params

_SALTS = (0x9E3779B9, 0x7F4A7C15)  # one per word


def params_digest(params: Params) -> jax.Array:
    """Compute a digest [2] uint32 of the bits of all parameters, leaf by leaf in tree order.

    It sums integers, so the order of summation does not matter. It detects accidental differences
    (a changed bit goes unnoticed once in 2**64); use `params_sha256` against deliberate ones.
    """
    bits = jnp.concatenate([_bits(leaf) for leaf in jax.tree.leaves(params)])
    mixed = _mix(bits ^ _mix(jnp.arange(bits.size, dtype=jnp.uint32) + jnp.uint32(1)))
    return jnp.stack([jnp.sum(_mix(mixed ^ np.uint32(s)), dtype=jnp.uint32) for s in _SALTS])


def to_hex(digest: np.ndarray) -> str:
    """Format a digest [2] uint32 as 16 hex digits."""
    return "".join(f"{int(word):08x}" for word in digest)


def _bits(leaf: jax.Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    width = leaf.dtype.itemsize
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(width, jnp.uint32)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    return lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32).ravel()


def _mix(x: jax.Array) -> jax.Array:
    """Apply MurmurHash3's finaliser: each input bit flips each output bit with probability 1/2."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def params_sha256(params: Params) -> str:
    """Compute the SHA-256 of the bytes of all parameters, leaf by leaf in tree order, in hex.

    Example:
      >>> import numpy as np
      >>> params_sha256({"w": np.zeros(2, np.float32)})[:8]
      'af5570f5'
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
