"""Which row each query asks, and when it arrives: drawn from a seed before the run begins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def row_order(rows: int, seed: int) -> Iterator[int]:
    """Yields row numbers without end: every row once in a random order, then again in another order."""
    draw = np.random.default_rng(seed)
    while True:
        yield from map(int, draw.permutation(rows))


def poisson_arrivals(rate: float, queries: int, seed: int) -> np.ndarray:
    """Returns the instants of a Poisson process of `rate` a second, float64 [queries], in seconds from its start."""
    return np.random.default_rng(seed + 1).exponential(1 / rate, queries).cumsum()
