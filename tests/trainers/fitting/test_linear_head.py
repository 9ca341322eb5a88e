"""Heads that are fitted in closed form, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from adapters.model import GraftModel
from adapters.specs import Classification, Probe
from trainers.fitting.linear_head import STRENGTHS, cross_fitted_loss, fit_linear
from trainers.scoring.metrics import gather

LABELS = ("a", "b", "c")


def test_the_probe_is_a_logistic_regression(tiny):
    """Against scikit-learn at the strength it chose: the same loss on the training rows, to a percent."""
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Probe(),), Classification(), LABELS)
    centres = draw.normal(size=(3, 32))
    labels = draw.integers(0, 3, 600).astype(np.int32)
    x = (centres[labels] + 1.5 * draw.normal(size=(600, 32)) * np.linspace(0.1, 5, 32)).astype(np.float32)
    fitted = fit_linear(model, x[:400], labels[:400], (x[400:], labels[400:]), "accuracy")
    logits = x[:400] @ fitted.head["kernel"] + fitted.head["bias"]
    standard = (x[:400] - x[:400].mean(0)) / x[:400].std(0)
    other = LogisticRegression(C=1 / (fitted.strength * 400), max_iter=2000, tol=1e-8).fit(standard, labels[:400])
    mine = gather(model, logits, labels[:400]).compute()["loss"]
    assert mine == pytest.approx(log_loss(labels[:400], other.predict_proba(standard)), rel=0.02)
    alone = fit_linear(model, x, labels, None, "accuracy")
    assert alone.head["kernel"].shape == (32, 3)
    assert list(alone.scores) == [f"{strength:g}" for strength in STRENGTHS]


def test_a_row_is_judged_by_a_probe_that_never_saw_it_or_its_copies(tiny):
    """Labels are random, and each row has a feature of its own: only a probe that saw it can know its label."""
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Probe(),), Classification(), LABELS)
    labels = np.tile(draw.integers(0, 3, 61), 2).astype(np.int32)
    x = np.tile(np.eye(61, dtype=np.float32), (2, 1))
    seen = fit_linear(model, x, labels, None, "accuracy", (1e-4,)).head
    right = (x @ seen["kernel"] + seen["bias"]).argmax(1) == labels
    assert right.all(), "a probe of all rows knows them"
    keys = [str(number % 61).encode() for number in range(122)]
    unseen = cross_fitted_loss(model, x, labels, keys, "accuracy")
    assert unseen.mean() > 0.9 * np.log(3)
    apart = cross_fitted_loss(model, x, labels, [str(number).encode() for number in range(122)], "accuracy")
    assert apart.mean() < 0.8 * unseen.mean(), "a copy in another fold would give the label away"
