"""Logits to answers on the host: by the formulas, and as the heads compute them on a device."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapters.heads import head_of
from adapters.predictions import predictions
from adapters.specs import Classification, MultiLabel, Regression, TokenTagging

LABELS = ("a", "b", "c")
LOGITS = np.array([[1.0, 3.0, -2.0], [200.0, -200.0, 0.0], [0.0, 0.0, 0.0]], np.float32)


def on_a_device(head, logits) -> jax.Array:
    """By jax's own functions."""
    if isinstance(head, Regression):
        return jnp.asarray(logits)
    return jax.nn.sigmoid(logits) if isinstance(head, MultiLabel) else jax.nn.softmax(logits)


@pytest.mark.parametrize("head", [Classification(), MultiLabel(), Regression(), TokenTagging()], ids=lambda h: h.kind)
def test_probabilities_are_jaxs_on_the_host_and_in_a_program(head):
    logits = LOGITS[None] if isinstance(head, TokenTagging) else LOGITS
    found = head_of(head).probabilities(logits)
    assert (type(found), found.dtype) == (np.ndarray, np.float32)
    np.testing.assert_allclose(found, on_a_device(head, logits), atol=1e-6)
    np.testing.assert_allclose(jax.jit(head_of(head).probabilities)(logits), found, atol=1e-6)


def test_classification():
    first, second, third = predictions(Classification(), LABELS, LOGITS)
    total = math.exp(1) + math.exp(3) + math.exp(-2)
    assert first.labels == ("b",)
    assert list(first.probabilities) == ["b", "a", "c"], "most probable first"
    assert first.probabilities["a"] == pytest.approx(math.exp(1) / total)
    assert second.probabilities == {"a": 1.0, "c": 0.0, "b": 0.0}
    assert list(third.probabilities) == ["a", "b", "c"], "equals stay in their order"


def test_several_labels_numbers_and_abstention():
    first, second, _ = predictions(MultiLabel(threshold=0.6), LABELS, LOGITS, np.array([0.5, 1.5, 1.0]))
    assert (first.labels, first.out_of_scope) == (("a", "b"), 0.5)
    assert first.probabilities["c"] == pytest.approx(1 / (1 + math.exp(2)))
    assert (second.labels, second.out_of_scope) == (("a",), 1.5), "told, and answered all the same"
    scores = np.array([0.5, 1.5, 1.0])
    answers = predictions(Classification(), LABELS, LOGITS, scores, abstain=True)
    assert [answer.labels for answer in answers] == [("b",), (), ("a",)]
    assert set(answers[1].probabilities) == set(LABELS)
    numbers = predictions(Regression(center=10.0, spread=2.0), ("y",), LOGITS[:, :1])
    assert [answer.value for answer in numbers] == [12.0, 410.0, 10.0]
    assert predictions(Classification(), LABELS, LOGITS[:0]) == []
