"""Metrics of regression, tagging and multi-label against scipy, seqeval and scikit-learn; merged in any order."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
from sklearn.metrics import average_precision_score

from adapters.labels.tagging import NO_TAG
from adapters.model import GraftModel
from adapters.specs import MultiLabel, Regression, TokenTagging
from backbone.network.encoder import Network
from tests.tiny import SPEC
from trainers.scoring.metrics import gather

TAGS = ("B-x", "B-y", "I-x", "I-y", "O")


def model_of(head, labels) -> GraftModel:
    return GraftModel(Network(SPEC), (), head, labels)


def merged(model, logits, labels) -> dict[str, float]:
    """The metrics of three parts, merged from the last on."""
    parts = [gather(model, logits[part], labels[part]) for part in np.array_split(np.arange(len(labels)), 3)]
    return functools.reduce(lambda a, b: a.merge(b), reversed(parts)).compute()


def test_regression():
    draw = np.random.default_rng(0)
    truth = np.round(draw.normal(size=60), 1)  # with ties
    logits = (truth + draw.normal(size=60)).astype(np.float32)[:, None]
    model = model_of(Regression(center=100.0, spread=4.0), ("y",))
    labels = truth.astype(np.float32)
    found = gather(model, logits, labels).compute()
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(labels, logits[:, 0])[0], abs=1e-6)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(labels, logits[:, 0])[0], abs=1e-6)
    assert found["mse"] == pytest.approx(16 * np.mean((labels - logits[:, 0]) ** 2), rel=1e-5)
    assert found["loss"] == pytest.approx(np.mean((labels - logits[:, 0]) ** 2), rel=1e-5)
    assert merged(model, logits, labels) == pytest.approx(found, abs=1e-6)
    same = gather(model, np.zeros_like(logits), labels).compute()
    assert (same["pearson"], same["spearman"]) == (0.0, 0.0), "a constant correlates with nothing"


def test_entities_are_counted_as_seqeval_does():
    """Well-formed truths against arbitrary predictions, with tokens between that are no first sub-words."""
    draw = np.random.default_rng(1)
    count, tokens = 80, 14
    labels = np.full((count, tokens), NO_TAG, np.int32)
    logits = draw.normal(size=(count, tokens, len(TAGS))).astype(np.float32)
    truths, guesses = [], []
    for i in range(count):
        places = np.sort(draw.choice(tokens, draw.integers(1, tokens), replace=False))
        before, row = "O", []
        for place in places:
            allowed = [t for t in TAGS if t[0] != "I" or before[2:] == t[2:]]
            before = str(draw.choice(allowed))
            labels[i, place] = TAGS.index(before)
            logits[i, place, TAGS.index(before)] += 1.5  # right more often than not
            row.append(before)
        truths.append(row)
        guesses.append([TAGS[j] for j in logits[i, places].argmax(-1)])
    model = model_of(TokenTagging(), TAGS)
    found = gather(model, logits, labels).compute()
    assert found["entity_f1"] == pytest.approx(seqeval.metrics.f1_score(truths, guesses))
    assert found["precision"] == pytest.approx(seqeval.metrics.precision_score(truths, guesses))
    assert found["recall"] == pytest.approx(seqeval.metrics.recall_score(truths, guesses))
    assert found["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(truths, guesses))
    assert 0.2 < found["entity_f1"] < 0.9
    assert any(g[0][0] == "I" for g in guesses), "there are broken ones among the predictions"
    assert merged(model, logits, labels) == pytest.approx(found)


def test_average_precision_of_many_labels():
    draw = np.random.default_rng(2)
    labels = (draw.random((50, 4)) < 0.3).astype(np.float32)
    labels[:, 3] = 0  # a label that does not occur is left out
    logits = np.round(draw.normal(size=(50, 4)) + labels, 1).astype(np.float32)  # with ties
    model = model_of(MultiLabel(), ("a", "b", "c", "d"))
    found = gather(model, logits, labels).compute()
    wanted = average_precision_score(labels[:, :3], 1 / (1 + np.exp(-logits[:, :3].astype(float))), average="macro")
    assert found["average_precision"] == pytest.approx(wanted)
    assert merged(model, logits, labels) == pytest.approx(found)
