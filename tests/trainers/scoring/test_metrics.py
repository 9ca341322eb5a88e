"""Metrics against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef

from adapters.model import GraftModel
from adapters.specs import Classification, Lora, MultiLabel
from trainers.scoring.metrics import gather

LABELS = ("a", "b", "c")


def test_metrics_equal_scikit_learn(tiny):
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Lora(),), Classification(), LABELS)
    logits, labels = draw.normal(size=(200, 3)).astype(np.float32), draw.integers(0, 3, 200).astype(np.int32)
    labels[:120] = logits[:120].argmax(1)
    parts = [gather(model, logits[i : i + 50], labels[i : i + 50]) for i in range(0, 200, 50)]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3]).compute()
    predicted = logits.argmax(1)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert merged["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert merged["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert merged["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert merged["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    constant = gather(model, np.tile([9.0, 0, 0], (5, 1)).astype(np.float32), np.zeros(5, np.int32)).compute()
    assert (constant["accuracy"], constant["matthews"]) == (1.0, 0.0)


def test_multi_label_metrics_equal_scikit_learn(tiny):
    draw = np.random.default_rng(0)
    model = GraftModel(tiny.network, (Lora(),), MultiLabel(), LABELS)
    logits = draw.normal(size=(100, 3)).astype(np.float32)
    truth = ((logits + draw.normal(size=logits.shape)) > 0).astype(np.float32)
    found = gather(model, logits[:40], truth[:40]).merge(gather(model, logits[40:], truth[40:])).compute()
    predicted = logits >= 0
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(truth, predicted, average="micro"))
