"""The time and the memory of predictions."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from adapters.graft import Graft
from backbone.buckets import TokenRow
from metering.window import window

MEASURED = 256  # rows whose prediction shows the memory that it takes
STREAMED = 300  # predictions one after another whose percentiles are latencies
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


def latencies(graft: Graft, rows: Sequence[TokenRow]) -> np.ndarray:
    """Returns the milliseconds of `STREAMED` predictions, float [N]: rows of all lengths, one after another.

    Each length was compiled before. This is MLPerf's single-stream scenario: a query starts when the last one ended.
    """
    draw = np.random.default_rng(0)
    chosen = [rows[i] for i in draw.integers(0, len(rows), STREAMED)]
    for row in {len(row): row for row in chosen}.values():
        graft.logits_of_rows([row])
    spent = []
    for row in chosen:
        start = time.perf_counter()
        graft.logits_of_rows([row])
        spent.append(1e3 * (time.perf_counter() - start))
    return np.array(spent)


def peak_bytes(graft: Graft, rows: Sequence[TokenRow]) -> int | None:
    """Returns the largest memory of the process while it predicts, in bytes; None where nothing tells it."""
    with window("predict") as predicting:
        graft.logits_of_rows(rows[:MEASURED])
    return predicting.peak_bytes
