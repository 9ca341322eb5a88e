"""Regression: a number per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from adapters.heads.columns import Labels, Layout, Number
from adapters.heads.head import Head, RowHead
from backbone.errors import InputError
from backbone.lazy import jnp

if TYPE_CHECKING:
    from jax import Array

    from adapters.scores import MetricCounts


@dataclass(frozen=True)
class Regression(RowHead, tag="regression"):
    """A number per row: y = center + spread (dropout(pool(hidden)) W + b), squared error.

    The head is trained on (y - center) / spread, float32 [B], so that a learning rate suits targets of any size.
    Predictions and metrics are in the target's own units.
    """

    metrics = ("pearson", "spearman")
    column = Number()
    supports = frozenset({"export", "pairs", "peft"})
    output = "value"
    center: float | None = None  # none: mean of the train rows' targets
    spread: float | None = None  # none: their standard deviation

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spread is not None and not (self.spread > 0 and math.isfinite(self.spread)):
            raise InputError(f"spread: must be a positive number, got {self.spread}")
        if self.center is not None and not math.isfinite(self.center):
            raise InputError(f"center: must be a number, got {self.center}")

    @classmethod
    def example(cls) -> Self:
        return cls(center=3.0, spread=2.0)

    def in_units(self, standard: Any) -> Any:
        """Returns numbers in the target's units from those that the head is trained on."""
        return (self.center or 0.0) + (1.0 if self.spread is None else self.spread) * standard

    def with_statistics_of(self, labels: Labels | None) -> Self:
        """Returns the head with center and spread, from the train rows where it does not name them."""
        if self.center is not None and self.spread is not None:
            return self
        if labels is None:
            raise InputError("head.center: without train rows both this and head.spread must be named")
        targets = self.column.encode(labels, (), ())
        center = float(targets.mean()) if self.center is None else self.center
        spread = float(targets.std()) if self.spread is None else self.spread
        if not spread > 0:
            raise InputError(
                f"data.label: every train row has the same target, {targets[0]:g}: there is nothing to learn"
            )
        return replace(self, center=center, spread=spread)

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        assert self.center is not None
        assert self.spread is not None
        targets = self.column.encode(labels, names, where, layout)
        return np.asarray(((targets - self.center) / self.spread).astype(np.float32))

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        return jnp.square(logits[:, 0] - labels)

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(logits[:, 0] - labels))

    def probabilities(self, logits: Any) -> Any:
        return logits

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        return np.asarray(self.in_units(np.asarray(probabilities, float)[:, 0]))

    def in_own_units(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[Head, np.ndarray, np.ndarray]:
        spread, center = np.float32(1.0 if self.spread is None else self.spread), np.float32(self.center or 0.0)
        return replace(self, center=0.0, spread=1.0), kernel * spread, bias * spread + center

    def exported(self, logits: Array) -> Array:
        result: Array = self.in_units(logits[:, 0])
        return result

    def counts(
        self, labels: np.ndarray, probabilities: np.ndarray, decided: np.ndarray, loss: np.ndarray, names: Sequence[str]
    ) -> MetricCounts:
        from adapters.scores import Numbers

        return Numbers(self.in_units(np.asarray(labels, float)), decided, float(loss.sum()))
