"""Statistics over several seeds."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from pgjax.errors import ConfigError

FEWEST = 5  # seeds
_RESAMPLES = 20_000


def interquartile_mean(scores: Sequence[float]) -> dict[str, float]:
    """Compute the mean of the middle half of the scores, with a confidence interval.

    Use it to summarise the results of several seeds, robustly to outliers.

    Args:
      scores: one number per seed, at least five.

    Returns:
      `interquartile_mean`, and `low` and `high`, the ends of its 95 % bootstrap interval over seeds
      (BCa, 20,000 resamples, fixed seed).

    Raises:
      ConfigError: if there are fewer than five scores, too few for a bootstrap interval.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice", section 4; Efron 1987, "Better Bootstrap Confidence Intervals".

    Example:
      >>> interquartile_mean([500.0] * 5)
      {'interquartile_mean': 500.0, 'low': 500.0, 'high': 500.0}
    """
    if len(scores) < FEWEST:
        raise ConfigError(too_few(len(scores)))
    values = np.asarray(scores, np.float64)
    low, high = bootstrap_interval(middle_mean, values)
    mean = float(middle_mean(values))
    return {"interquartile_mean": mean, "low": float(low), "high": float(high)}


def too_few(count: int) -> str:
    """Say that there are too few seeds for an interval."""
    return f"at least {FEWEST} seeds are needed for an interval, got {count}: train more (--seeds)"


def summarize(scores: Sequence[float]) -> dict[str, float]:
    """Compute the interquartile mean with its interval, or the `mean` of fewer than five scores."""
    if len(scores) < FEWEST:
        return {"mean": float(np.mean(scores))}
    return interquartile_mean(scores)


def probability_of_improvement(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Estimate the probability that a seed of one algorithm has a higher score than one of another.

    It is the share of all pairs of seeds in which the first is higher, where equal scores count
    half: the Mann-Whitney U statistic, divided by the number of pairs.

    Args:
      x, y: scores, one number per seed; at least one each.

    Returns:
      `probability`, and with at least five seeds each, `low` and `high`, the ends of its 95 %
      bootstrap interval, for which the seeds of each algorithm are drawn on their own. Where all
      pairs agree the interval has no width, which does not mean that there is no doubt.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice", section 4.

    Example:
      >>> probability_of_improvement([1.0, 3.0], [2.0, 1.0])
      {'probability': 0.625}
    """
    samples = np.asarray(x, np.float64), np.asarray(y, np.float64)
    found = {"probability": float(_share_of_pairs(*samples))}
    if min(len(x), len(y)) < FEWEST:
        return found
    low, high = bootstrap_interval(_share_of_pairs, *samples)
    return found | {"low": float(low), "high": float(high)}


def _share_of_pairs(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Share of pairs [..., n, m] in which x is higher, and half of those that are equal."""
    x, y = x[..., :, None], y[..., None, :]
    return np.mean((x > y) + 0.5 * (x == y), axis=(-2, -1))


def middle_mean(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half of the scores along an axis: a quarter, rounded down, is cut off."""
    from scipy import stats

    return stats.trim_mean(scores, 0.25, axis=axis)


def bootstrap_interval(
    statistic: Callable[..., np.ndarray], *samples: np.ndarray, resamples: int = _RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ends of the 95 % bootstrap interval of a statistic, from draws of a fixed seed.

    The interval is BCa: bias-corrected and accelerated. Where that is not defined, since leaving
    out any one score changes nothing, or all resamples lie on one side, it is the percentile
    interval.

    Args:
      statistic: a function (*samples, axis) -> [...] that reduces an axis.
      *samples: scores [..., n], at least two along the last axis. Several samples are drawn
        independently; the rows of one are drawn together.
      resamples: number of resamples.

    Returns:
      The lower and the upper ends, [...].
    """
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # that BCa is not defined
        found = stats.bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            batch=max(1, 2**22 // math.prod(sample.size for sample in samples)),
            vectorized=True,
            axis=-1,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    bca = np.asarray(found.confidence_interval)
    percentile = np.percentile(found.bootstrap_distribution, [2.5, 97.5], axis=-1)
    low, high = np.where(np.isfinite(bca).all(0), bca, percentile)
    return low, high
