"""Statistics over several seeds."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from pgjax.errors import ConfigError

FEWEST = 5  # seeds


def interquartile_mean(scores: Sequence[float]) -> dict[str, float]:
    """Compute the mean of the middle half of the scores, with a confidence interval.

    Use it to summarise several seeds: outliers affect it less than the mean.

    Args:
      scores: one number per seed, at least five.

    Returns:
      `interquartile_mean`, and `low` and `high`, the ends of its 95 % percentile bootstrap interval
      over seeds (20,000 resamples with a fixed seed).

    Raises:
      ConfigError: for fewer than five scores, which are too few for a bootstrap interval.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice", section 4.

    Example:
      >>> interquartile_mean([500.0] * 5)
      {'interquartile_mean': 500.0, 'low': 500.0, 'high': 500.0}
    """
    if len(scores) < FEWEST:
        raise ConfigError(
            f"no confidence interval from {len(scores)} seeds: train at least {FEWEST} (--seeds)"
        )

    def middle(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.trim_mean(x, 0.25, axis=axis)

    values = np.asarray(scores, np.float64)
    resampled = np.random.default_rng(0).choice(values, (20_000, len(values)))
    low, high = np.percentile(middle(resampled), [2.5, 97.5])
    return {"interquartile_mean": float(middle(values)), "low": float(low), "high": float(high)}
