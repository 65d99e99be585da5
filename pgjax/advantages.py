"""Estimators: functions (rollout, value, next_value) -> advantage [T, B], zero where padded.

`value` and `next_value` are the critic's V(obs) and V(next_obs), [T, B], or None without a critic.
Wrappers take an estimator and give one, so they compose: normalized(reward_to_go(gamma=0.99)).
The innermost estimator's advantage plus the value is what the critic is fitted to; a wrapper of
your own should therefore use functools.wraps, as these do.
"""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp

from pgjax import returns
from pgjax.errors import ConfigError
from pgjax.numerics.sums import sum_rows
from pgjax.types import Rollout, segment_ends, zero_padding


class Estimator(Protocol):
    """(rollout, value, next_value) -> advantage [T, B]."""

    def __call__(
        self, rollout: Rollout, value: jax.Array | None, next_value: jax.Array | None, /
    ) -> jax.Array: ...


def _check_unit(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"{name} must lie in [0, 1], got {rate}")


def _masked(rollout: Rollout, x: jax.Array) -> jax.Array:
    return jnp.where(rollout.weight > 0, x, jnp.zeros_like(x))


def reward_to_go(gamma: float = 0.99, *, reward_scale: float = 1.0) -> Estimator:
    """The discounted sum of the rewards from each step on; less the critic's value if there is one.

    With a critic, what a truncation (or the end of the rollout) cut off is estimated by
    V(next_obs). Without one an episode that was cut counts its sum so far, so that the
    objective is the return up to there. A critic changes the expected gradient only by where it
    bootstraps.

    Args:
      gamma: discount in [0, 1].
      reward_scale: factor on the rewards, to bring a critic's values near 1.

    Source: Williams 1992; Sutton & Barto, 2nd ed., section 13.3-13.4.
    """
    _check_unit(gamma=gamma)

    def estimate(
        rollout: Rollout, value: jax.Array | None = None, next_value: jax.Array | None = None
    ) -> jax.Array:
        rollout = zero_padding(rollout)
        cut, reward = segment_ends(rollout), reward_scale * rollout.reward
        if value is None or next_value is None:
            value = jnp.zeros_like(reward)
        else:
            bootstraps = cut & ~rollout.terminated
            reward = reward + gamma * jnp.where(bootstraps, next_value, 0.0)
        discount = gamma * jnp.where(cut, 0.0, 1.0).astype(reward.dtype)
        return _masked(rollout, returns.discounted_returns(reward, discount) - value)

    return estimate


def gae(gamma: float = 0.99, lambda_: float = 0.95, *, reward_scale: float = 1.0) -> Estimator:
    """Generalised advantage estimation; needs a critic.

    Args:
      gamma, lambda_: in [0, 1]; lambda_=1 has no bias from the critic, and the smaller it is, the
        less variance with a critic that is good. One that is right gives no bias at any lambda_.
      reward_scale: factor on the rewards, to bring the critic's values near 1.

    Raises:
      ConfigError: when called without values.

    Source: Schulman et al. 2016, eq. 16; see `pgjax.returns.gae`.
    """
    _check_unit(gamma=gamma, lambda_=lambda_)

    def estimate(
        rollout: Rollout, value: jax.Array | None, next_value: jax.Array | None
    ) -> jax.Array:
        if value is None or next_value is None:
            raise ConfigError(
                "gae bootstraps from a critic and there is none: pass critic=ValueNetwork() to "
                "reinforce (--critic), or use reward_to_go"
            )
        rollout = zero_padding(rollout)
        advantage = returns.gae(
            reward_scale * rollout.reward,
            _masked(rollout, value),
            _masked(rollout, next_value),
            rollout.terminated,
            rollout.truncated | segment_ends(rollout),
            gamma,
            lambda_,
        )
        return _masked(rollout, advantage)

    return estimate


def normalized(estimator: Estimator) -> Estimator:
    """Less the mean and over the standard deviation of all real steps (ddof 1, plus 1e-9).

    One step, or equal advantages, give exactly zero. The gradient is biased, since an episode is
    compared with a mean that it is part of (a bandit's without the scaling is (n - 1) / n of it).
    """

    @functools.wraps(estimator)
    def estimate(
        rollout: Rollout, value: jax.Array | None = None, next_value: jax.Array | None = None
    ) -> jax.Array:
        x = estimator(rollout, value, next_value)
        # Centred on one of the values first: the float32 mean of equal numbers is not always
        # equal to them, and what is left would be divided by 1e-9.
        first = x.ravel()[jnp.argmax(rollout.weight.ravel() > 0)]
        x = _masked(rollout, x - first)
        total, count = sum_rows((x, rollout.weight))
        x = _masked(rollout, x - total / jnp.maximum(count, 1))
        std = jnp.sqrt(sum_rows(x**2) / jnp.maximum(count - 1, 1))
        return x / (std + 1e-9)

    return estimate


def leave_one_out(estimator: Estimator) -> Estimator:
    """Less the mean over the *other* episodes at the same time step: a baseline without bias.

    An episode that has ended counts 0 from then on: it has nothing left to gain. Columns are whole
    episodes.

    Raises:
      ConfigError: with fewer than two episodes.

    Source: Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for free!, eq. 8.
    """

    @functools.wraps(estimator)
    def estimate(
        rollout: Rollout, value: jax.Array | None = None, next_value: jax.Array | None = None
    ) -> jax.Array:
        num_episodes = rollout.weight.shape[1]
        if num_episodes < 2:
            raise ConfigError(
                "leave_one_out compares an episode with the others of its batch and needs at least "
                f"2, got {num_episodes}: collect more per update (--episodes-per-update)"
            )
        x = estimator(rollout, value, next_value)
        # A column of nothing but padding is no episode.
        count = (rollout.weight > 0).any(0).sum()
        # One after the other: how a sum of columns is grouped depends on the length of the batch.
        total, _ = jax.lax.scan(
            lambda s, column: (s + column, None), jnp.zeros_like(x[:, 0]), x.T, unroll=8
        )
        others = (total[:, None] - x) / jnp.maximum(count - 1, 1)
        return _masked(rollout, x - others)

    return estimate


def time_discounted(estimator: Estimator, gamma: float = 0.99) -> Estimator:
    """Step t of an episode weighed by gamma^t: the textbook gradient of the discounted objective.

    Without it (the lesson's choice, and nearly everybody's) late steps count as much as early ones.
    Wrap it outermost, so that normalising does not see the weights.

    Source: Sutton & Barto, 2nd ed., section 13.3, the gamma^t of the boxed algorithm.
    """
    _check_unit(gamma=gamma)

    @functools.wraps(estimator)
    def estimate(
        rollout: Rollout, value: jax.Array | None = None, next_value: jax.Array | None = None
    ) -> jax.Array:
        x = estimator(rollout, value, next_value)
        # A new episode begins behind an end, and behind a gap.
        ended = segment_ends(zero_padding(rollout)) | ~(rollout.weight > 0)

        def step(w: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.where(end, jnp.ones_like(w), gamma * w), w

        return x * jax.lax.scan(step, jnp.ones_like(x[0]), ended)[1]

    return estimate
