"""Forgetting: rows that a linear head on frozen states learns and forgets again most often.

Source: Toneva et al. 2019 (arXiv 1812.05159), algorithm 1. A row that is never learned comes first, as there. The head
stands in for the whole network, whose trunk is frozen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainers.subsets.subset import Chosen, RowFacts, ShareOfRows


@dataclass(frozen=True)
class Forgetting(ShareOfRows, tag="forgetting"):
    """Rows that are hard to keep learned."""

    reads_labels: ClassVar[bool] = True

    def choose(self, rows: RowFacts, members: np.ndarray, count: int) -> Chosen:
        times = rows.forgetting[members]
        order = np.argsort(np.where(times < 0, -np.inf, -times), kind="stable")[:count]
        reasons = tuple("never learned" if times[i] < 0 else f"forgotten {times[i]} times" for i in order)
        return Chosen(members[order], reasons)
