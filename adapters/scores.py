"""Counts that metrics are computed from, gathered batch by batch with `clu.metrics`.

A head chooses its counts (`Head.counts`). Each is made of sums, or of values that are kept, so merging batches in any
order gives the same figures. The module imports flax and clu: a head imports it when it counts.
Shape letters: `N` rows, `T` tokens, `C` labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np
from clu import metrics as clu_metrics

from adapters.labels.tagging import NO_TAG, spans


class MetricCounts(clu_metrics.Metric):  # type: ignore[misc]
    """Counts of some rows."""

    def merge(self, other: Any) -> Any:
        """Returns the counts of these rows and of those of `other`, which is of the same class."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name, "loss" among them."""
        raise NotImplementedError

    @property
    def confusion(self) -> list[list[int]] | None:
        """Returns counts [C,C], rows true, columns predicted; None unless each row has one label."""
        return None


def ratio(top: float, bottom: float) -> float:
    """Returns top / bottom, or 0 where there is nothing to divide by."""
    return float(top / bottom) if bottom else 0.0


def _macro_f1(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> float:
    """Returns the mean F1 over the labels that occur, truly or as predicted; counts [C] each."""
    total = predicted + true
    present = total > 0
    return float(np.mean(2 * hits[present] / total[present])) if present.any() else 0.0


@flax.struct.dataclass
class Confusion(MetricCounts):
    """Counts [C,C] of one label a row, rows true, columns predicted, and the sum of losses.

    Matthews' coefficient is the one for any number of classes (Gorodkin 2004, R_K).
    """

    table: np.ndarray
    loss: float

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, loss: np.ndarray, classes: int) -> Confusion:
        """Counts labels and predictions, int [N] each, and losses [N]."""
        flat = np.bincount(labels.astype(int) * classes + predicted.astype(int), minlength=classes * classes)
        return cls(table=flat.reshape(classes, classes), loss=float(loss.sum()))

    @property
    def confusion(self) -> list[list[int]]:
        return list(self.table.tolist())

    def merge(self, other: Confusion) -> Confusion:
        return Confusion(table=self.table + other.table, loss=self.loss + other.loss)

    def compute(self) -> dict[str, float]:
        table = self.table.astype(float)
        rows, hits = table.sum(), np.diag(table)
        true, predicted = table.sum(axis=1), table.sum(axis=0)
        covariance = hits.sum() * rows - true @ predicted
        spread = np.sqrt(rows**2 - predicted @ predicted) * np.sqrt(rows**2 - true @ true)
        return {
            "accuracy": ratio(hits.sum(), rows),
            "macro_f1": _macro_f1(hits, predicted, true),
            "matthews": ratio(covariance, spread),
            "loss": ratio(self.loss, rows),
        }


@flax.struct.dataclass
class LabelCounts(MetricCounts):
    """Counts by label [C] of hits, predictions and truths; rows, exact rows, and the sum of losses.

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
        """Counts labels float [N,C] of 0 and 1, predictions bool [N,C], losses [N] and probabilities [N,C]."""
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
            "accuracy": ratio(self.exact, self.rows),
            "macro_f1": _macro_f1(self.hits, self.predicted, self.true),
            "micro_f1": ratio(2 * self.hits.sum(), self.predicted.sum() + self.true.sum()),
            "average_precision": _average_precision(self.probabilities, self.truths),
            "loss": ratio(self.loss, self.rows),
        }


def _average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    """Returns the mean over labels that occur of the sum of (recall gained) x precision; [N,C] each."""
    by_label = []
    for score, truth in zip(scores.T, truths.T, strict=True):
        if not truth.any():
            continue
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # rows of one score count together
        hits = np.cumsum(truth[order])[ends]
        recall = hits / hits[-1]
        by_label.append(float((np.diff(recall, prepend=0.0) * hits / (ends + 1)).sum()))
    return float(np.mean(by_label)) if by_label else 0.0


@flax.struct.dataclass
class Numbers(MetricCounts):
    """Targets and predictions [N], and the sum of losses; ranks need all values."""

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
        import scipy.stats  # takes half a second, which heads of labels should not pay

        ranks = scipy.stats.rankdata(self.targets), scipy.stats.rankdata(self.predicted)
        rows = len(self.targets)
        return {
            "pearson": _correlation(self.targets, self.predicted),
            "spearman": _correlation(*ranks),
            "mse": ratio(np.square(self.targets - self.predicted).sum(), rows),
            "loss": ratio(self.loss, rows),
        }


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Returns Pearson's coefficient; 0 where one of them does not vary."""
    a, b = left - left.mean(), right - right.mean()
    return ratio(a @ b, np.sqrt((a @ a) * (b @ b)))


@flax.struct.dataclass
class EntityCounts(MetricCounts):
    """Counts of entities (all, predicted, and both) and of tags, as `seqeval`; rows and the sum of losses."""

    hits: int
    predicted: int
    true: int
    tags: int
    right: int
    rows: int
    loss: float

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, loss: np.ndarray, names: Sequence[str]) -> EntityCounts:
        """Counts tags and predictions, int [N,T] each, and losses [N]; `names` [C] are the tags."""
        hits = guessed = true = tags = right = 0
        for truth, guess in zip(labels, predicted, strict=True):
            words = truth != NO_TAG
            expected, given = (set(spans([names[i] for i in row[words]])) for row in (truth, guess))
            hits, true, guessed = hits + len(expected & given), true + len(expected), guessed + len(given)
            tags, right = tags + int(words.sum()), right + int((truth == guess)[words].sum())
        total = float(loss.sum())
        return cls(hits=hits, predicted=guessed, true=true, tags=tags, right=right, rows=len(labels), loss=total)

    def merge(self, other: EntityCounts) -> EntityCounts:
        return EntityCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def compute(self) -> dict[str, float]:
        return {
            "entity_f1": ratio(2 * self.hits, self.predicted + self.true),
            "precision": ratio(self.hits, self.predicted),
            "recall": ratio(self.hits, self.true),
            "accuracy": ratio(self.right, self.tags),
            "loss": ratio(self.loss, self.rows),
        }
