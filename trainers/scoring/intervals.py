"""Scores of resampled rows: how far a metric may move by the choice of the rows alone (Efron 1979)."""

from __future__ import annotations

import numpy as np

from adapters.model import GraftModel
from trainers.runs.result import Estimate

RESAMPLES = 200  # draws of the rows
INTERVAL = (0.025, 0.975)  # quantiles of the scores between which an interval lies


def resampled(model: GraftModel, logits: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """Returns the metric of logits [N,...] on RESAMPLES draws of the rows, float [R]; the same draws for equal N."""
    head, draw = model.head, np.random.default_rng(0)
    probabilities = head.probabilities(logits)
    decided, losses = head.decide(probabilities), head.host_loss(logits, labels)

    def score(rows: np.ndarray) -> float:
        counts = head.counts(labels[rows], probabilities[rows], decided[rows], losses[rows], model.labels)
        return float(counts.compute()[metric])

    return np.array([score(draw.integers(0, len(labels), len(labels))) for _ in range(RESAMPLES)])


def estimate(split: str, how: str, model: GraftModel, logits: np.ndarray, labels: np.ndarray, metric: str) -> Estimate:
    """Returns the metric of a split with its 95 % interval; `how` says which heads answered."""
    head = model.head
    probabilities = head.probabilities(logits)
    losses = head.host_loss(logits, labels)
    value = head.counts(labels, probabilities, head.decide(probabilities), losses, model.labels).compute()[metric]
    scores = resampled(model, logits, labels, metric)
    finite = scores[np.isfinite(scores)]
    low, high = np.quantile(finite, INTERVAL) if len(finite) else (value, value)
    return Estimate(split, how, len(labels), metric, float(value), float(low), float(high))
