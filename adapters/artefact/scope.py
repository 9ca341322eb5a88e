"""How unlike the train rows an input is: the out-of-scope score of a graft. Imports no jax.

The squared Mahalanobis distance of the frozen backbone's pooled state, at unit length, to the nearest class of the
train rows, with one covariance for all classes (Lee et al. 2018, arXiv 1807.03888, equation 2), less `BACKGROUND` of
its squared distance to all train rows as one class (Ren et al. 2021, arXiv 2106.09022, equation 2, who take all of
it). Covariances are shrunk to a multiple of the identity (Ledoit & Wolf 2004). The score counts, from 1 at a threshold,
in standard deviations of the development rows' differences; the threshold is a quantile of these, so that a row like
those lies above it with at most the probability that was asked for. The trained adapter has no part in it: what it
does far from its rows was never trained. Shape letters: `N` rows, `P` width, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.manifest import SCOPE, Manifest
from adapters.artefact.read import read_tensors
from backbone.errors import InputError

# of the distance to all rows, taken off that to the nearest class; docs/decisions.md tells why not all of it
BACKGROUND = 0.8
MIN_SHRINKAGE = 1e-6  # so that directions in which nothing varies can be divided by
NUMBERS = ("boundary", "threshold", "spread", "false_alarms", "abstain")
MAX_BINS = 10  # of a reference
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
    bins = min(MAX_BINS, max(2, len(values) // ROWS_OF_A_BIN))
    edges = np.unique(np.quantile(values.astype(float), np.arange(1, bins) / bins))
    edges = edges[edges > values.min()]  # below the least there is nothing to count
    return edges, np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)


@dataclass(frozen=True)
class Scope:
    """What the score of a graft is computed from."""

    boundary: int  # of the bare backbone, whose pooled states are measured
    # float32 [P,P]: unit features @ whitening vary by 1 within a class, and without correlation over all rows
    whitening: np.ndarray
    means: np.ndarray  # float32 [K,P], of the classes, after whitening
    center: np.ndarray  # float32 [P], of all rows, after whitening
    variances: np.ndarray  # float32 [P], of all rows, after whitening
    threshold: float  # difference at a score of 1
    spread: float  # standard deviation of the development rows' differences
    false_alarms: float  # most of the rows in scope that lie above it
    abstain: bool  # no label is given above it
    reference: Reference | None = None  # of the development rows

    def differences(self, features: np.ndarray) -> np.ndarray:
        """Squared distance to the nearest class, less `BACKGROUND` of that to all rows: float [N] of features [N,P]."""
        return np.asarray(differences(features.astype(float), self.arrays()))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Out-of-scope score float [N]; above 1 beyond the threshold."""
        return np.asarray(self.scaled(self.differences(features)))

    def scaled(self, differences: Any) -> Any:
        """Scores of differences."""
        return 1 + (differences - self.threshold) / self.spread

    @property
    def width(self) -> int:
        """Of the pooled states."""
        return len(self.whitening)

    @property
    def bytes(self) -> int:
        """In memory."""
        return sum(part.nbytes for part in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """What a difference is computed from."""
        return {name: getattr(self, name) for name in ("whitening", "means", "center", "variances")}

    def tensors(self) -> dict[str, np.ndarray]:
        """For a file."""
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
    features: np.ndarray, shares: np.ndarray, held: np.ndarray, boundary: int, false_alarms: float, abstain: bool
) -> Scope:
    """A scope from features [N,P] of train rows and of the development rows `held`.

    `shares` [N,K]: how much of a row belongs to each class; with several labels it is divided among them. `held` has at
    least `min_rows(false_alarms)` rows.
    """
    parts = _fitted(unit(features.astype(float)), shares[:, shares.any(axis=0)].astype(float))
    bare = Scope(boundary, *parts, threshold=0.0, spread=1.0, false_alarms=false_alarms, abstain=abstain)
    found = bare.differences(held)
    threshold, spread = quantile(found, false_alarms), float(found.std())
    if not spread > 1e-9 * max(1.0, abs(threshold)):
        raise InputError("out_of_scope: the development rows do not differ from each other; hold out others")
    return replace(bare, threshold=threshold, spread=spread)


def differences(features: Any, arrays: Mapping[str, Any]) -> Any:
    """`Scope.differences` of features [N,P] by `Scope.arrays`, with the library of the features: NumPy or jax.numpy."""
    # from the center, so that float32 holds the squares
    x, means = unit(features) @ arrays["whitening"] - arrays["center"], arrays["means"] - arrays["center"]
    nearest = (x * x).sum(axis=1)[:, None] + (means * means).sum(axis=1) - 2 * x @ means.T
    return nearest.min(axis=1) - BACKGROUND * (x * x / arrays["variances"]).sum(axis=1)


def unit(features: Any) -> Any:
    """Features [N,P] at unit length; a row of zeros stays."""
    of = features.__array_namespace__()
    return features / of.maximum(of.linalg.vector_norm(features, axis=1, keepdims=True), 1e-12)


def _fitted(features: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Whitening, means of the classes, and center and variances of all rows, as of `Scope`."""
    from scipy.linalg import eigh

    means, center = shares.T @ features / shares.sum(axis=0)[:, None], features.mean(axis=0)
    within, over_all = shrunk_covariance(features - shares @ means), shrunk_covariance(features - center)
    variances, whitening = eigh(over_all, within)  # columns V: V' within V = 1, V' over_all V = diag(variances)
    found = (whitening, means @ whitening, center @ whitening, variances)
    # row by row in memory: safetensors writes the bytes as they lie
    whitening, means, center, variances = (np.ascontiguousarray(part, np.float32) for part in found)
    return whitening, means, center, variances


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
    shrinkage = max(min(1.0, noise / spread) if spread > 0 else 1.0, MIN_SHRINKAGE)
    return np.asarray((1 - shrinkage) * sample + shrinkage * target)


def min_rows(false_alarms: float) -> int:
    """Development rows below which no threshold keeps the false alarms at this rate."""
    return max(1, math.ceil(1 / false_alarms - 1e-9) - 1)


def quantile(differences: np.ndarray, false_alarms: float) -> float:
    """The threshold that a new row like these exceeds with probability at most `false_alarms`.

    The ceil((n+1)(1-a))-th smallest of n, by the exchangeability of n+1 rows (Vovk et al. 2005, section 2.2).
    """
    if len(differences) < min_rows(false_alarms):
        raise ValueError(f"{len(differences)} rows are fewer than {min_rows(false_alarms)}, see min_rows")
    place = math.ceil((len(differences) + 1) * (1 - false_alarms) - 1e-9)
    return float(np.sort(differences)[place - 1])


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
        "center": ((width,), "float32"),
        "variances": ((width,), "float32"),
        "threshold": ((1,), "float64"),
        "spread": ((1,), "float64"),
        "false_alarms": ((1,), "float64"),
        "abstain": ((1,), "bool"),
    }
    parts = {name: leaf for name, leaf in found.items() if not name.startswith("reference.")}
    have = {name: (leaf.shape, leaf.dtype.name) for name, leaf in parts.items()}
    if wrong := sorted(name for name in {*wanted, *have} if wanted.get(name) != have.get(name)):
        raise InputError(f"{file}: {', '.join(wrong)}: missing, unexpected or of another shape than the backbone's")
    numbers = {name: found[name][0].item() for name in NUMBERS}
    if not (0 <= numbers["boundary"] <= blocks and 0 < numbers["false_alarms"] < 1):
        raise InputError(f"{file}: boundary or false_alarms are out of their range")
    if not (numbers["spread"] > 0 and (found["variances"] > 0).all()):
        raise InputError(f"{file}: spread and variances must be above 0")
    if not all(np.isfinite(leaf).all() for leaf in found.values()):
        raise InputError(f"{file}: values that are not finite")
    reference = None if len(parts) == len(found) else _reference(found, file, labels)
    arrays: dict[str, Any] = {name: leaf for name, leaf in parts.items() if name not in NUMBERS}
    return Scope(**numbers, **arrays, reference=reference)


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
