"""The scores of a graft on a split: as a whole, by length and by label."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from adapters.model import GraftModel
from trainers.data.batches import Examples
from trainers.scoring.metrics import gather

MAX_SLICES = 30  # labels above which no label has a slice of its own
LENGTHS = (16, 32)  # tokens, padding included, at which the slices by length end


@dataclass(frozen=True)
class Examined:
    """Metrics of a split and of its slices."""

    metrics: dict[str, float]  # metrics of all rows
    slices: dict[str, dict[str, float]]  # metrics by length and, where each row has one label, by label
    confusion: list[list[int]] | None  # rows true, columns predicted; None unless each row has one label
    logits: np.ndarray = field(repr=False, compare=False)  # logits float32 [N,C] of the rows


def examine(
    model: GraftModel,
    examples: Examples,
    logits: np.ndarray,
) -> Examined:
    """Scores the logits [N,C] of a split on all of its rows and on slices."""
    counts = gather(model, logits, examples.labels)
    slices = {"all rows": examples.buckets > 0}
    bounds = (0, *LENGTHS, max(examples.lengths))
    for low, high in pairwise(bounds):
        slices[f"{low + 1} to {high} tokens"] = (examples.buckets > low) & (examples.buckets <= high)
    if counts.confusion is not None and len(model.labels) <= MAX_SLICES:
        carries = model.head.column.carries
        slices |= {f"label {name}": carries(examples.labels, [i]) for i, name in enumerate(model.labels)}
    scored = {
        name: {"rows": int(chosen.sum()), **gather(model, logits[chosen], examples.labels[chosen]).compute()}
        for name, chosen in slices.items()
        if chosen.any()
    }
    return Examined(counts.compute(), scored, counts.confusion, logits)
