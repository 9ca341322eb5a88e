"""Token tagging: a BIO tag per word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.heads.classification import Classification
from adapters.heads.columns import Tags
from adapters.heads.head import Head, Softmax, check_dropout, cross_entropy
from adapters.labels.tagging import NO_TAG, OUTSIDE, entities
from adapters.predictions import Prediction
from backbone.lazy import jnp, optax

if TYPE_CHECKING:
    from jax import Array

    from adapters.scores import MetricCounts


@dataclass(frozen=True)
class TokenTagging(Softmax, Head, tag="token_tagging"):
    """A BIO tag per word: logits [B,T,C] = dropout(hidden) W + b, softmax cross-entropy at first sub-words.

    Labels are int32 [B,T], `NO_TAG` between words. A row's loss is the mean over its words.
    """

    metrics = ("entity_f1", "accuracy")
    column = Tags()
    one_answer_per = "word"
    supports = frozenset({"peft"})
    dropout: float = 0.0  # probability on the states, in training only

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        words = labels != NO_TAG
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(words, labels, 0))
        return jnp.where(words, losses, 0).sum(axis=-1) / jnp.maximum(words.sum(axis=-1), 1)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        words = labels != NO_TAG
        losses = np.where(words, cross_entropy(logits, np.where(words, labels, 0)), 0)
        return np.asarray(losses.sum(axis=-1) / np.maximum(words.sum(axis=-1), 1))

    def places(self, labels: np.ndarray) -> np.ndarray:
        return labels != NO_TAG

    def vector_head(self) -> Classification:
        """Returns a classifier: a probe classifies words."""
        return Classification()

    def counts(
        self, labels: np.ndarray, probabilities: np.ndarray, decided: np.ndarray, loss: np.ndarray, names: Sequence[str]
    ) -> MetricCounts:
        from adapters.scores import EntityCounts

        return EntityCounts.of(labels, decided, loss, names)

    def answers(
        self,
        names: tuple[str, ...],
        logits: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        abstain: bool = False,
        texts: Sequence[Any] = (),
        places: Sequence[np.ndarray] = (),
    ) -> list[Prediction]:
        """Returns the tags of each sentence of `texts` by word; words beyond the cut are outside."""
        predictions = []
        for words, first, row in zip(texts, places, logits.argmax(axis=-1), strict=True):
            tags = tuple(names[row[place]] if place >= 0 else OUTSIDE for place in first)
            predictions.append(Prediction(tags, {}, words=tuple(words), entities=entities(words, tags)))
        return predictions

    def facts(self, prediction: Prediction, top: int) -> dict[str, Any]:
        spans = [asdict(entity) for entity in prediction.entities]
        return {"words": list(prediction.words), "tags": list(prediction.labels), "entities": spans}
