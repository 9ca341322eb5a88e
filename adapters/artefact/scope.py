"""The out-of-scope score of a graft: a measure of how unlike the train rows an input is. Imports no jax.

Two squared Mahalanobis distances of the frozen backbone's pooled state, at unit length, are compared. The first is
the distance to the nearest class of the train rows, with one covariance for all classes (Lee et al. 2018, arXiv
1807.03888, equation 2). The second is the distance to all train rows as one class (Ren et al. 2021, arXiv 2106.09022,
equation 2). The first less `BACKGROUND` of the second is the difference (Ren et al. subtract all of it). Covariances
are shrunk to a multiple of the identity (Ledoit & Wolf 2004).

The score is 1 at a threshold and counts from there in standard deviations of the development rows' differences. The
threshold is a quantile of these differences: a row like the development rows exceeds it with at most the requested
probability. The score ignores the trained adapter, whose states far from its train rows were never trained.
Shape letters: `N` rows, `P` width, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.manifest import SCOPE, Manifest
from adapters.artefact.read import misfits, read_tensors
from backbone.errors import InputError

# share of the distance to all rows that is subtracted from the distance to the nearest class; see docs/decisions.md
BACKGROUND = 0.8
MIN_SHRINKAGE = 1e-6  # smallest shrinkage, so that directions in which nothing varies keep a variance above zero
NUMBERS = ("boundary", "threshold", "spread", "false_alarms", "abstain")
MAX_BINS = 10  # largest number of bins of a reference
ROWS_OF_A_BIN = 20  # smallest number of development rows in a bin


@dataclass(frozen=True)
class Reference:
    """Counts of the development rows in bins: the reference from which drift of traffic is measured.

    Each bin holds about the same number of rows; a value at an edge belongs to the bin above.
    """

    length_edges: np.ndarray  # edges in tokens, float64 [B-1]
    length_counts: np.ndarray  # rows by length, int64 [B]
    score_edges: np.ndarray  # edges in out-of-scope scores, float64 [B-1]
    score_counts: np.ndarray  # rows by score, int64 [B]
    label_counts: np.ndarray  # rows by their most probable label, int64 [C]


def reference_of(lengths: np.ndarray, scores: np.ndarray, predicted: np.ndarray, labels: int) -> Reference:
    """Returns the reference of development rows: lengths in tokens [N], scores [N], most probable labels [N]."""
    (length_edges, length_counts), (score_edges, score_counts) = _binned(lengths), _binned(scores)
    counts = np.bincount(predicted, minlength=labels).astype(np.int64)
    return Reference(length_edges, length_counts, score_edges, score_counts, counts)


def _binned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bins = min(MAX_BINS, max(2, len(values) // ROWS_OF_A_BIN))
    edges = np.unique(np.quantile(values.astype(float), np.arange(1, bins) / bins))
    edges = edges[edges > values.min()]  # a bin below the smallest value would be empty
    return edges, np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)


@dataclass(frozen=True)
class Scope:
    """The numbers from which a graft's score is computed."""

    boundary: int  # boundary of the bare backbone whose pooled states are measured
    whitening: np.ndarray  # float32 [P,P]; features @ whitening: variance 1 within a class, uncorrelated over all rows
    means: np.ndarray  # means of the classes after whitening, float32 [K,P]
    center: np.ndarray  # mean of all rows after whitening, float32 [P]
    variances: np.ndarray  # variances of all rows after whitening, float32 [P]
    threshold: float  # difference at a score of 1
    spread: float  # standard deviation of the development rows' differences
    false_alarms: float  # largest share of the rows in scope that scores above 1
    abstain: bool  # no label is given at a score above 1
    reference: Reference | None = None  # counts of the development rows

    def differences(self, features: np.ndarray) -> np.ndarray:
        """Returns the differences float [N] of features [N,P].

        Each is the squared distance to the nearest class, less `BACKGROUND` of the squared distance to all rows.
        """
        return np.asarray(differences(features.astype(float), self.arrays()))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns out-of-scope scores float [N]; above 1 beyond the threshold."""
        return np.asarray(self.scaled(self.differences(features)))

    def scaled(self, differences: Any) -> Any:
        """Returns the scores of differences."""
        return 1 + (differences - self.threshold) / self.spread

    @property
    def width(self) -> int:
        """Returns the width P of the pooled states."""
        return len(self.whitening)

    @property
    def bytes(self) -> int:
        """Returns the bytes of the arrays in memory."""
        return sum(part.nbytes for part in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays from which a difference is computed."""
        return {name: getattr(self, name) for name in ("whitening", "means", "center", "variances")}

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns the arrays of `scope.safetensors`."""
        reference = {} if self.reference is None else {f"reference.{k}": v for k, v in vars(self.reference).items()}
        return {
            **reference,
            **self.arrays(),
            "boundary": np.array([self.boundary], np.int32),
            "threshold": np.array([self.threshold], np.float64),
            "spread": np.array([self.spread], np.float64),
            "false_alarms": np.array([self.false_alarms], np.float64),
            "abstain": np.array([self.abstain], np.bool_),
        }


def scope_of(
    features: np.ndarray, shares: np.ndarray, dev: np.ndarray, boundary: int, false_alarms: float, abstain: bool
) -> Scope:
    """Returns a scope from features [N,P] of train rows, and features `dev` of development rows.

    `shares` [N,K] says how much of a row belongs to each class; a row with several labels is divided among them. `dev`
    has at least `min_rows(false_alarms)` rows.
    """
    parts = _fitted(unit(features.astype(float)), shares[:, shares.any(axis=0)].astype(float))
    bare = Scope(boundary, *parts, threshold=0.0, spread=1.0, false_alarms=false_alarms, abstain=abstain)
    distances = bare.differences(dev)
    threshold, spread = quantile(distances, false_alarms), float(distances.std())
    if not spread > 1e-9 * max(1.0, abs(threshold)):
        raise InputError("out_of_scope: the development rows do not differ from each other; hold out others")
    return replace(bare, threshold=threshold, spread=spread)


def differences(features: Any, arrays: Mapping[str, Any]) -> Any:
    """Computes `Scope.differences` of features [N,P] from `Scope.arrays`, with the features' library (NumPy or jax)."""
    # from the center, so that float32 holds the squares
    x, means = unit(features) @ arrays["whitening"] - arrays["center"], arrays["means"] - arrays["center"]
    nearest = (x * x).sum(axis=1)[:, None] + (means * means).sum(axis=1) - 2 * x @ means.T
    return nearest.min(axis=1) - BACKGROUND * (x * x / arrays["variances"]).sum(axis=1)


def unit(features: Any) -> Any:
    """Returns features [N,P] at unit length; a row of zeros stays."""
    library = features.__array_namespace__()
    return features / library.maximum(library.linalg.vector_norm(features, axis=1, keepdims=True), 1e-12)


def _fitted(features: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns `Scope`'s whitening, means of the classes, and center and variances of all rows."""
    from scipy.linalg import eigh

    means, center = shares.T @ features / shares.sum(axis=0)[:, None], features.mean(axis=0)
    within, over_all = shrunk_covariance(features - shares @ means), shrunk_covariance(features - center)
    variances, whitening = eigh(over_all, within)  # columns V: V' within V = 1, V' over_all V = diag(variances)
    parts = (whitening, means @ whitening, center @ whitening, variances)
    # row by row in memory: safetensors writes the bytes as they lie
    whitening, means, center, variances = (np.ascontiguousarray(part, np.float32) for part in parts)
    return whitening, means, center, variances


def shrunk_covariance(deviations: np.ndarray) -> np.ndarray:
    """Returns the covariance (1-s) S + s m I [P,P] of deviations [N,P].

    Source: Ledoit & Wolf 2004, lemmas 3.2 to 3.5.
    """
    rows, width = deviations.shape
    sample = deviations.T @ deviations / rows
    mean = np.trace(sample) / width
    if not mean > 0:
        raise InputError("out_of_scope: the states of the rows of a class do not differ at all; add train rows")
    target = mean * np.eye(width)
    spread = np.square(sample - target).sum()
    noise = (np.square(np.square(deviations).sum(axis=1)).sum() / rows - np.square(sample).sum()) / rows
    shrinkage = max(min(1.0, noise / spread) if spread > 0 else 1.0, MIN_SHRINKAGE)
    return np.asarray((1 - shrinkage) * sample + shrinkage * target)


def min_rows(false_alarms: float) -> int:
    """Returns the number of development rows below which no threshold keeps the false alarms at this rate."""
    return max(1, math.ceil(1 / false_alarms - 1e-9) - 1)


def quantile(differences: np.ndarray, false_alarms: float) -> float:
    """Returns the threshold that a new row like these exceeds with probability at most `false_alarms`.

    It is the ceil((n+1)(1-a))-th smallest of n, by the exchangeability of n+1 rows (Vovk et al. 2005, section 2.2).
    """
    if len(differences) < min_rows(false_alarms):
        raise ValueError(f"{len(differences)} rows are fewer than {min_rows(false_alarms)}, see min_rows")
    place = math.ceil((len(differences) + 1) * (1 - false_alarms) - 1e-9)
    return float(np.sort(differences)[place - 1])


def read_scope(path: Path, manifest: Manifest, width: int, blocks: int) -> Scope | None:
    """Returns the verified scope of a graft folder, for features of this width; None if it has none."""
    if SCOPE not in manifest.files:
        return None
    return _from_tensors(read_tensors(path, SCOPE, manifest), path / SCOPE, width, blocks, len(manifest.labels))


def _from_tensors(tensors: Mapping[str, np.ndarray], file: Path, width: int, blocks: int, labels: int) -> Scope:
    classes = len(tensors.get("means", ()))
    expected = {
        "boundary": ((1,), "int32"),
        "whitening": ((width, width), "float32"),
        "means": ((max(classes, 1), width), "float32"),
        "center": ((width,), "float32"),
        "variances": ((width,), "float32"),
        "threshold": ((1,), "float64"),
        "spread": ((1,), "float64"),
        "false_alarms": ((1,), "float64"),
        "abstain": ((1,), "bool"),
    }
    parts = {name: leaf for name, leaf in tensors.items() if not name.startswith("reference.")}
    if wrong := misfits(parts, expected):
        raise InputError(f"{file}: {', '.join(wrong)}: missing, unexpected or of another shape than the backbone's")
    numbers = {name: tensors[name][0].item() for name in NUMBERS}
    if not (0 <= numbers["boundary"] <= blocks and 0 < numbers["false_alarms"] < 1):
        raise InputError(f"{file}: boundary or false_alarms are out of their range")
    if not (numbers["spread"] > 0 and (tensors["variances"] > 0).all()):
        raise InputError(f"{file}: spread and variances must be above 0")
    if not all(np.isfinite(leaf).all() for leaf in tensors.values()):
        raise InputError(f"{file}: values that are not finite")
    reference = None if len(parts) == len(tensors) else _reference(tensors, file, labels)
    arrays: dict[str, Any] = {name: leaf for name, leaf in parts.items() if name not in NUMBERS}
    return Scope(**numbers, **arrays, reference=reference)


def _reference(tensors: Mapping[str, np.ndarray], file: Path, labels: int) -> Reference:
    parts = {name.removeprefix("reference."): leaf for name, leaf in tensors.items() if name.startswith("reference.")}
    expected: dict[str, tuple[tuple[int, ...], str]] = {"label_counts": ((labels,), "int64")}
    for kind in ("length", "score"):
        bins = len(parts.get(f"{kind}_counts", ()))
        expected[f"{kind}_counts"] = ((max(bins, 1),), "int64")
        expected[f"{kind}_edges"] = ((max(bins, 1) - 1,), "float64")
    if wrong := misfits(parts, expected):
        raise InputError(f"{file}: reference.{wrong[0]}: missing, unexpected or of another shape than the bins")
    reference = Reference(**parts)
    counts = (reference.length_counts, reference.score_counts, reference.label_counts)
    edges = (reference.length_edges, reference.score_edges)
    if any((part < 0).any() or part.sum() < 1 for part in counts) or any((np.diff(part) <= 0).any() for part in edges):
        raise InputError(f"{file}: reference: counts must hold at least one row, and edges must ascend")
    return reference
