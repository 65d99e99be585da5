"""Action distributions: small immutable pytrees that all have the same five methods.

  .sample(key) -> action      .log_prob(action) -> [...]
  .entropy() -> [...]         .mode() -> action
  .kl(other) -> [...]         KL(self || other) in nats, for another one of the same kind

`[...]` are the batch axes of the parameters. Use each key only once. Parameters may be JAX or NumPy
arrays. Noise, log-probabilities and entropies are computed and returned in float32, or in float64
for float64 parameters, also if the parameters have fewer bits; continuous actions and modes have
the dtype of the parameters.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pgjax.numerics.dtypes import at_least_float32
from pgjax.numerics.tanh import log_tanh_slope, mean_log_tanh_slope
from pgjax.types import Array

_LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))


class Categorical(NamedTuple):
    """One of n choices, by a softmax over logits.

    Use it for Discrete action spaces. A logit of -inf rules a choice out, one of inf makes it
    certain.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from pgjax.distributions import Categorical
      >>> distribution = Categorical(logits=np.zeros((3, 4)))  # a batch of 3, each with 4 choices
      >>> distribution.sample(jax.random.key(0)).shape
      (3,)
      >>> round(float(distribution.log_prob(np.array([0, 1, 2]))[0]), 3)  # log(1 / 4)
      -1.386
    """

    logits: Array  # [..., n]

    def _logits(self) -> jax.Array:
        """Logits whose log_softmax exists: a logit of inf rules the finite ones out."""
        logits = at_least_float32(self.logits)
        certain = logits == jnp.inf
        among_certain = jnp.where(certain, 0.0, -jnp.inf).astype(logits.dtype)
        return jnp.where(certain.any(-1, keepdims=True), among_certain, logits)

    def sample(self, key: jax.Array) -> jax.Array:
        """Return actions in 0..n-1, [...] int32."""
        return jax.random.categorical(key, self._logits()).astype(jnp.int32)

    def log_prob(self, action: ArrayLike) -> jax.Array:
        """Return log-probabilities, [...]; -inf for actions outside 0..n-1."""
        log_p = jax.nn.log_softmax(self._logits())
        action = jnp.asarray(action)
        whole = jnp.issubdtype(action.dtype, jnp.integer)
        action = action.astype(jnp.int32) if whole else at_least_float32(action)
        # Not by indexing, which would wrap around outside 0..n-1.
        each = jax.lax.broadcasted_iota(action.dtype, log_p.shape, log_p.ndim - 1)
        chosen = action[..., None] == each
        log_p = jnp.where(chosen, log_p, 0.0).sum(-1)
        return jnp.where(chosen.any(-1), log_p, -jnp.inf)

    def entropy(self) -> jax.Array:
        """Return the entropy in nats, [...], in [0, log n]."""
        log_p = jax.nn.log_softmax(self._logits())
        p = jnp.exp(log_p)
        # A choice that is ruled out has log p = -inf and contributes nothing; the inner where keeps
        # its gradient finite.
        return -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), -1)

    def kl(self, other: "Categorical") -> jax.Array:
        """Return KL(self || other) in nats, [...]; infinite if `other` rules out a choice."""
        log_p, log_q = (jax.nn.log_softmax(x._logits()) for x in (self, other))
        return _expected_difference(log_p, log_q)

    def mode(self) -> jax.Array:
        """Return the most likely actions, [...] int32; the first one in a tie."""
        return jnp.argmax(self.logits, -1).astype(jnp.int32)


class DiagonalGaussian(NamedTuple):
    """Independent normal distributions, one for each dimension of the action.

    Use it for Box action spaces. Its samples are unbounded; the environment receives them clipped.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from pgjax.distributions import DiagonalGaussian
      >>> distribution = DiagonalGaussian(mean=np.zeros(2), std=np.ones(2))
      >>> distribution.sample(jax.random.key(0)).shape
      (2,)
      >>> round(float(distribution.log_prob(np.zeros(2))), 3)  # -log(2 pi)
      -1.838
    """

    mean: Array  # [..., d]
    std: Array  # [..., d], positive

    def _wide(self) -> tuple[jax.Array, jax.Array]:
        """Mean and std of one shape: either may be [d], the same for all rows."""
        mean, std = at_least_float32(self.mean), at_least_float32(self.std)
        mean, std = jnp.broadcast_arrays(mean, std)
        return mean, std

    def sample(self, key: jax.Array) -> jax.Array:
        """Return actions, [..., d]."""
        mean, std = self._wide()
        action = mean + std * jax.random.normal(key, mean.shape, mean.dtype)
        return action.astype(jnp.asarray(self.mean).dtype)

    def log_prob(self, action: ArrayLike) -> jax.Array:
        """Return log-densities summed over the dimensions of the action, [...]."""
        mean, std = self._wide()
        z = (at_least_float32(action) - mean) / std
        return jnp.sum(-0.5 * z**2 - jnp.log(std) - _LOG_SQRT_2PI, -1)

    def entropy(self) -> jax.Array:
        """Return the differential entropy in nats, [...]."""
        _, std = self._wide()
        return jnp.sum(0.5 + _LOG_SQRT_2PI + jnp.log(std), -1)

    def kl(self, other: "DiagonalGaussian") -> jax.Array:
        """Return KL(self || other) in nats, summed over the dimensions, [...]."""
        (mean, std), (other_mean, other_std) = self._wide(), other._wide()
        ratio, shift = std / other_std, (mean - other_mean) / other_std
        return jnp.sum(0.5 * (ratio**2 + shift**2 - 1.0) - jnp.log(ratio), -1)

    def mode(self) -> jax.Array:
        """Return the mean, [..., d]."""
        mean, _ = self._wide()
        return mean.astype(jnp.asarray(self.mean).dtype)


class SquashedGaussian(NamedTuple):
    """The tanh of a DiagonalGaussian, in (-1, 1). Actions are raw: they are taken before the tanh.

    Use it for Box action spaces with finite bounds, when clipping would put too many actions on the
    bounds. Actions stay raw because tanh cannot always be inverted: in float32 tanh(8) is 1, and
    arctanh(1) is infinite. `log_prob(raw)` is the log-density of tanh(raw), finite also far out.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from pgjax.distributions import SquashedGaussian
      >>> distribution = SquashedGaussian(mean=np.zeros(1), std=np.ones(1))
      >>> raw = distribution.sample(jax.random.key(0))
      >>> raw.shape
      (1,)
      >>> round(float(distribution.log_prob(np.zeros(1))), 3)  # -log(2 pi) / 2
      -0.919
    """

    mean: Array  # [..., d] of the normal distribution before the tanh
    std: Array  # [..., d], positive

    def sample(self, key: jax.Array) -> jax.Array:
        """Return raw actions, [..., d]; the environment gets their tanh, scaled to its bounds."""
        return DiagonalGaussian(self.mean, self.std).sample(key)

    def log_prob(self, action: ArrayLike) -> jax.Array:
        """Return log-densities of tanh(action), [...], for raw actions.

        Source: Haarnoja et al. 2018, Soft actor-critic, appendix C, eq. 21.
        """
        normal = DiagonalGaussian(self.mean, self.std).log_prob(action)
        density = normal - jnp.sum(log_tanh_slope(at_least_float32(action)), -1)
        return jnp.where(jnp.isneginf(normal), normal, density)  # -inf for infinite actions

    def entropy(self) -> jax.Array:
        """Return the differential entropy of tanh(raw) in nats, [...].

        By numerical quadrature, to 1e-5 for each dimension (for std from 0.01 to 30 and means from
        -30 to 30).
        """
        mean, std = at_least_float32(self.mean), at_least_float32(self.std)
        return DiagonalGaussian(mean, std).entropy() + jnp.sum(mean_log_tanh_slope(mean, std), -1)

    def kl(self, other: "SquashedGaussian") -> jax.Array:
        """Return KL(self || other) in nats, [...]: equal to that before the tanh."""
        return DiagonalGaussian(self.mean, self.std).kl(DiagonalGaussian(other.mean, other.std))

    def mode(self) -> jax.Array:
        """Return the mean of the normal distribution, [..., d]: the median after the tanh.

        The density after the tanh may peak at the bounds, which are rarely good actions.
        """
        return DiagonalGaussian(self.mean, self.std).mode()


class MultiCategorical(NamedTuple):
    """Several independent choices, each with its own number of options.

    Use it for MultiDiscrete action spaces.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from pgjax.distributions import MultiCategorical
      >>> distribution = MultiCategorical(logits=(np.zeros(2), np.zeros(3)))
      >>> distribution.sample(jax.random.key(0)).shape
      (2,)
      >>> round(float(distribution.log_prob(np.array([1, 2]))), 3)  # log(1 / 2) + log(1 / 3)
      -1.792
    """

    logits: tuple[Array, ...]  # k arrays [..., n_i]

    def _parts(self) -> list[Categorical]:
        return [Categorical(logits) for logits in self.logits]

    def sample(self, key: jax.Array) -> jax.Array:
        """Return actions, [..., k] int32."""
        keys = jax.random.split(key, len(self.logits))
        return jnp.stack([p.sample(k) for p, k in zip(self._parts(), keys, strict=True)], -1)

    def log_prob(self, action: ArrayLike) -> jax.Array:
        """Return log-probabilities summed over the choices, [...]."""
        action = jnp.asarray(action)
        return sum(p.log_prob(action[..., i]) for i, p in enumerate(self._parts()))  # type: ignore

    def entropy(self) -> jax.Array:
        """Return the entropy in nats summed over the choices, [...]."""
        return sum(p.entropy() for p in self._parts())  # type: ignore

    def kl(self, other: "MultiCategorical") -> jax.Array:
        """Return KL(self || other) in nats, summed over the choices, [...]."""
        return sum(p.kl(q) for p, q in zip(self._parts(), other._parts(), strict=True))  # type: ignore

    def mode(self) -> jax.Array:
        """Return the most likely actions, [..., k] int32."""
        return jnp.stack([p.mode() for p in self._parts()], -1)


class Bernoulli(NamedTuple):
    """Independent coins, each 1 with probability sigmoid(logits) and otherwise 0.

    Use it for MultiBinary action spaces. A logit of inf makes a 1 certain, one of -inf a 0.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from pgjax.distributions import Bernoulli
      >>> distribution = Bernoulli(logits=np.zeros(3))
      >>> distribution.sample(jax.random.key(0)).shape
      (3,)
      >>> round(float(distribution.log_prob(np.array([1, 0, 1]))), 3)  # 3 log(1 / 2)
      -2.079
    """

    logits: Array  # [..., k]

    def sample(self, key: jax.Array) -> jax.Array:
        """Return actions, [..., k] int32, each 0 or 1."""
        p = jax.nn.sigmoid(at_least_float32(self.logits))
        return jax.random.bernoulli(key, p).astype(jnp.int32)

    def log_prob(self, action: ArrayLike) -> jax.Array:
        """Return log-probabilities summed over the coins, [...]; -inf for other than 0 and 1.

        The log-sigmoid keeps them finite where a coin is all but certain.
        """
        logits, action = at_least_float32(self.logits), jnp.asarray(action)
        log_p = jax.nn.log_sigmoid(jnp.where(action == 1, logits, -logits))
        return jnp.sum(jnp.where((action == 0) | (action == 1), log_p, -jnp.inf), -1)

    def entropy(self) -> jax.Array:
        """Return the entropy in nats summed over the coins, [...]."""
        logits = at_least_float32(self.logits)
        # Logits of ±inf have entropy 0; the inner where keeps its gradient finite.
        certain = jnp.isinf(logits)
        logits = jnp.where(certain, 0.0, logits)
        each = jax.nn.softplus(logits) - jax.nn.sigmoid(logits) * logits
        return jnp.sum(jnp.where(certain, 0.0, each), -1)

    def kl(self, other: "Bernoulli") -> jax.Array:
        """Return KL(self || other) in nats, summed over the coins, [...]."""
        log_p, log_q = (
            jax.nn.log_sigmoid(jnp.stack([x, -x], -1))
            for x in map(at_least_float32, (self.logits, other.logits))
        )
        return jnp.sum(_expected_difference(log_p, log_q), -1)

    def mode(self) -> jax.Array:
        """Return the most likely actions, [..., k] int32; 0 in a tie."""
        return jnp.asarray(self.logits > 0).astype(jnp.int32)


class Joint(NamedTuple):
    """Several independent distributions. An action is one row with the numbers of all parts.

    Use it for Dict and Tuple action spaces. Actions are int32 if all parts are discrete, else
    float32 (or float64) with whole numbers for the discrete parts.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from pgjax.distributions import Categorical, DiagonalGaussian, Joint
      >>> parts = Categorical(np.zeros(2)), DiagonalGaussian(np.zeros(1), np.ones(1))
      >>> distribution = Joint(parts)
      >>> distribution.sample(jax.random.key(0)).shape
      (2,)
      >>> round(float(distribution.log_prob(np.array([1.0, 0.0]))), 3)
      -1.612
    """

    parts: tuple[Any, ...]  # distributions with the same batch axes

    def _is_scalar(self) -> list[bool]:
        """Tell for each part whether its actions have no axis besides the batch axes."""
        return [isinstance(part, Categorical) for part in self.parts]

    def _join(self, actions: list[jax.Array]) -> jax.Array:
        """Concatenate the actions of the parts, [...] or [..., k], to [..., sum of k]."""
        scalars = self._is_scalar()
        rows = [a[..., None] if scalar else a for a, scalar in zip(actions, scalars, strict=True)]
        if not all(jnp.issubdtype(row.dtype, jnp.integer) for row in rows):
            rows = [at_least_float32(row) for row in rows]  # exact for up to 2**24 choices
        return jnp.concatenate(rows, -1)

    def _split(self, action: jax.Array) -> list[jax.Array]:
        """Invert `_join`."""
        actions, start = [], 0
        for part, scalar in zip(self.parts, self._is_scalar(), strict=True):
            like = jax.eval_shape(part.mode)
            stop = start + (1 if scalar else like.shape[-1])
            actions.append(action[..., start] if scalar else action[..., start:stop])
            start = stop
        return actions

    def sample(self, key: jax.Array) -> jax.Array:
        """Return actions, [..., k] with k the numbers of all parts."""
        keys = jax.random.split(key, len(self.parts))
        return self._join([p.sample(k) for p, k in zip(self.parts, keys, strict=True)])

    def log_prob(self, action: ArrayLike) -> jax.Array:
        """Return log-probabilities summed over the parts, [...]."""
        actions = self._split(jnp.asarray(action))
        return sum(part.log_prob(a) for part, a in zip(self.parts, actions, strict=True))

    def entropy(self) -> jax.Array:
        """Return the entropy in nats summed over the parts, [...]."""
        return sum(part.entropy() for part in self.parts)

    def kl(self, other: "Joint") -> jax.Array:
        """Return KL(self || other) in nats, summed over the parts, [...]."""
        return sum(p.kl(q) for p, q in zip(self.parts, other.parts, strict=True))

    def mode(self) -> jax.Array:
        """Return the modes of the parts, [..., k]."""
        return self._join([part.mode() for part in self.parts])


def _expected_difference(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Return the sum of p (log p - log q) over the last axis, where 0 log 0 is 0."""
    possible = log_p > -jnp.inf
    # The inner where keeps gradients finite where p is 0.
    difference = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    return jnp.sum(jnp.exp(log_p) * difference, -1)
