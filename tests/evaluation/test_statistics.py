import numpy as np
import pytest
from scipy import stats

import pgjax
from pgjax.evaluation.statistics import interquartile_mean


def test_the_middle_half():
    # Of eight scores two go at either end: 1 2 | 3 4 5 6 | 8 700.
    result = interquartile_mean([8, 1, 6, 3, 4, 5, 2, 700])
    assert result["interquartile_mean"] == 4.5
    assert result["low"] <= result["interquartile_mean"] <= result["high"]


def test_the_interval_is_scipys(rng):
    scores = rng.normal(100.0, 10.0, 20)
    result = interquartile_mean(scores)
    expected = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
    ).confidence_interval
    # Both are draws: their ends differ by a small part of the width.
    width = expected.high - expected.low
    assert abs(result["low"] - expected.low) < 0.05 * width
    assert abs(result["high"] - expected.high) < 0.05 * width


def test_equal_scores_have_no_width_and_few_scores_no_interval():
    assert set(interquartile_mean([500.0] * 5).values()) == {500.0}
    with pytest.raises(pgjax.ConfigError, match="at least 5"):
        interquartile_mean([1.0, 2.0, 3.0, 4.0])
    assert np.isfinite(interquartile_mean([1.0, 2.0, 3.0, 4.0, 5.0])["low"])
