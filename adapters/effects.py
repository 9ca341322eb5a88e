"""How far one distribution lies from another: effect sizes, for drift of rows (retraining) and of traffic (serving).

Effect sizes, never a test that fires on many rows and sleeps on few. Imports no jax. Shape letters: `N` rows, `D`
features, `B` bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

EMPTY = 0.5  # added to every bin, so that an empty one has a logarithm (Jeffreys' prior)


def share_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Counts as shares of their sum."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}


def cohens_w(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """sqrt(sum (p1 - p0)^2 / p0) over the mean of both distributions as p0 (a new label has no p0 of its own)."""
    names = before.keys() | after.keys()
    expected = {name: (before.get(name, 0.0) + after.get(name, 0.0)) / 2 for name in names}
    parts = ((after.get(n, 0.0) - expected[n]) ** 2 / expected[n] for n in names if expected[n])
    return float(2 * np.sqrt(sum(parts)))


def cohens_d(before: np.ndarray, after: np.ndarray) -> float:
    """Distance of the means of [N,D] in pooled standard deviations, root mean square over dimensions."""
    spread = np.sqrt((before.var(axis=0, ddof=1) + after.var(axis=0, ddof=1)) / 2)
    return float(np.sqrt(np.mean(np.square((after.mean(axis=0) - before.mean(axis=0)) / np.maximum(spread, 1e-9)))))


def stability_index(before: np.ndarray, after: np.ndarray) -> float:
    """Population stability index of counts [B]: sum (q - p) ln(q / p), less what equal distributions would give.

    That is (B-1)(1/n + 1/m) for n and m rows, since the sum is then a multiple of chi-square (Yurdakul 2018,
    "Statistical properties of the population stability index"); never below 0. By habit 0.1 is notable, 0.25 large.
    """
    p, q = ((counts + EMPTY) / (counts + EMPTY).sum() for counts in (before.astype(float), after.astype(float)))
    plain = float(((q - p) * np.log(q / p)).sum())
    return max(0.0, plain - (len(before) - 1) * _rows(before, after))


def stability_noise(before: np.ndarray, after: np.ndarray) -> float:
    """Standard deviation of `stability_index` where both are of one distribution: sqrt(2(B-1)) (1/n + 1/m)."""
    return math.sqrt(2 * (len(before) - 1)) * _rows(before, after)


def _rows(before: np.ndarray, after: np.ndarray) -> float:
    return 1 / max(float(before.sum()), 1.0) + 1 / max(float(after.sum()), 1.0)


def binomial_interval(found: int, rows: int, z: float = 2.576) -> tuple[float, float]:
    """Wilson's (1927) interval of a share of `rows`; `z` 2.576 is 99 %."""
    if rows < 1:
        return 0.0, 1.0
    share, square = found / rows, z * z / rows
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return max(0.0, middle - half), min(1.0, middle + half)
