"""Statistics over several seeds."""

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
        raise ConfigError(
            f"at least {FEWEST} seeds are needed for an interval, got {len(scores)}: train more "
            "(--seeds)"
        )
    values = np.asarray(scores, np.float64)
    low, high = bootstrap_interval(middle_mean, values)
    mean = float(middle_mean(values))
    return {"interquartile_mean": mean, "low": float(low), "high": float(high)}


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
            batch=max(1, 2**22 // sum(sample.size for sample in samples)),
            vectorized=True,
            axis=-1,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    bca = np.asarray(found.confidence_interval)
    percentile = np.percentile(found.bootstrap_distribution, [2.5, 97.5], axis=-1)
    low, high = np.where(np.isfinite(bca).all(0), bca, percentile)
    return low, high
