"""When a run has seen enough queries to say something of a percentile, as MLPerf Inference decides it.

Of n independent queries, the number that lie beyond the p-th quantile is binomial with probability 1 - p. If t of them
lie beyond a bound, and at most t would do so with a probability of at most 1 - c, then the p-th quantile lies within
the bound with confidence c. MLPerf takes c = 0.99 (rules of MLPerf Inference, section on early stopping).
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.special import bdtr

CONFIDENCE = 0.99  # probability with which a stated bound holds


def is_proven(queries: int, over: int, percentile: float, confidence: float = CONFIDENCE) -> bool:
    """Returns whether `over` of `queries` beyond a bound are few enough to say that the percentile keeps to it."""
    return queries > 0 and bool(bdtr(over, queries, 1 - percentile) <= 1 - confidence)


def needed_queries(over: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Returns the smallest number of queries, `over` of them beyond the bound, that proves the percentile."""
    low, high = over, over + 1
    while not is_proven(high, over, percentile, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_proven(middle, over, percentile, confidence) else (middle, high)
    return high


def upper_bound(ordered: Sequence[float], percentile: float, confidence: float = CONFIDENCE) -> float | None:
    """Returns a value that the percentile does not exceed with this confidence; None for too few queries.

    `ordered` are latencies in ascending order. As MLPerf does, it discards one query fewer than could be discarded.
    """
    count = len(ordered)
    if not is_proven(count, 1, percentile, confidence):
        return None
    low, high = 1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_proven(count, middle, percentile, confidence) else (low, middle)
    return ordered[count - low]
