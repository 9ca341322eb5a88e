"""The time of one row's prediction."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from adapters.graft import Graft
from backbone.buckets import TokenRow

TIMED = 20  # predictions whose median is the latency


def latency(graft: Graft, rows: Sequence[TokenRow]) -> float:
    """Returns the median milliseconds of one row's prediction: a row of middle length, compiled before."""
    row = sorted(rows, key=len)[len(rows) // 2]
    graft.logits_of_rows([row])
    spent = []
    for _ in range(TIMED):
        start = time.perf_counter()
        graft.logits_of_rows([row])
        spent.append(1e3 * (time.perf_counter() - start))
    return float(np.median(spent))
