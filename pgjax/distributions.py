"""What a policy returns: small immutable pytrees, all with the same four methods.

  .sample(key) -> action      .log_prob(action) -> [...]
  .entropy() -> [...]         .mode() -> action

`[...]` are the batch axes of the parameters. A key is consumed: use it once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))
# Gauss-Hermite quadrature of an expectation under N(0, 1): sum of weights * f(nodes).
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Categorical(NamedTuple):
    """One choice of n, by a softmax over logits."""

    logits: jax.Array  # [..., n]

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [...] int32 in 0..n-1."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...]; -inf outside 0..n-1 (a plain index would wrap round)."""
        log_p = jax.nn.log_softmax(self.logits)
        chosen = jax.nn.one_hot(action, log_p.shape[-1], dtype=bool)
        log_p = jnp.where(chosen, log_p, 0.0).sum(-1)
        return jnp.where(chosen.any(-1), log_p, -jnp.inf)

    def entropy(self) -> jax.Array:
        """Nats, [...], in [0, log n]."""
        log_p = jax.nn.log_softmax(self.logits)
        p = jnp.exp(log_p)
        # A masked choice has log p = -inf and contributes nothing; the inner where keeps its
        # gradient finite.
        return -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), -1)

    def mode(self) -> jax.Array:
        """The likeliest action, [...] int32; the first of equals."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)


class DiagonalGaussian(NamedTuple):
    """Independent normals, one for each dimension of the action."""

    mean: jax.Array  # [..., d]
    std: jax.Array  # [..., d], positive

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., d]."""
        shape = jnp.broadcast_shapes(self.mean.shape, self.std.shape)
        return self.mean + self.std * jax.random.normal(key, shape, self.mean.dtype)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...], summed over the dimensions of the action."""
        z = (action - self.mean) / self.std
        return jnp.sum(-0.5 * z**2 - jnp.log(self.std) - _LOG_SQRT_2PI, -1)

    def entropy(self) -> jax.Array:
        """Differential entropy in nats, [...]."""
        std = jnp.broadcast_to(self.std, jnp.broadcast_shapes(self.mean.shape, self.std.shape))
        return jnp.sum(0.5 + _LOG_SQRT_2PI + jnp.log(std), -1)

    def mode(self) -> jax.Array:
        """[..., d]."""
        return self.mean


class SquashedGaussian(NamedTuple):
    """tanh of a DiagonalGaussian, in (-1, 1); its actions are kept raw, before the tanh.

    Raw, because float32 tanh(8) is 1, whose arctanh is infinite: what was squashed cannot always
    be taken back. `log_prob(raw)` is the density of tanh(raw), and stays finite far out.
    """

    mean: jax.Array  # [..., d] of the normal before the tanh
    std: jax.Array  # [..., d], positive

    def sample(self, key: jax.Array) -> jax.Array:
        """Raw actions [..., d]; the environment gets their tanh, scaled to its bounds."""
        return DiagonalGaussian(self.mean, self.std).sample(key)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density of tanh(action) at the raw action, [...].

        Source: Haarnoja et al. 2018, Soft actor-critic, appendix C, eq. 21.
        """
        normal = DiagonalGaussian(self.mean, self.std).log_prob(action)
        return normal - jnp.sum(_log_tanh_slope(action), -1)

    def entropy(self) -> jax.Array:
        """Differential entropy of tanh(raw) in nats, [...], by Gauss-Hermite quadrature."""
        nodes = jnp.asarray(_NODES, self.mean.dtype)
        slope = jax.vmap(lambda z: _log_tanh_slope(self.mean + self.std * z))(nodes)
        expected = jnp.tensordot(jnp.asarray(_WEIGHTS, self.mean.dtype), slope, 1)
        return DiagonalGaussian(self.mean, self.std).entropy() + jnp.sum(expected, -1)

    def mode(self) -> jax.Array:
        """The raw action at the middle of the normal, [..., d]: the median once squashed.

        The squashed density itself may peak at the bounds, where nobody wants to act.
        """
        return self.mean


class MultiCategorical(NamedTuple):
    """Independent choices, each of its own number."""

    logits: tuple[jax.Array, ...]  # k arrays [..., n_i]

    def _parts(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits]

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., k] int32."""
        keys = jax.random.split(key, len(self.logits))
        return jnp.stack([p.sample(k) for p, k in zip(self._parts(), keys, strict=True)], -1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...], summed over the choices."""
        return sum(p.log_prob(action[..., i]) for i, p in enumerate(self._parts()))  # type: ignore

    def entropy(self) -> jax.Array:
        """Nats, [...]."""
        return sum(p.entropy() for p in self._parts())  # type: ignore

    def mode(self) -> jax.Array:
        """[..., k] int32."""
        return jnp.stack([p.mode() for p in self._parts()], -1)


class Bernoulli(NamedTuple):
    """Independent coins: 1 with probability sigmoid(logits)."""

    logits: jax.Array  # [..., k]

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., k] int32, 0 or 1."""
        return jax.random.bernoulli(key, jax.nn.sigmoid(self.logits)).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...], summed over the coins; by log-sigmoid, so that certain coins stay finite."""
        heads = jnp.asarray(action) == 1
        return jnp.sum(jax.nn.log_sigmoid(jnp.where(heads, self.logits, -self.logits)), -1)

    def entropy(self) -> jax.Array:
        """Nats, [...], summed over the coins."""
        p = jax.nn.sigmoid(self.logits)
        return jnp.sum(jax.nn.softplus(self.logits) - p * self.logits, -1)

    def mode(self) -> jax.Array:
        """[..., k] int32; 0 where both are equally likely."""
        return (self.logits > 0).astype(jnp.int32)


class Joint(NamedTuple):
    """Independent distributions side by side: an action is one row of all their numbers.

    int32 where all are discrete, else floating, with whole numbers for what is discrete.
    """

    parts: tuple[Any, ...]

    def _join(self, actions: list[jax.Array]) -> jax.Array:
        """Actions of the parts, [...] or [..., k], as [..., sum of k]."""
        rows = [a[..., None] if one else a for a, one in zip(actions, self._is_one(), strict=True)]
        return jnp.concatenate(rows, -1, dtype=jnp.result_type(*rows))

    def _is_one(self) -> list[bool]:
        return [isinstance(part, Categorical) for part in self.parts]

    def _split(self, action: jax.Array) -> list[jax.Array]:
        of_parts, start = [], 0
        for part, one in zip(self.parts, self._is_one(), strict=True):
            like = jax.eval_shape(part.mode)
            stop = start + (1 if one else like.shape[-1])
            x = action[..., start] if one else action[..., start:stop]
            of_parts.append(x.astype(like.dtype) if jnp.issubdtype(like.dtype, jnp.integer) else x)
            start = stop
        return of_parts

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions [..., k]."""
        keys = jax.random.split(key, len(self.parts))
        return self._join([p.sample(k) for p, k in zip(self.parts, keys, strict=True)])

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...], summed over the parts."""
        of_parts = zip(self.parts, self._split(action), strict=True)
        return sum(part.log_prob(a) for part, a in of_parts)

    def entropy(self) -> jax.Array:
        """Nats, [...], summed over the parts."""
        return sum(part.entropy() for part in self.parts)

    def mode(self) -> jax.Array:
        """[..., k]."""
        return self._join([part.mode() for part in self.parts])


def _log_tanh_slope(x: jax.Array) -> jax.Array:
    """log(1 - tanh(x)^2) as 2 (log 2 - x - softplus(-2x)): 1 - tanh(x)^2 itself is 0 from x = 8."""
    return 2.0 * (float(np.log(2.0)) - x - jax.nn.softplus(-2.0 * x))
