"""Metrics of a split, from what the head counts of its rows.

    gather(model, logits, labels).compute()["accuracy"]

Which metrics there are is the head's affair (`Head.counts`, `adapters.scores`); counts of parts can be merged.
"""

from __future__ import annotations

import numpy as np

from adapters.model import GraftModel
from adapters.scores import MetricCounts


def gather(model: GraftModel, logits: np.ndarray, labels: np.ndarray) -> MetricCounts:
    """Returns the counts of N rows from logits float32 [N,C], or [N,T,C] of tokens, and encoded labels."""
    head = model.head
    probabilities = head.probabilities(logits)
    return head.counts(labels, probabilities, head.decide(probabilities), head.host_loss(logits, labels), model.labels)
