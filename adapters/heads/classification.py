"""Classification: one label per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapters.heads.columns import OneLabel
from adapters.heads.head import RowHead, Softmax, cross_entropy
from backbone.lazy import optax

if TYPE_CHECKING:
    from jax import Array

    from adapters.scores import MetricCounts


@dataclass(frozen=True)
class Classification(Softmax, RowHead, tag="classification"):
    """One label per row: logits [B,C] = dropout(pool(hidden)) W + b, softmax cross-entropy; labels int32 [B]."""

    metrics = ("accuracy", "macro_f1", "matthews")
    column = OneLabel()
    supports = frozenset({"audit", "bank", "early_exits", "export", "out_of_scope", "pairs", "peft", "retrain"})

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return cross_entropy(logits, labels)

    def classes(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def counts(
        self, labels: np.ndarray, probabilities: np.ndarray, decided: np.ndarray, loss: np.ndarray, names: Sequence[str]
    ) -> MetricCounts:
        from adapters.scores import Confusion

        return Confusion.of(labels, decided, loss, len(names))
