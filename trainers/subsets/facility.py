"""Facility location: rows whose sum of similarities, each row with its most similar chosen one, is largest.

    max over sets S of size K:  sum_i max_{j in S} max(0, cos(x_i, x_j))

Source: Mirzasoleiman et al. 2020 (CRAIG, arXiv 1906.01827), on states in place of gradients. The greedy choice is
within 1 - 1/e of the best (Nemhauser et al. 1978), and lazy: gains only fall, so most are not computed again (Minoux
1978). Similarities are made in blocks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainers.subsets.subset import Chosen, RowFacts, ShareOfRows

BLOCK = 2**24  # similarities in memory at a time


@dataclass(frozen=True)
class FacilityLocation(ShareOfRows, tag="facility"):
    """Rows that stand for all others."""

    reads_seed: ClassVar[bool] = False

    def choose(self, rows: RowFacts, members: np.ndarray, count: int) -> Chosen:
        states = rows.states[members]  # [M,D]
        order, owners = greedy(states, count)
        served = np.bincount(owners[owners >= 0], minlength=len(members))
        return Chosen(members[order], tuple(f"stands for {served[row]} rows" for row in order))


def greedy(states: np.ndarray, count: int) -> tuple[list[int], np.ndarray]:
    """Returns `count` rows of `states` [M,D] in the order of their gain, and the chosen row of each row, int [M]."""
    step = max(1, BLOCK // len(states))
    gains = np.concatenate(
        [
            np.maximum(states @ states[first : first + step].T, 0).sum(axis=0, dtype=np.float64)
            for first in range(0, len(states), step)
        ]
    )
    queue = [(-gain, row) for row, gain in enumerate(gains.tolist())]
    heapq.heapify(queue)
    covered = np.zeros(len(states), np.float32)  # similarity of each row with its most similar chosen one
    owners, order = np.full(len(states), -1), list[int]()
    while len(order) < count:
        _, row = heapq.heappop(queue)
        similar = states @ states[row]
        gain = float(np.maximum(similar - covered, 0).sum(dtype=np.float64))
        if queue and gain < -queue[0][0]:
            heapq.heappush(queue, (-gain, row))
            continue
        nearer = similar > covered
        covered[nearer], owners[nearer] = similar[nearer], row
        order.append(row)
    return order, owners
