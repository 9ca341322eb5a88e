"""Multi-label: any number of labels per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.heads.columns import SeveralLabels
from adapters.heads.head import UNLIKELY, RowHead
from backbone.errors import InputError
from backbone.lazy import optax

if TYPE_CHECKING:
    from jax import Array

    from adapters.scores import MetricCounts

MAX_LOGIT = 80.0  # size of a logit beyond which a sigmoid is 0 or 1 in float32, and exp overflows


@dataclass(frozen=True)
class MultiLabel(RowHead, tag="multi_label"):
    """Any number of labels per row: logits [B,C], sigmoid cross-entropy, summed; labels float32 [B,C] of 0 and 1."""

    metrics = ("accuracy", "macro_f1", "average_precision")
    column = SeveralLabels()
    supports = frozenset({"bank", "early_exits", "export", "out_of_scope", "pairs", "peft", "retrain"})
    threshold: float = 0.5  # a label is predicted at or above this probability

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold: must lie between 0 and 1, got {self.threshold}")

    @property
    def threshold_of_labels(self) -> float:
        return self.threshold

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray((np.logaddexp(0, logits) - labels * logits).sum(axis=-1))

    def probabilities(self, logits: Any) -> Any:
        of = logits.__array_namespace__()
        return 1 / (1 + of.exp(-of.clip(logits, -MAX_LOGIT, MAX_LOGIT)))

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= self.threshold

    def counts(
        self, labels: np.ndarray, probabilities: np.ndarray, decided: np.ndarray, loss: np.ndarray, names: Sequence[str]
    ) -> MetricCounts:
        from adapters.scores import LabelCounts

        return LabelCounts.of(labels, decided, loss, probabilities)

    def confidence(self, logits: np.ndarray) -> np.ndarray:
        """Returns how sure the answers are: the probability of the label decision that is most in doubt, float [N]."""
        probabilities = self.probabilities(logits.astype(float))
        return np.where(self.decide(probabilities), probabilities, 1 - probabilities).min(axis=1)

    def sure_logits(self, answer: np.ndarray) -> np.ndarray:
        return np.where(answer, -UNLIKELY, UNLIKELY).astype(np.float32)

    def chosen(self, decided: np.ndarray) -> list[list[int]]:
        return [np.flatnonzero(row).tolist() for row in decided]
