"""Logits to answers on the host, by the formulas."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora, MultiLabel, Regression
from backbone.meshes.layout import Layout
from backbone.trees import map_leaves

LABELS = ("a", "b", "c")
LOGITS = np.array([[1.0, 3.0, -2.0], [200.0, -200.0, 0.0], [0.0, 0.0, 0.0]], np.float32)


def test_classification():
    first, second, third = Classification().answers(LABELS, LOGITS)
    total = math.exp(1) + math.exp(3) + math.exp(-2)
    assert first.labels == ("b",)
    assert list(first.probabilities) == ["b", "a", "c"], "most probable first"
    assert first.probabilities["a"] == pytest.approx(math.exp(1) / total)
    assert second.probabilities == {"a": 1.0, "c": 0.0, "b": 0.0}
    assert list(third.probabilities) == ["a", "b", "c"], "equals stay in their order"


def test_several_labels_numbers_and_abstention():
    scores = np.array([0.5, 1.5, 1.0])
    first, second, _ = MultiLabel(threshold=0.6).answers(LABELS, LOGITS, scores=scores)
    assert (first.labels, first.out_of_scope) == (("a", "b"), 0.5)
    assert first.probabilities["c"] == pytest.approx(1 / (1 + math.exp(2)))
    assert (second.labels, second.out_of_scope) == (("a",), 1.5), "told, and answered all the same"
    answers = Classification().answers(LABELS, LOGITS, scores=scores, abstain=True)
    assert [answer.labels for answer in answers] == [("b",), (), ("a",)]
    assert set(answers[1].probabilities) == set(LABELS)
    numbers = Regression(center=10.0, spread=2.0).answers(("y",), LOGITS[:, :1])
    assert [answer.value for answer in numbers] == [12.0, 410.0, 10.0]
    assert Classification().answers(LABELS, LOGITS[:0]) == []


def test_a_request_places_no_parameters_again(tiny, monkeypatch):
    placed, place = [], Layout.params
    monkeypatch.setattr(Layout, "params", lambda layout, tree: placed.append(tree) or place(layout, tree))
    model = GraftModel(tiny.network, (Lora(rank=4),), Classification(), LABELS)
    graft = Graft(model, map_leaves(np.asarray, model.init(jax.random.key(0))), tiny, 16)
    first, second = graft.predict(["one request"]), graft.predict(["one request"])
    assert first == second
    assert len(placed) == 1
