import itertools

import numpy as np
import pytest
from scipy import stats

import pgjax
from pgjax.evaluation.statistics import (
    bootstrap_interval,
    interquartile_mean,
    middle_mean,
    probability_of_improvement,
    summarize,
)


def test_the_middle_half():
    # Of eight scores two go at either end: 1 2 | 3 4 5 6 | 8 700.
    result = interquartile_mean([8, 1, 6, 3, 4, 5, 2, 700])
    assert result["interquartile_mean"] == 4.5
    assert result["low"] <= result["interquartile_mean"] <= result["high"]


def middle_by_hand(scores):
    cut = scores.shape[-1] // 4
    return np.sort(scores)[..., cut : scores.shape[-1] - cut].mean(-1)


def bca_by_hand(scores, draws):
    """The interval of Efron and Tibshirani 1993, section 14.3."""
    normal, found = stats.norm, middle_by_hand(scores)
    below = (np.mean(draws < found) + np.mean(draws <= found)) / 2
    without = np.array([middle_by_hand(np.delete(scores, i)) for i in range(len(scores))])
    differences = without.mean() - without
    acceleration = np.sum(differences**3) / (6 * np.sum(differences**2) ** 1.5)
    bias = normal.ppf(below)
    z = normal.ppf([0.025, 0.975])
    at = normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
    return np.quantile(draws, at)


def test_the_interval_is_bca():
    scores = np.array([0.0, 10.0, 30.0, 31.0, 32.0, 33.0])
    draws = middle_by_hand(np.array(list(itertools.product(scores, repeat=6))))  # all there are
    expected = bca_by_hand(scores, draws)
    result = interquartile_mean(scores)
    found = [result["low"], result["high"]]
    width = np.ptp(expected)  # of which an interval from 20,000 draws differs by a small part
    assert np.abs(found - expected).max() < 0.02 * width
    assert np.abs(np.quantile(draws, [0.025, 0.975]) - expected).max() > 0.06 * width


def test_the_interval_is_always_the_same_and_each_row_of_scores_has_its_own(rng):
    scores = rng.normal(size=(3, 7))
    low, high = bootstrap_interval(middle_mean, scores)
    for i, row in enumerate(scores):
        result = interquartile_mean(row)
        assert (result["low"], result["high"]) == (low[i], high[i])


@pytest.mark.parametrize("outlier", [0.0, 500.0])
def test_scores_that_agree_have_an_interval_without_a_warning(outlier):
    """Without any one of the scores the mean of the middle is 500, too, where BCa divides by 0."""
    result = interquartile_mean([500.0] * 7 + [outlier])
    assert result == {"interquartile_mean": 500.0, "low": result["low"], "high": 500.0}
    # Of eight drawn scores, three or more are the outlier in 6.7 % of the draws, four in 1.1 %.
    assert result["low"] == (375.0 if outlier == 0.0 else 500.0)


def test_few_scores_have_no_interval():
    with pytest.raises(pgjax.ConfigError, match="at least 5"):
        interquartile_mean([1.0, 2.0, 3.0, 4.0])
    assert np.isfinite(interquartile_mean([1.0, 2.0, 3.0, 4.0, 5.0])["low"])
    assert summarize([1.0, 2.0, 6.0]) == {"mean": 3.0}
    assert summarize(range(5)) == interquartile_mean(range(5))


def test_the_probability_of_improvement_is_the_share_of_pairs(rng):
    # 3 beats 1 and 2 and ties with 3; 1 ties with 1: 3 of 6 pairs.
    assert probability_of_improvement([3.0, 1.0], [1.0, 2.0, 3.0]) == {"probability": 0.5}
    x, y = rng.integers(0, 9, 8), rng.integers(3, 12, 6)
    found = probability_of_improvement(x, y)
    assert found["probability"] == stats.mannwhitneyu(x, y).statistic / 48
    swapped = probability_of_improvement(y, x)
    assert swapped["probability"] == pytest.approx(1 - found["probability"])
    assert swapped["low"] == pytest.approx(1 - found["high"], abs=0.03)


def test_the_interval_of_the_probability_draws_each_sample_on_its_own(rng):
    x, y = rng.normal(1.0, 1.0, 9), rng.normal(0.5, 1.0, 7)
    found = probability_of_improvement(x, y)
    expected = stats.bootstrap(
        (x, y),
        lambda x, y, axis: stats.mannwhitneyu(x, y, axis=axis).statistic / 63,
        n_resamples=5_000,
        rng=1,
    ).confidence_interval
    assert found["low"] == pytest.approx(expected.low, abs=0.03)
    assert found["high"] == pytest.approx(expected.high, abs=0.03)
    apart = probability_of_improvement([5.0] * 5, [1.0] * 5)
    assert apart == {"probability": 1.0, "low": 1.0, "high": 1.0}
    assert "low" not in probability_of_improvement([5.0] * 5, [1.0] * 4)
