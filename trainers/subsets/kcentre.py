"""k-centre: each row is the one that lies farthest from all rows chosen before it.

Source: Gonzalez 1985, whose radius is at most twice the best; Sener & Savarese 2018 (arXiv 1708.00489), algorithm 1,
on states of a network. It begins at the row nearest to the middle of its group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainers.subsets.subset import Chosen, RowFacts, ShareOfRows


@dataclass(frozen=True)
class KCentre(ShareOfRows, tag="kcentre"):
    """Rows that leave no other row far from a chosen one."""

    reads_seed: ClassVar[bool] = False

    def choose(self, rows: RowFacts, members: np.ndarray, count: int) -> Chosen:
        states = rows.states[members]  # [M,D]
        row = int(np.argmax(states @ states.mean(axis=0)))
        nearest = np.full(len(members), np.inf, np.float32)  # 1 - cosine to the nearest chosen row
        order, reasons = list[int](), list[str]()
        for _ in range(count):
            gap = float(nearest[row])
            reasons.append("in the middle of its group" if not order else f"{gap:.3f} from the rows before it")
            order.append(row)
            nearest = np.minimum(nearest, 1 - states @ states[row])
            nearest[order] = -np.inf
            row = int(np.argmax(nearest))
        return Chosen(members[order], tuple(reasons))
