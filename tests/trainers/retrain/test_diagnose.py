"""Drift between the rows of two trainings, by its formula."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.effects import cohens_d, cohens_w
from tests.trainers.retrain.test_rows import split
from trainers.retrain.diagnose import MIN_ROWS, label_and_length_drift


def test_drift_is_an_effect_size_with_a_least_count():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(5000, 3)), draw.normal(size=(5000, 3)) + 0.8
    assert cohens_d(a, b) == pytest.approx(0.8, abs=0.05)
    # p0 = mean of both; w = 2 sqrt(sum (p1 - p0)^2 / p0): disjoint distributions give 2
    assert cohens_w({"x": 1.0}, {"y": 1.0}) == pytest.approx(2.0)
    assert cohens_w({"x": 0.5, "y": 0.5}, {"x": 0.5, "y": 0.5}) == 0
    assert cohens_w({"x": 0.6, "y": 0.4}, {"x": 0.4, "y": 0.6}) == pytest.approx(2 * np.sqrt(2 * 0.1**2 / 0.5))
    old = split([(f"text {i}", "xy"[i % 2]) for i in range(MIN_ROWS)])
    few = split([(f"text {i}", "xy"[i % 2]) for i in range(MIN_ROWS + 8)])
    assert [d.effect for d in label_and_length_drift(old, few)] == [None, None], "no alarm on eight rows"
    many = split([(f"text {i}", "xy"[i % 2]) for i in range(MIN_ROWS)] + [(f"new {i:90}", "x") for i in range(100)])
    labels, lengths = label_and_length_drift(old, many)
    assert labels.notable
    assert lengths.notable
