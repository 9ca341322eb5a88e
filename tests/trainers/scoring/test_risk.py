"""The test of a difference of two error rates, by draws whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.scoring.risk import excess_p_value


@pytest.mark.parametrize(("worse", "better"), [(0.06, 0.01), (0.25, 0.2), (0.05, 0.0)])
def test_an_excess_at_the_bound_is_certified_no_more_often_than_stated(worse, better):
    """The difference of both shares is the bound: at level 0.1 at most a tenth of the draws may certify it."""
    draw = np.random.default_rng(0)
    passed = []
    for _ in range(2000):
        kinds = draw.random(400)
        passed.append(excess_p_value(kinds < worse, (kinds >= worse) & (kinds < worse + better), 0.05) <= 0.1)
    assert np.mean(passed) <= 0.1 + 3 * (0.09 / 2000) ** 0.5


def test_rows_of_both_kinds_make_up_for_each_other():
    draw = np.random.default_rng(1)
    kinds = draw.random(1500)
    worse, better = kinds < 0.05, kinds > 0.95
    assert excess_p_value(worse, better, 0.03) < 0.1
    assert excess_p_value(worse, np.zeros(1500, bool), 0.03) > 0.5
    assert excess_p_value(np.zeros(0, bool), np.zeros(0, bool), 0.5) == 1.0
