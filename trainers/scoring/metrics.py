"""Metrics of a split, gathered batch by batch with `clu.metrics`.

Classification: accuracy, macro F1, Matthews' coefficient for any number of classes (Gorodkin 2004,
R_K) and mean loss. Multi-label: subset accuracy, micro and macro F1, macro average precision, mean loss.
Regression: Pearson, Spearman, mean squared error in the target's units, and the loss. Tagging: precision,
recall and F1 of entities (as `seqeval`), accuracy of tags, mean loss. Everything is a function of counts, or
of values that are kept, so merging batches in any order gives the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import flax.struct
import numpy as np
from clu import metrics as clu_metrics

from adapters.heads import head_of, in_units
from adapters.model import GraftModel
from adapters.specs import MultiLabel, Regression, TokenTagging
from adapters.tagging import NO_TAG, spans


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
    """Per-label counts [C] of hits, predictions and truths; rows, exact rows, and the sum of losses.

    Average precision needs the order of all rows, so probabilities and truths [N,C] are kept.
    """

    hits: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    rows: int
    exact: int
    loss: float
    probabilities: np.ndarray
    truths: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, loss: np.ndarray, probabilities: np.ndarray) -> LabelCounts:
        truth = labels > 0.5
        return cls(
            hits=(truth & predicted).sum(axis=0),
            predicted=predicted.sum(axis=0),
            true=truth.sum(axis=0),
            rows=len(labels),
            exact=int((truth == predicted).all(axis=1).sum()),
            loss=float(loss.sum()),
            probabilities=probabilities,
            truths=truth,
        )

    def merge(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(
            hits=self.hits + other.hits,
            predicted=self.predicted + other.predicted,
            true=self.true + other.true,
            rows=self.rows + other.rows,
            exact=self.exact + other.exact,
            loss=self.loss + other.loss,
            probabilities=np.concatenate([self.probabilities, other.probabilities]),
            truths=np.concatenate([self.truths, other.truths]),
        )

    def compute(self) -> dict[str, float]:
        return {
            "accuracy": _ratio(self.exact, self.rows),
            "macro_f1": _macro_f1(self.hits, self.predicted, self.true),
            "micro_f1": _ratio(2 * self.hits.sum(), self.predicted.sum() + self.true.sum()),
            "average_precision": _average_precision(self.probabilities, self.truths),
            "loss": _ratio(self.loss, self.rows),
        }


def _average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    """Mean over labels that occur of the sum over thresholds of (recall gained) x precision; [N,C] each."""
    found = []
    for score, truth in zip(scores.T, truths.T, strict=True):
        if not truth.any():
            continue
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # rows of one score count together
        hits = np.cumsum(truth[order])[ends]
        recall = hits / hits[-1]
        found.append(float((np.diff(recall, prepend=0.0) * hits / (ends + 1)).sum()))
    return float(np.mean(found)) if found else 0.0


@flax.struct.dataclass
class Numbers(clu_metrics.Metric):  # type: ignore[misc]
    """Targets and predictions [N] of a regression, and the sum of losses; ranks need them all."""

    targets: np.ndarray
    predicted: np.ndarray
    loss: float

    def merge(self, other: Numbers) -> Numbers:
        return Numbers(
            targets=np.concatenate([self.targets, other.targets]),
            predicted=np.concatenate([self.predicted, other.predicted]),
            loss=self.loss + other.loss,
        )

    def compute(self) -> dict[str, float]:
        import scipy.stats  # takes half a second, which only regression should pay

        ranks = scipy.stats.rankdata(self.targets), scipy.stats.rankdata(self.predicted)
        rows = len(self.targets)
        return {
            "pearson": _correlation(self.targets, self.predicted),
            "spearman": _correlation(*ranks),
            "mse": _ratio(np.square(self.targets - self.predicted).sum(), rows),
            "loss": _ratio(self.loss, rows),
        }


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's coefficient; 0 where one of them does not vary."""
    a, b = left - left.mean(), right - right.mean()
    return _ratio(a @ b, np.sqrt((a @ a) * (b @ b)))


@flax.struct.dataclass
class EntityCounts(clu_metrics.Metric):  # type: ignore[misc]
    """Counts of entities (all, predicted, and both) and of tags; rows and the sum of losses."""

    hits: int
    predicted: int
    true: int
    tags: int
    right: int
    rows: int
    loss: float

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, loss: np.ndarray, names: Sequence[str]) -> EntityCounts:
        hits = found = true = tags = right = 0
        for truth, guess in zip(labels, predicted, strict=True):
            words = truth != NO_TAG
            here, there = ([names[i] for i in row[words]] for row in (truth, guess))
            a, b = set(spans(here)), set(spans(there))
            hits, true, found = hits + len(a & b), true + len(a), found + len(b)
            tags, right = tags + int(words.sum()), right + int((truth == guess)[words].sum())
        return cls(
            hits=hits, predicted=found, true=true, tags=tags, right=right, rows=len(labels), loss=float(loss.sum())
        )

    def merge(self, other: EntityCounts) -> EntityCounts:
        return EntityCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def compute(self) -> dict[str, float]:
        return {
            "entity_f1": _ratio(2 * self.hits, self.predicted + self.true),
            "precision": _ratio(self.hits, self.predicted),
            "recall": _ratio(self.hits, self.true),
            "accuracy": _ratio(self.right, self.tags),
            "loss": _ratio(self.loss, self.rows),
        }


Gathered: TypeAlias = Confusion | LabelCounts | Numbers | EntityCounts


def gather(model: GraftModel, logits: np.ndarray, labels: np.ndarray) -> Gathered:
    """What is counted of rows with these logits float32 [N,C] and labels int32 [N] or float32 [N,C].

    Of a regression labels are float32 [N]; for tagging they are int32 [N,T] and logits [N,T,C].
    """
    head = head_of(model.head)
    loss, probabilities = head.host_loss(logits, labels), head.probabilities(logits)
    decided = head.decide(model.head, probabilities)
    if isinstance(model.head, MultiLabel):
        return LabelCounts.of(labels, decided, loss, probabilities)
    if isinstance(model.head, Regression):
        return Numbers(in_units(model.head, np.asarray(labels, float)), decided, float(loss.sum()))
    if isinstance(model.head, TokenTagging):
        return EntityCounts.of(labels, decided, loss, model.labels)
    return Confusion.of(labels, decided, loss, len(model.labels))
