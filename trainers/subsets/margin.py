"""Margin: rows between whose two most probable labels a probe hardly decides.

The probe has not seen the row, and its label is not read, so that a wrong label is no reason to be chosen. Source:
Scheffer et al. 2001, margin sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainers.subsets.subset import Chosen, RowFacts, ShareOfRows


@dataclass(frozen=True)
class Margin(ShareOfRows, tag="margin"):
    """Rows of which a probe is least sure."""

    reads_labels: ClassVar[bool] = True
    reads_seed: ClassVar[bool] = False

    def choose(self, rows: RowFacts, members: np.ndarray, count: int) -> Chosen:
        probabilities = rows.probabilities[members]
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]  # of one label alone, [M,1]
        high = np.take_along_axis(probabilities, best, axis=1)
        order = np.argsort(high[:, 0] - high[:, -1], kind="stable")[:count]
        return Chosen(
            members[order],
            tuple(
                ", ".join(f"{rows.names[label]} {p:.2f}" for label, p in zip(best[i], high[i], strict=True))
                for i in order
            ),
        )
