"""A linear discriminant with a shrunk covariance, in closed form: a head for few rows and many features.

The classes have means m_c and one covariance, S = (1 - a) W + a tr(W)/F I, where W is the scatter within the classes
over N - C, and a the shrinkage (Friedman 1989). The logit of a class is m_c S^-1 x - m_c S^-1 m_c / 2 + log(share of
c). Shapes: `N` rows, `F` features, `C` classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from adapters.heads.head import UNLIKELY
from backbone.trees import Params

MIN_SPREAD = 1e-9  # mean variance below which the rows of each class count as equal
CHUNK = 4096  # rows whose products are added at a time, in float64


@dataclass(frozen=True)
class Scatter:
    """The statistics of labelled rows that discriminants of every shrinkage share."""

    counts: np.ndarray  # rows of each class, int [C]
    means: np.ndarray  # means of the classes, float64 [C,F]; of a class without rows: zero
    within: np.ndarray  # covariance within the classes, float64 [F,F]
    spread: float  # mean of its diagonal, over all features


def scatter_of(x: np.ndarray, labels: np.ndarray, classes: int, width: int | None = None) -> Scatter:
    """Returns the scatter of features float32 [N,F] and label numbers int [N].

    `width` is the number of features where `x` is written in a basis of fewer directions. Where no class has two
    different rows, the covariance is the identity times the variance of all rows.
    """
    rows, directions = x.shape
    width = width or directions
    counts = np.bincount(labels, minlength=classes)
    of_class = scipy.sparse.csr_array((np.ones(rows), (labels, np.arange(rows))), (classes, rows))
    means = (of_class @ x.astype(np.float64)) / np.maximum(counts, 1)[:, None]
    within = np.zeros((directions, directions))
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        apart = (x[part] - means[labels[part]]).astype(np.float32)
        within += apart.T @ apart
    within /= max(rows - np.count_nonzero(counts), 1)
    spread = float(np.trace(within)) / width
    if spread < MIN_SPREAD:
        spread = max(float(x.var(axis=0).sum()) / width, MIN_SPREAD)
        within = spread * np.eye(directions)
    return Scatter(counts, means, within, spread)


def discriminant(scatter: Scatter, shrinkage: float) -> Params:
    """Returns kernel float32 [F,C] and bias [C]. A class without a row is never the answer."""
    return head_of(scatter.counts, scatter.means, solved(scatter, shrinkage, scatter.means))


def solved(scatter: Scatter, shrinkage: float, vectors: np.ndarray) -> np.ndarray:
    """Returns S^-1 v float64 [F,K] for vectors v [K,F]."""
    covariance = (1 - shrinkage) * scatter.within
    covariance[np.diag_indices(len(covariance))] += shrinkage * scatter.spread
    return np.asarray(scipy.linalg.solve(covariance, vectors.T, assume_a="pos"))


def head_of(counts: np.ndarray, means: np.ndarray, kernel: np.ndarray) -> Params:
    """Returns the head of classes with `counts` [C] and `means` [C,F], where `kernel` is S^-1 m [F,C]."""
    present = counts > 0
    shares = np.log(np.where(present, counts, 1) / counts.sum())
    bias = np.where(present, shares - 0.5 * (means.T * kernel).sum(axis=0), UNLIKELY)
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
