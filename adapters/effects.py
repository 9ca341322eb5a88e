"""Distances between two distributions, for drift of rows (retraining) and of traffic (serving). Imports no jax.

They are effect sizes, not tests: a test fires at any difference once rows are many, and at none while they are few.
Shape letters: `N` rows, `D` features, `B` bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

EMPTY = 0.5  # count added to every bin, so that an empty one has a logarithm (Jeffreys' prior)


def share_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Returns counts as shares of their sum."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}


def cohens_w(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Returns sqrt(sum (p1 - p0)^2 / p0), with the mean of both distributions as p0.

    The mean, because a new label has no share before.
    """
    names = before.keys() | after.keys()
    expected = {name: (before.get(name, 0.0) + after.get(name, 0.0)) / 2 for name in names}
    parts = ((after.get(n, 0.0) - expected[n]) ** 2 / expected[n] for n in names if expected[n])
    return float(2 * np.sqrt(sum(parts)))


def cohens_d(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the distance of the means of [N,D] in pooled standard deviations, root mean square over dimensions."""
    spread = np.sqrt((before.var(axis=0, ddof=1) + after.var(axis=0, ddof=1)) / 2)
    return float(np.sqrt(np.mean(np.square((after.mean(axis=0) - before.mean(axis=0)) / np.maximum(spread, 1e-9)))))


def stability_index(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the population stability index of counts [B], less its expectation for equal distributions; at least 0.

    The index is sum (q - p) ln(q / p). For n and m rows of one distribution it is a multiple of chi-square
    with the expectation (B-1)(1/n + 1/m): Yurdakul 2018, "Statistical properties of the population stability index".
    By convention 0.1 is notable and 0.25 is large.
    """
    p, q = ((counts + EMPTY) / (counts + EMPTY).sum() for counts in (before.astype(float), after.astype(float)))
    plain = float(((q - p) * np.log(q / p)).sum())
    return max(0.0, plain - (len(before) - 1) * _inverse_rows(before, after))


def stability_noise(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the standard deviation of `stability_index` under one distribution: sqrt(2(B-1)) (1/n + 1/m)."""
    return math.sqrt(2 * (len(before) - 1)) * _inverse_rows(before, after)


def _inverse_rows(before: np.ndarray, after: np.ndarray) -> float:
    """Returns 1/n + 1/m of the numbers of rows."""
    return 1 / max(float(before.sum()), 1.0) + 1 / max(float(after.sum()), 1.0)


def binomial_interval(hits: int, rows: int, z: float = 2.576) -> tuple[float, float]:
    """Returns Wilson's (1927) interval of the share `hits` / `rows`; `z` 2.576 is 99 %."""
    if rows < 1:
        return 0.0, 1.0
    share, square = hits / rows, z * z / rows
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return max(0.0, middle - half), min(1.0, middle + half)
