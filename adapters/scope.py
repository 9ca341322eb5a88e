"""How unlike the train rows an input is: the out-of-scope score of a graft. Imports no jax.

The Mahalanobis distance of the frozen backbone's pooled states to the nearest class of the train rows, with one
covariance for all classes (Lee et al. 2018, arXiv 1807.03888, equation 2), shrunk to a multiple of the identity
(Ledoit & Wolf 2004). The score is the distance over a threshold, a quantile of the development rows' distances, so
that a row like those lies above 1 with at most the probability that was asked for. The trained adapter has no part
in it: what it does far from its rows was never trained. Shape letters: `N` rows, `P` width, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.manifest import SCOPE, Manifest
from adapters.reader import read_tensors
from backbone.errors import InputError

LEAST_SHRINKAGE = 1e-6  # so that directions in which nothing varies can be divided by
MOST_BINS = 10  # of a reference
ROWS_OF_A_BIN = 20  # development rows, at least


@dataclass(frozen=True)
class Reference:
    """What the development rows were like, to tell drift of traffic from: counts in bins.

    Bins hold about as many rows each; a value at an edge belongs to the bin above.
    """

    length_edges: np.ndarray  # float64 [B-1], tokens
    length_counts: np.ndarray  # int64 [B]
    score_edges: np.ndarray  # float64 [B-1], out-of-scope scores
    score_counts: np.ndarray  # int64 [B]
    label_counts: np.ndarray  # int64 [C], rows whose most probable label it is


def reference_of(lengths: np.ndarray, scores: np.ndarray, predicted: np.ndarray, labels: int) -> Reference:
    """From lengths in tokens [N], scores [N] and numbers of the most probable labels [N] of development rows."""
    (length_edges, length_counts), (score_edges, score_counts) = _binned(lengths), _binned(scores)
    counts = np.bincount(predicted, minlength=labels).astype(np.int64)
    return Reference(length_edges, length_counts, score_edges, score_counts, counts)


def _binned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bins = min(MOST_BINS, max(2, len(values) // ROWS_OF_A_BIN))
    edges = np.unique(np.quantile(values.astype(float), np.arange(1, bins) / bins))
    edges = edges[edges > values.min()]  # below the least there is nothing to count
    return edges, np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)


@dataclass(frozen=True)
class Scope:
    """What the score of a graft is computed from."""

    boundary: int  # of the bare backbone, whose pooled states are measured
    whitening: np.ndarray  # float32 [P,P]: features @ whitening have the unit covariance within a class
    means: np.ndarray  # float32 [K,P], of the classes, after whitening
    threshold: float  # distance at a score of 1
    false_alarms: float  # most of the rows in scope that lie above it
    abstain: bool  # no label is given above it
    reference: Reference | None = None  # of the development rows

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Distance float [N] of features [N,P] to the nearest class."""
        x, means = features.astype(float) @ self.whitening, self.means.astype(float)
        squared = np.square(x).sum(axis=1)[:, None] + np.square(means).sum(axis=1) - 2 * x @ means.T
        return np.asarray(np.sqrt(np.maximum(squared.min(axis=1), 0)))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Out-of-scope score float [N]; above 1 beyond the threshold."""
        return self.distances(features) / self.threshold

    @property
    def width(self) -> int:
        """Of the pooled states."""
        return len(self.whitening)

    @property
    def bytes(self) -> int:
        """In memory."""
        return self.whitening.nbytes + self.means.nbytes

    def tensors(self) -> dict[str, np.ndarray]:
        """For a file."""
        reference = {} if self.reference is None else {f"reference.{k}": v for k, v in vars(self.reference).items()}
        return reference | {
            "boundary": np.array([self.boundary], np.int32),
            "whitening": self.whitening,
            "means": self.means,
            "threshold": np.array([self.threshold], np.float64),
            "false_alarms": np.array([self.false_alarms], np.float64),
            "abstain": np.array([self.abstain], np.bool_),
        }


def scope_of(
    features: np.ndarray, shares: np.ndarray, held: np.ndarray, boundary: int, false_alarms: float, abstain: bool
) -> Scope:
    """A scope from features [N,P] of train rows and of the development rows `held`.

    `shares` [N,K]: how much of a row belongs to each class; with several labels it is divided among them. `held` has at
    least `least_rows(false_alarms)` rows.
    """
    whitening, means = _classes(features.astype(float), shares[:, shares.any(axis=0)].astype(float))
    bare = Scope(boundary, whitening.astype(np.float32), means.astype(np.float32), 1.0, false_alarms, abstain)
    threshold = quantile(bare.distances(held), false_alarms)
    if not (threshold > 0 and math.isfinite(threshold)):
        raise InputError("out_of_scope: the development rows lie exactly on the train rows; hold out others")
    return Scope(boundary, bare.whitening, bare.means, threshold, false_alarms, abstain)


def _classes(features: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whitening [P,P] and the whitened means [K,P]."""
    means = shares.T @ features / shares.sum(axis=0)[:, None]
    covariance = shrunk_covariance(features - shares @ means)
    # row by row in memory: safetensors writes the bytes as they lie
    whitening = np.ascontiguousarray(np.linalg.inv(np.linalg.cholesky(covariance)).T)
    return whitening, means @ whitening


def shrunk_covariance(deviations: np.ndarray) -> np.ndarray:
    """Covariance [P,P] of deviations [N,P] from their means: (1-s) S + s m I (Ledoit & Wolf 2004, lemma 3.2-3.5)."""
    rows, width = deviations.shape
    sample = deviations.T @ deviations / rows
    mean = np.trace(sample) / width
    if not mean > 0:
        raise InputError("out_of_scope: the states of the rows of a class do not differ at all; add train rows")
    target = mean * np.eye(width)
    spread = np.square(sample - target).sum()
    noise = (np.square(np.square(deviations).sum(axis=1)).sum() / rows - np.square(sample).sum()) / rows
    shrinkage = max(min(1.0, noise / spread) if spread > 0 else 1.0, LEAST_SHRINKAGE)
    return np.asarray((1 - shrinkage) * sample + shrinkage * target)


def least_rows(false_alarms: float) -> int:
    """Development rows below which no threshold keeps the false alarms at this rate."""
    return max(1, math.ceil(1 / false_alarms - 1e-9) - 1)


def quantile(distances: np.ndarray, false_alarms: float) -> float:
    """The threshold that a new row like these exceeds with probability at most `false_alarms`.

    The ceil((n+1)(1-a))-th smallest of n, by the exchangeability of n+1 rows (Vovk et al. 2005, section 2.2).
    """
    if len(distances) < least_rows(false_alarms):
        raise ValueError(f"{len(distances)} rows are fewer than {least_rows(false_alarms)}, see least_rows")
    place = math.ceil((len(distances) + 1) * (1 - false_alarms) - 1e-9)
    return float(np.sort(distances)[place - 1])


def read_scope(path: Path, manifest: Manifest, width: int, blocks: int) -> Scope | None:
    """The scope of a graft folder, verified, for features of this width; None where the graft has none."""
    if SCOPE not in manifest.files:
        return None
    return _from_tensors(read_tensors(path, SCOPE, manifest), path / SCOPE, width, blocks, len(manifest.labels))


def _from_tensors(found: Mapping[str, np.ndarray], file: Path, width: int, blocks: int, labels: int) -> Scope:
    classes = len(found.get("means", ()))
    wanted = {
        "boundary": ((1,), "int32"),
        "whitening": ((width, width), "float32"),
        "means": ((max(classes, 1), width), "float32"),
        "threshold": ((1,), "float64"),
        "false_alarms": ((1,), "float64"),
        "abstain": ((1,), "bool"),
    }
    parts = {name: leaf for name, leaf in found.items() if not name.startswith("reference.")}
    have = {name: (leaf.shape, leaf.dtype.name) for name, leaf in parts.items()}
    if wrong := sorted(name for name in {*wanted, *have} if wanted.get(name) != have.get(name)):
        raise InputError(f"{file}: {', '.join(wrong)}: missing, unexpected or of another shape than the backbone's")
    boundary, threshold, false_alarms = (found[name][0].item() for name in ("boundary", "threshold", "false_alarms"))
    if not (0 <= boundary <= blocks and threshold > 0 and 0 < false_alarms < 1):
        raise InputError(f"{file}: boundary, threshold or false_alarms are out of their range")
    if not all(np.isfinite(leaf).all() for leaf in found.values()):
        raise InputError(f"{file}: values that are not finite")
    reference = None if len(parts) == len(found) else _reference(found, file, labels)
    whitening, means, abstain = found["whitening"], found["means"], bool(found["abstain"][0])
    return Scope(boundary, whitening, means, threshold, false_alarms, abstain, reference)


def _reference(found: Mapping[str, np.ndarray], file: Path, labels: int) -> Reference:
    given = {name.removeprefix("reference."): leaf for name, leaf in found.items() if name.startswith("reference.")}
    wanted: dict[str, Any] = {"label_counts": ((labels,), "int64")}
    for kind in ("length", "score"):
        bins = len(given.get(f"{kind}_counts", ()))
        wanted[f"{kind}_counts"] = ((max(bins, 1),), "int64")
        wanted[f"{kind}_edges"] = ((max(bins, 1) - 1,), "float64")
    have = {name: (leaf.shape, leaf.dtype.name) for name, leaf in given.items()}
    if wrong := sorted(name for name in {*wanted, *have} if wanted.get(name) != have.get(name)):
        raise InputError(f"{file}: reference.{wrong[0]}: missing, unexpected or of another shape than the bins")
    reference = Reference(**given)
    counts = (reference.length_counts, reference.score_counts, reference.label_counts)
    edges = (reference.length_edges, reference.score_edges)
    if any((part < 0).any() or part.sum() < 1 for part in counts) or any((np.diff(part) <= 0).any() for part in edges):
        raise InputError(f"{file}: reference: counts must be of some rows and edges must rise")
    return reference
