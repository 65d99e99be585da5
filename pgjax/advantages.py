"""Advantage estimators: functions (rollout, value, next_value) -> advantage [T, B].

`value` and `next_value` are the critic's V(obs) and V(next_obs), [T, B], or None without a critic.
Wrappers take an estimator and return one, so they compose: `normalized(reward_to_go(gamma=0.99))`.

An estimator also declares what a critic is fitted to, its `value_target`. `reward_to_go` and `gae`
declare advantage + value, and the wrappers keep the target of the estimator that they wrap:
rescaling the advantages never rescales what the critic learns.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pgjax import returns
from pgjax.errors import ConfigError
from pgjax.numerics.dtypes import standard_promotion, unit_scale
from pgjax.numerics.sums import scan_in_fixed_order, sum_rows
from pgjax.types import Array, Rollout, known_number, segment_ends, zero_padding

Values = Array | None  # V of each step, [T, B]; None without a critic


class Estimator(Protocol):
    """Type of an advantage estimator: (rollout, value, next_value) -> advantage [T, B].

    Any function with this signature can be passed to `pgjax.reinforce`. What it returns in padded
    slots is ignored. Use an `AdvantageEstimator` if it is to be used with a critic.

    Args:
      rollout: experience, [T, B, ...]; `reinforce` passes it with zeros in padded slots.
      value: V(obs), [T, B] float, or None without a critic.
      next_value: V(next_obs), [T, B] float, or None without a critic.

    Returns:
      Advantages, [T, B] float.

    Example:
      >>> from pgjax import advantages
      >>> def reward_only(rollout, value, next_value):
      ...     return rollout.reward
      >>> estimator = advantages.normalized(reward_only)
    """

    def __call__(self, rollout: Rollout, value: Values, next_value: Values, /) -> jax.Array: ...


@dataclasses.dataclass(frozen=True, repr=False)
class AdvantageEstimator:
    """An estimator together with the target that a critic is fitted to.

    Use it to write an estimator that works with a critic. `reward_to_go`, `gae` and the wrappers
    return one.

    Example:
      Halve the advantages, and fit the critic to the unscaled λ-returns:

      >>> from pgjax.advantages import AdvantageEstimator, gae
      >>> inner = gae(gamma=0.99, lambda_=0.95)
      >>> def halved(rollout, value=None, next_value=None):
      ...     return 0.5 * inner(rollout, value, next_value)
      >>> estimator = AdvantageEstimator(halved, value_target=inner.value_target)
      >>> estimator, inner
      (halved, gae(0.99, 0.95))
    """

    advantage: Estimator
    """(rollout, value, next_value) -> advantage [T, B]."""
    value_target: Estimator | None = None
    """(rollout, value, next_value) -> the returns [T, B] that the critic is fitted to."""
    name: str = ""
    """How the estimator was made, such as normalized(gae(0.99, 0.95))."""

    def __repr__(self) -> str:
        return self.name or _name_of(self.advantage)

    @standard_promotion
    def __call__(
        self, rollout: Rollout, value: Values = None, next_value: Values = None
    ) -> jax.Array:
        """Return the advantages, [T, B]."""
        return self.advantage(rollout, value, next_value)


def value_target_of(estimator: Estimator) -> Estimator | None:
    """Return the critic's target that an estimator declares, or None.

    Use it in a wrapper, to keep the target of the estimator that it wraps.

    Args:
      estimator: any estimator; a plain function, or a wrapper around one, declares no target.

    Returns:
      (rollout, value, next_value) -> target [T, B], or None.

    Example:
      >>> from pgjax.advantages import AdvantageEstimator, gae, value_target_of
      >>> def doubled(estimator):
      ...     def advantage(rollout, value=None, next_value=None):
      ...         return 2 * estimator(rollout, value, next_value)
      ...     return AdvantageEstimator(advantage, value_target_of(estimator))
      >>> inner = gae()
      >>> value_target_of(doubled(inner)) is inner.value_target
      True
    """
    return getattr(estimator, "value_target", None)


def _name_of(estimator: Estimator) -> str:
    """Return how an estimator was made, or the name of the function that it is."""
    if isinstance(estimator, AdvantageEstimator):
        return repr(estimator)
    return str(getattr(estimator, "__name__", type(estimator).__name__))


def estimate(
    estimator: Estimator,
    rollout: Rollout,
    value: Values = None,
    next_value: Values = None,
    name: str = "the estimator",
) -> jax.Array:
    """Call an estimator, after which its result is known to have one number for each step.

    Use it in a wrapper, where a result of another shape would broadcast.

    Args:
      estimator: any estimator, or the target of a critic.
      rollout, value, next_value: its arguments.
      name: what to call it in the message of the error.

    Returns:
      What it returns, [T, B].

    Raises:
      ConfigError: if that does not have the shape of the rewards.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> rollout = Rollout(obs=ones, action=ones, reward=ones, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> advantages.estimate(advantages.reward_to_go(0.5), rollout)[:, 0].tolist()
      [1.75, 1.5, 1.0]
    """
    x = estimator(rollout, value, next_value)
    if getattr(x, "shape", None) != rollout.reward.shape:
        raise ConfigError(
            f"{name} gives {jax.tree.map(jnp.shape, x)} for rewards [T, B] of shape "
            f"{rollout.reward.shape}: it must give one number for each step"
        )
    return x


def _check_values(rollout: Rollout, value: Array, next_value: Array) -> None:
    for name, x in (("value", value), ("next_value", next_value)):
        if jnp.shape(x) != rollout.reward.shape:
            raise ConfigError(
                f"{name} has shape {jnp.shape(x)}, but the rewards [T, B] have "
                f"{rollout.reward.shape}: a critic gives one number for each observation"
            )


def _with_returns_as_target(advantage: Estimator, name: str) -> AdvantageEstimator:
    """Declare advantage + value, an estimate of the return, as the critic's target."""

    def value_target(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        x = advantage(rollout, value, next_value)
        return x if value is None else x + value

    return AdvantageEstimator(advantage, value_target, name)


def _check_unit(**rates: ArrayLike) -> None:
    for name, rate in rates.items():
        known = known_number(name, rate)
        if known is not None and not 0.0 <= known <= 1.0:
            raise ConfigError(f"{name} must be in [0, 1], got {rate}")


def _masked(rollout: Rollout, x: Array) -> jax.Array:
    return jnp.where(rollout.weight > 0, x, jnp.zeros_like(x))


def reward_to_go(gamma: ArrayLike = 0.99, *, reward_scale: ArrayLike = 1.0) -> AdvantageEstimator:
    """Discounted sum of the rewards from each step on, minus the critic's value if there is one.

    Use it without a critic, or with a critic as a baseline. An episode that is cut off, by
    truncation or by the end of the rollout, counts its rewards so far; with a critic, V(next_obs)
    estimates the rest. A critic changes the expected gradient only through this bootstrapping.

    Args:
      gamma: discount in [0, 1].
      reward_scale: factor on the rewards; choose it such that a critic's values are near 1.

    Returns:
      An estimator whose critic's target is the return: advantage + value.

    Raises:
      ConfigError: if gamma is out of range, or a parameter is not one number.

    Source: Williams 1992; Sutton & Barto, 2nd ed., section 13.3-13.4.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> rollout = Rollout(obs=ones, action=ones, reward=ones, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> advantages.reward_to_go(gamma=0.5)(rollout)[:, 0].tolist()
      [1.75, 1.5, 1.0]
    """
    _check_unit(gamma=gamma)
    scaled = known_number("reward_scale", reward_scale) != 1

    def advantage(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        rollout = zero_padding(rollout)
        cut, reward = segment_ends(rollout), reward_scale * rollout.reward
        if value is None or next_value is None:
            value = jnp.zeros_like(reward)
        else:
            _check_values(rollout, value, next_value)
            bootstraps = cut & ~rollout.terminated
            reward = reward + gamma * jnp.where(bootstraps, next_value, 0.0)
        discount = gamma * jnp.where(cut, 0.0, 1.0).astype(reward.dtype)
        return _masked(rollout, returns.discounted_returns(reward, discount) - value)

    scale = f", reward_scale={reward_scale}" if scaled else ""
    return _with_returns_as_target(advantage, f"reward_to_go({gamma}{scale})")


def gae(
    gamma: ArrayLike = 0.99, lambda_: ArrayLike = 0.95, *, reward_scale: ArrayLike = 1.0
) -> AdvantageEstimator:
    """Generalised advantage estimation (GAE); needs a critic.

    Use it to trade variance for bias: the smaller `lambda_`, the more the estimate relies on the
    critic. That lowers the variance if the critic is good, and adds bias where the critic is wrong:
    an exact critic adds none at any `lambda_`, and with `lambda_=1` a critic adds bias only where
    an episode is cut off.

    Args:
      gamma: discount in [0, 1].
      lambda_: λ in [0, 1].
      reward_scale: factor on the rewards; choose it such that the critic's values are near 1.

    Returns:
      An estimator whose critic's target is the λ-return: advantage + value. It raises a
      ConfigError if it is called without values.

    Raises:
      ConfigError: if gamma or lambda_ is out of range, or a parameter is not one number.

    Source: Schulman et al. 2016, eq. 16; see `pgjax.returns.gae`.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> rollout = Rollout(obs=ones, action=ones, reward=ones, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> estimator = advantages.gae(gamma=0.5, lambda_=1.0)
      >>> estimator(rollout, value=ones, next_value=ones)[:, 0].tolist()
      [0.875, 0.75, 0.5]
    """
    _check_unit(gamma=gamma, lambda_=lambda_)
    scaled = known_number("reward_scale", reward_scale) != 1

    def advantage(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        if value is None or next_value is None:
            raise ConfigError(
                "gae bootstraps from a critic and there is none: pass critic=ValueNetwork() to "
                "reinforce (--critic), or use reward_to_go"
            )
        rollout = zero_padding(rollout)
        _check_values(rollout, value, next_value)
        x = returns.gae(
            reward_scale * rollout.reward,
            _masked(rollout, value),
            _masked(rollout, next_value),
            rollout.terminated,
            rollout.truncated | segment_ends(rollout),
            gamma,
            lambda_,
        )
        return _masked(rollout, x)

    scale = f", reward_scale={reward_scale}" if scaled else ""
    return _with_returns_as_target(advantage, f"gae({gamma}, {lambda_}{scale})")


def normalized(estimator: Estimator) -> AdvantageEstimator:
    """Normalise the advantages of a batch to mean 0 and standard deviation 1.

    Use it to make the step size independent of the scale of the rewards. The mean and the sample
    standard deviation (ddof 1, plus 1e-9) are over all real steps; one step, or equal advantages,
    give exactly zero. The gradient becomes biased, because each episode contributes to the mean
    that is subtracted from it: on a bandit, subtracting the mean alone leaves (n - 1) / n of the
    gradient with n episodes.

    Args:
      estimator: the estimator to normalise.

    Returns:
      An estimator with the same critic's target as `estimator`.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> rollout = Rollout(obs=ones, action=ones, reward=ones, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> advantages.normalized(advantages.reward_to_go(gamma=1.0))(rollout)[:, 0].tolist()
      [1.0, 0.0, -1.0]
    """

    def advantage(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        return _standardized(estimate(estimator, rollout, value, next_value), rollout.weight)

    name = f"normalized({_name_of(estimator)})"
    return AdvantageEstimator(advantage, value_target_of(estimator), name)


def _standardized(x: jax.Array, weight: Array) -> jax.Array:
    """Shift and scale x [T, B] to mean 0 and std 1 where weight [T, B] is above 0; 0 elsewhere."""
    real = weight > 0
    x = jnp.where(real, x, 0.0)
    scale = unit_scale(x)  # so that no square overflows
    x = scale * x
    # Subtract one of the values before taking the mean: the float32 mean of equal numbers is
    # not always equal to them, and the difference would be divided by 1e-9.
    first = x.ravel()[jnp.argmax(real.ravel())]
    x = jnp.where(real, x - first, 0.0)
    total, count = sum_rows((x, weight))
    x = jnp.where(real, x - total / jnp.maximum(count, 1), 0.0)
    std = jnp.sqrt(sum_rows(x**2) / jnp.maximum(count - 1, 1))
    return x / (std + scale * 1e-9)


def group_normalized(estimator: Estimator) -> AdvantageEstimator:
    """Give every step of an episode its return, normalised over the episodes of the batch (GRPO).

    Use it without a critic, for whole episodes as columns that begin in the same state, so that
    their returns differ by the actions alone. An episode's number is what `estimator` gives to its
    first step: with reward_to_go(1.0), its return. Mean and sample standard deviation (ddof 1, plus
    1e-9) are over the episodes; a single one, or equal returns, give exactly zero. The gradient is
    biased, like that of `normalized`.

    Args:
      estimator: the estimator of the first step of each episode.

    Returns:
      An estimator with the same critic's target as `estimator`.

    Source: Shao et al. 2024, DeepSeekMath, section 4.1.2.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((2, 3)), np.zeros((2, 3), bool)  # three episodes of two steps
      >>> reward = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
      >>> rollout = Rollout(obs=ones, action=ones, reward=reward, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> advantages.group_normalized(advantages.reward_to_go(1.0))(rollout).tolist()
      [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]
    """

    def advantage(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        first = estimate(estimator, rollout, value, next_value)[:1]
        # An episode per row, since rows are summed in an order that does not depend on padding.
        of_episode = _standardized(first.T, jnp.asarray(rollout.weight)[:1].T).T
        return _masked(rollout, jnp.broadcast_to(of_episode, rollout.weight.shape))

    name = f"group_normalized({_name_of(estimator)})"
    return AdvantageEstimator(advantage, value_target_of(estimator), name)


def leave_one_out(estimator: Estimator) -> AdvantageEstimator:
    """Subtract the mean over the *other* episodes at the same time step: an unbiased baseline.

    Use it to reduce the variance without a critic and without bias. It needs whole episodes as
    columns, and at least two of them. An episode that has already ended counts as 0.

    Args:
      estimator: the estimator to subtract the baseline from.

    Returns:
      An estimator with the same critic's target as `estimator`. It raises a ConfigError for fewer
      than two columns, not counting those that `Sharding` adds. If all columns but one are padding,
      which only their values tell, it subtracts nothing.

    Source: Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for free!, eq. 8.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((1, 3)), np.zeros((1, 3), bool)  # three episodes of one step
      >>> reward = np.array([[1.0, 2.0, 6.0]])
      >>> rollout = Rollout(obs=ones, action=ones, reward=reward, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> advantages.leave_one_out(advantages.reward_to_go())(rollout)[0].tolist()
      [-3.0, -1.5, 4.5]
    """

    def advantage(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        num_episodes = rollout.weight.shape[1]
        if num_episodes < 2:
            raise ConfigError(
                "leave_one_out compares each episode with the others of its batch and needs at "
                f"least 2, got {num_episodes}: collect more per update (--episodes-per-update)"
            )
        x = estimate(estimator, rollout, value, next_value)
        # A column with only padding is not an episode.
        count = (rollout.weight > 0).any(0).sum()
        # Column by column: jnp.sum groups columns differently for batches of different lengths.
        total, _ = scan_in_fixed_order(
            lambda s, column: (s + column, None), jnp.zeros_like(x[:, 0]), x.T, neutral=0
        )
        others = (total[:, None] - x) / jnp.maximum(count - 1, 1)
        return _masked(rollout, x - others)

    name = f"leave_one_out({_name_of(estimator)})"
    return AdvantageEstimator(advantage, value_target_of(estimator), name)


def time_discounted(estimator: Estimator, gamma: ArrayLike = 0.99) -> AdvantageEstimator:
    """Weight step t of an episode by γᵗ: the textbook gradient of the discounted objective.

    Use it where the gradient must be that of the discounted return. Without it (as in the lesson,
    and in nearly every implementation) late steps count as much as early ones. Make it the
    outermost wrapper, so that `normalized` does not see the weights.

    Args:
      estimator: the estimator to weight.
      gamma: discount in [0, 1].

    Returns:
      An estimator with the same critic's target as `estimator`.

    Raises:
      ConfigError: if gamma is out of range, or a parameter is not one number.

    Source: Sutton & Barto, 2nd ed., section 13.3, the γᵗ of the boxed algorithm.

    Example:
      >>> import numpy as np
      >>> from pgjax import Rollout, advantages
      >>> ones, no = np.ones((3, 1)), np.zeros((3, 1), bool)  # one episode of three steps
      >>> rollout = Rollout(obs=ones, action=ones, reward=ones, terminated=no,
      ...                   truncated=no, next_obs=ones, weight=ones)
      >>> estimator = advantages.time_discounted(advantages.reward_to_go(gamma=1.0), gamma=0.5)
      >>> estimator(rollout)[:, 0].tolist()
      [3.0, 1.0, 0.25]
    """
    _check_unit(gamma=gamma)

    def advantage(rollout: Rollout, value: Values, next_value: Values) -> jax.Array:
        x = estimate(estimator, rollout, value, next_value)
        # An episode starts after the end of another, and after a gap of padding.
        ended = segment_ends(zero_padding(rollout)) | ~(rollout.weight > 0)

        def step(w: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.where(end, jnp.ones_like(w), gamma * w), w

        return x * jax.lax.scan(step, jnp.ones_like(x[0]), ended)[1]

    name = f"time_discounted({_name_of(estimator)}, {gamma})"
    return AdvantageEstimator(advantage, value_target_of(estimator), name)
