"""Spreads and intervals."""

import math

import numpy as np
import pytest

from cmcl_ray.errors import ShapeError
from cmcl_ray.evaluate.comparison import paired_bootstrap, summarise


def test_summary_of_three_seeds():
    summary = summarise([1.0, 2.0, 6.0])
    assert summary.mean == pytest.approx(3.0)
    assert summary.sd == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert summary.high - summary.mean == pytest.approx(4.3027 * summary.sd / math.sqrt(3), rel=1e-4)
    assert summary.low + summary.high == pytest.approx(2 * summary.mean)


def test_one_seed_has_no_spread():
    summary = summarise([4.0])
    assert (summary.mean, summary.count) == (4.0, 1)
    assert math.isnan(summary.sd)
    assert math.isnan(summary.low)


@pytest.mark.parametrize(("count", "quantile"), [(31, 2.04227), (32, 2.03951), (61, 2.00030), (1001, 1.96234)])
def test_the_t_quantile_of_many_seeds(count, quantile):
    values = [float(value) for value in range(count)]
    summary = summarise(values)
    assert (summary.high - summary.mean) / (summary.sd / math.sqrt(count)) == pytest.approx(quantile, abs=1e-4)


def test_the_interval_covers_the_mean_about_19_times_in_20():
    rng = np.random.default_rng([1])
    summaries = [summarise(list(rng.normal(5, 2, 4))) for _ in range(600)]
    assert 0.92 < np.mean([summary.low <= 5 <= summary.high for summary in summaries]) < 0.98


def test_the_bootstrap_knows_the_difference_of_paired_queries():
    rng = np.random.default_rng([2])
    first = rng.normal(size=333)
    sure = paired_bootstrap(first, first + 1 + 0.1 * rng.normal(size=333), seed=7)
    assert sure.low < sure.mean < sure.high
    assert sure.high - sure.low == pytest.approx(2 * 1.96 * 0.1 / math.sqrt(333), rel=0.2)
    assert sure.share_opposite == 0
    other_way = paired_bootstrap(first + 1, first, seed=7)
    assert other_way.high < 0
    assert other_way.share_opposite == 0
    assert paired_bootstrap(first, first, seed=7).share_opposite == 1
    assert paired_bootstrap(first, rng.normal(size=333), seed=7).share_opposite > 0.02


def test_the_bootstrap_repeats_by_seed_and_counts_resamples():
    rng = np.random.default_rng([3])
    first, second = rng.normal(size=(2, 41))
    assert paired_bootstrap(first, second, seed=1, resamples=70) == paired_bootstrap(first, second, seed=1, resamples=70)
    assert paired_bootstrap(first, second, seed=1) != paired_bootstrap(first, second, seed=2)


def test_messages():
    with pytest.raises(ValueError, match=r"no values were given to summarise; expected at least one"):
        summarise([])
    with pytest.raises(ShapeError, match=r"shapes \(3,\) and \(4,\); expected two of one shape"):
        paired_bootstrap(np.ones(3), np.ones(4), seed=0)
