"""Early stopping against MLPerf's published numbers, and against what a percentile really is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from trainers.scenarios.early_stopping import is_proven, needed_queries, upper_bound


@pytest.mark.parametrize(
    ("percentile", "over", "queries"),
    [(0.99, 0, 459), (0.99, 1, 662), (0.9, 1, 64), (0.9, 0, 44)],
)
def test_the_numbers_of_queries_are_those_of_mlperf(percentile, over, queries):
    assert needed_queries(over, percentile) == queries
    assert is_proven(queries, over, percentile)
    assert not is_proven(queries - 1, over, percentile)


@pytest.mark.parametrize("over", [0, 3, 40])
def test_the_criterion_is_the_tail_of_the_binomial(over):
    queries = needed_queries(over, 0.95, 0.9)
    assert binom.cdf(over, queries, 0.05) <= 0.1 < binom.cdf(over, queries - 1, 0.05)


def test_the_bound_holds_as_often_as_it_says():
    """Of 400 runs of an exponential latency, at most a few state a bound below the true 95th percentile."""
    draw, truth = np.random.default_rng(0), -np.log(0.05)
    bounds = [upper_bound(np.sort(draw.exponential(size=300)).tolist(), 0.95) for _ in range(400)]
    assert sum(bound < truth for bound in bounds) <= 8
    assert np.mean(bounds) < 2 * truth, "and is no larger than it needs to be"


def test_too_few_queries_give_no_bound():
    assert upper_bound([0.1] * 661, 0.99) is None
    assert upper_bound([*[0.1] * 661, 0.2], 0.99) == 0.2, "the slowest of as many as suffice"
    assert upper_bound([], 0.5) is None
