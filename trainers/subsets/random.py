"""Random subsets, the control of every other method; a row's place is a hash, so that few rows move as data grow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from trainers.subsets.subset import Chosen, RowFacts, ShareOfRows


@dataclass(frozen=True)
class RandomSubset(ShareOfRows, tag="random"):
    """Rows by the hash of their tokens and the seed."""

    def choose(self, rows: RowFacts, members: np.ndarray, count: int) -> Chosen:
        head = b"subset %d " % self.seed
        places = [hashlib.sha256(head + rows.keys[i]).digest() for i in members]
        order = sorted(range(len(members)), key=places.__getitem__)[:count]
        return Chosen(members[order], ("drawn",) * count)
