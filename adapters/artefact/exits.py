"""Early exits of a graft: linear heads at lower boundaries, and when they may answer. Imports no jax.

An exit reads the mean of the graft's own hidden states at its boundary. Below the lowest adapted block those are the
states of the bare backbone, which every graft shares; above it the adapted ones, which the full answer passes through
anyway. A row is answered by the first exit whose largest probability reaches the threshold, one for all exits: it was
calibrated for all of them together (`trainers.extras.risk`), so they are used together or not at all.
Shape letters: `N` rows, `E` exits, `D` width, `C` labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.manifest import EXITS_FILE, Manifest
from adapters.artefact.read import read_tensors
from backbone.errors import InputError


@dataclass(frozen=True)
class Exits:
    """The heads below the full answer."""

    boundaries: tuple[int, ...]  # blocks below each exit, ascending
    kernels: np.ndarray  # float32 [E,D,C]
    biases: np.ndarray  # float32 [E,C]
    threshold: float  # least confidence of an early answer
    extra_error: float  # most of the rows that are right in full and wrong early ...
    confidence: float  # ... with this probability over draws of the calibration rows
    rows: int  # calibrated on
    losses: int  # of them, right in full and wrong early
    left: tuple[float, ...]  # share of them that took each exit

    def logits(self, number: int, pooled: np.ndarray) -> np.ndarray:
        """Logits float32 [N,C] of exit `number` from pooled states [N,D]."""
        return np.asarray(pooled @ self.kernels[number] + self.biases[number], np.float32)

    def confident(self, logits: np.ndarray) -> np.ndarray:
        """Whether each row of logits [N,C] is answered here, bool [N]."""
        return confidence(logits) >= self.threshold

    def answers(self, full: np.ndarray, pooled: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [N,C] of what answers each row, and its boundary int [N]: an exit's, or `depth`.

        `full` [N,C] are the logits of the whole, `pooled` [N,E D] the states at the exits side by side.
        """
        logits, place = full, np.full(len(full), depth)
        for number, features in reversed(list(enumerate(np.split(pooled, len(self.boundaries), axis=1)))):
            early = self.logits(number, features)
            leave = self.confident(early)
            logits, place = np.where(leave[:, None], early, logits), np.where(leave, self.boundaries[number], place)
        return logits, place

    def tensors(self) -> dict[str, np.ndarray]:
        """For a file."""
        return {
            "boundaries": np.array(self.boundaries, np.int32),
            "kernels": np.ascontiguousarray(self.kernels),
            "biases": np.ascontiguousarray(self.biases),
            "left": np.array(self.left, np.float64),
            "promise": np.array([self.threshold, self.extra_error, self.confidence], np.float64),
            "calibration": np.array([self.rows, self.losses], np.int64),
        }

    def facts(self) -> dict[str, Any]:
        """For people."""
        return {
            "boundaries": list(self.boundaries),
            "threshold": round(self.threshold, 5),
            "extra_error": self.extra_error,
            "confidence": self.confidence,
            "calibration_rows": self.rows,
            "calibration_losses": self.losses,
            "left_at_each": [round(share, 4) for share in self.left],
        }


def confidence(logits: np.ndarray) -> np.ndarray:
    """The largest probability float [N] of logits [N,C]."""
    shifted = logits.astype(float) - logits.max(axis=1, keepdims=True)
    return np.asarray(1 / np.exp(shifted).sum(axis=1))


def read_exits(path: Path, manifest: Manifest, width: int, blocks: int) -> Exits | None:
    """The exits of a graft folder, verified, for a backbone of this width and depth; None where it has none."""
    if EXITS_FILE not in manifest.files:
        return None
    return _from_tensors(
        read_tensors(path, EXITS_FILE, manifest), path / EXITS_FILE, width, blocks, len(manifest.labels)
    )


def _from_tensors(found: Mapping[str, np.ndarray], file: Path, width: int, blocks: int, labels: int) -> Exits:
    count = max(len(found.get("boundaries", ())), 1)
    wanted = {
        "boundaries": ((count,), "int32"),
        "kernels": ((count, width, labels), "float32"),
        "biases": ((count, labels), "float32"),
        "left": ((count,), "float64"),
        "promise": ((3,), "float64"),
        "calibration": ((2,), "int64"),
    }
    have = {name: (leaf.shape, leaf.dtype.name) for name, leaf in found.items()}
    if wrong := sorted(name for name in {*wanted, *have} if wanted.get(name) != have.get(name)):
        raise InputError(f"{file}: {', '.join(wrong)}: missing, unexpected or of another shape than the backbone's")
    if not all(np.isfinite(leaf).all() for leaf in found.values()):
        raise InputError(f"{file}: values that are not finite")
    boundaries = tuple(found["boundaries"].tolist())
    threshold, extra_error, sure = found["promise"].tolist()
    ascending = all(0 < low < high for low, high in zip((0, *boundaries), (*boundaries, blocks), strict=True) if low)
    if not (boundaries[0] > 0 and ascending and 0 <= threshold <= 1 and 0 < extra_error < 1 and 0 < sure < 1):
        raise InputError(f"{file}: boundaries, threshold, extra_error or confidence are out of their range")
    rows, losses = found["calibration"].tolist()
    left = tuple(found["left"].tolist())
    kernels, biases = found["kernels"], found["biases"]
    return Exits(boundaries, kernels, biases, threshold, extra_error, sure, rows, losses, left)
