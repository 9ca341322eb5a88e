"""Metrics of a split, gathered batch by batch with `clu.metrics`.

Classification: accuracy, macro F1, Matthews' coefficient for any number of classes (Gorodkin 2004,
R_K) and mean loss. Multi-label: subset accuracy, micro and macro F1, mean loss. Everything is a
function of counts, so merging batches in any order gives the same figures.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import numpy as np
from clu import metrics as clu_metrics

from adapters.heads import LinearHead, head_of
from adapters.model import GraftModel
from adapters.specs import MultiLabel


def _ratio(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom else 0.0


def _macro_f1(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over labels that occur, truly or as predicted, of F1; counts [C] each."""
    total = predicted + true
    present = total > 0
    return float(np.mean(2 * hits[present] / total[present])) if present.any() else 0.0


@flax.struct.dataclass
class Confusion(clu_metrics.Metric):  # type: ignore[misc]
    """Counts [C,C], rows true, columns predicted, and the sum of losses."""

    counts: np.ndarray
    loss: float

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, loss: np.ndarray, classes: int) -> Confusion:
        flat = np.bincount(labels.astype(int) * classes + predicted.astype(int), minlength=classes * classes)
        return cls(counts=flat.reshape(classes, classes), loss=float(loss.sum()))

    def merge(self, other: Confusion) -> Confusion:
        return Confusion(counts=self.counts + other.counts, loss=self.loss + other.loss)

    def compute(self) -> dict[str, float]:
        counts = self.counts.astype(float)
        rows, hits = counts.sum(), np.diag(counts)
        true, predicted = counts.sum(axis=1), counts.sum(axis=0)
        covariance = hits.sum() * rows - true @ predicted
        spread = np.sqrt(rows**2 - predicted @ predicted) * np.sqrt(rows**2 - true @ true)
        return {
            "accuracy": _ratio(hits.sum(), rows),
            "macro_f1": _macro_f1(hits, predicted, true),
            "matthews": _ratio(covariance, spread),
            "loss": _ratio(self.loss, rows),
        }


@flax.struct.dataclass
class LabelCounts(clu_metrics.Metric):  # type: ignore[misc]
    """Per-label counts [C] of hits, predictions and truths; rows, exact rows, and the sum of losses."""

    hits: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    rows: int
    exact: int
    loss: float

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, loss: np.ndarray) -> LabelCounts:
        truth = labels > 0.5
        return cls(
            hits=(truth & predicted).sum(axis=0),
            predicted=predicted.sum(axis=0),
            true=truth.sum(axis=0),
            rows=len(labels),
            exact=int((truth == predicted).all(axis=1).sum()),
            loss=float(loss.sum()),
        )

    def merge(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(
            hits=self.hits + other.hits,
            predicted=self.predicted + other.predicted,
            true=self.true + other.true,
            rows=self.rows + other.rows,
            exact=self.exact + other.exact,
            loss=self.loss + other.loss,
        )

    def compute(self) -> dict[str, float]:
        return {
            "accuracy": _ratio(self.exact, self.rows),
            "macro_f1": _macro_f1(self.hits, self.predicted, self.true),
            "micro_f1": _ratio(2 * self.hits.sum(), self.predicted.sum() + self.true.sum()),
            "loss": _ratio(self.loss, self.rows),
        }


@functools.partial(jax.jit, static_argnames="head")
def _losses(head: LinearHead[Any], logits: jax.Array, labels: jax.Array) -> jax.Array:
    """One program instead of a dozen small ones."""
    return head.loss(logits, labels)


def gather(model: GraftModel, logits: np.ndarray, labels: np.ndarray) -> Confusion | LabelCounts:
    """The counts of rows with these logits float32 [N,C] and labels int32 [N] or float32 [N,C]."""
    head = head_of(model.head)
    loss = np.asarray(_losses(head, logits, labels))
    decided = head.decide(model.head, np.asarray(head.probabilities(logits)))
    if isinstance(model.head, MultiLabel):
        return LabelCounts.of(labels, decided, loss)
    return Confusion.of(labels, decided, loss, len(model.labels))
