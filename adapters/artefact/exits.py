"""Early exits of a graft: linear heads at lower boundaries, and the rule when they may answer. Imports no jax.

An exit reads the mean of the graft's hidden states at its boundary. Up to the lowest adapted block these are the
states of the bare backbone, which every graft shares. Above it they are the adapted states, which the full answer
passes through anyway. The first exit whose confidence reaches the threshold answers a row. Confidence is the head's:
the largest probability of one label, or that of the most doubtful decision where each label is decided by itself. All
exits share one threshold, calibrated for all of them together (`trainers.scoring.risk`): they are used together or not
at all.
Shape letters: `N` rows, `E` exits, `D` width, `C` labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.manifest import EXITS_FILE, Manifest
from adapters.artefact.read import misfits, read_tensors
from adapters.specs import Classification, Head
from backbone.errors import InputError


@dataclass(frozen=True)
class Exits:
    """The heads below the full answer."""

    boundaries: tuple[int, ...]  # boundary of each exit, ascending
    kernels: np.ndarray  # weights of the exits' heads, float32 [E,D,C]
    biases: np.ndarray  # biases of the exits' heads, float32 [E,C]
    threshold: float  # smallest confidence of an early answer
    extra_error: float  # bound on the share of rows that an exit answers worse than full depth
    confidence: float  # probability, over draws of the calibration rows, that the bound holds
    rows: int  # number of calibration rows
    losses: int  # calibration rows that an exit answers worse than full depth
    left: tuple[float, ...]  # share of the calibration rows that each exit answers
    head: Head = field(default_factory=Classification)  # head of the graft, which knows how sure an answer is

    def logits(self, number: int, pooled: np.ndarray) -> np.ndarray:
        """Returns logits float32 [N,C] of exit `number` from pooled states [N,D]."""
        # `@` wakes the threads of the host's library for each batch, beside those of the device
        product = np.einsum("nd,dc->nc", pooled, self.kernels[number])
        return np.asarray(product + self.biases[number], np.float32)

    def confident(self, logits: np.ndarray) -> np.ndarray:
        """Returns whether the exit answers each row of logits [N,C], bool [N]."""
        return self.head.confidence(logits) >= self.threshold

    def answers(self, full: np.ndarray, pooled: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits float32 [N,C] that answer each row, and their boundary int [N]: an exit's, or `depth`.

        `full` [N,C] are the logits of full depth, `pooled` [N,E D] the pooled states at the exits, side by side.
        """
        logits, place = full, np.full(len(full), depth)
        for number, features in reversed(list(enumerate(np.split(pooled, len(self.boundaries), axis=1)))):
            early = self.logits(number, features)
            leave = self.confident(early)
            logits, place = np.where(leave[:, None], early, logits), np.where(leave, self.boundaries[number], place)
        return logits, place

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns the arrays of `exits.safetensors`."""
        return {
            "boundaries": np.array(self.boundaries, np.int32),
            "kernels": np.ascontiguousarray(self.kernels),
            "biases": np.ascontiguousarray(self.biases),
            "left": np.array(self.left, np.float64),
            "promise": np.array([self.threshold, self.extra_error, self.confidence], np.float64),
            "calibration": np.array([self.rows, self.losses], np.int64),
        }

    def facts(self) -> dict[str, Any]:
        """Returns the facts that `inspect` and `train --json` print."""
        return {
            "boundaries": list(self.boundaries),
            "threshold": round(self.threshold, 5),
            "extra_error": self.extra_error,
            "confidence": self.confidence,
            "calibration_rows": self.rows,
            "calibration_losses": self.losses,
            "left_at_each": [round(share, 4) for share in self.left],
        }


def read_exits(path: Path, manifest: Manifest, width: int, blocks: int) -> Exits | None:
    """Returns a graft folder's verified exits, for a backbone of this width and depth; None if it has none."""
    if EXITS_FILE not in manifest.files:
        return None
    tensors = read_tensors(path, EXITS_FILE, manifest)
    exits = _from_tensors(tensors, path / EXITS_FILE, width, blocks, len(manifest.labels))
    return replace(exits, head=manifest.head)


def _from_tensors(tensors: Mapping[str, np.ndarray], file: Path, width: int, blocks: int, labels: int) -> Exits:
    count = max(len(tensors.get("boundaries", ())), 1)
    expected = {
        "boundaries": ((count,), "int32"),
        "kernels": ((count, width, labels), "float32"),
        "biases": ((count, labels), "float32"),
        "left": ((count,), "float64"),
        "promise": ((3,), "float64"),
        "calibration": ((2,), "int64"),
    }
    if wrong := misfits(tensors, expected):
        raise InputError(f"{file}: {', '.join(wrong)}: missing, unexpected or of another shape than the backbone's")
    if not all(np.isfinite(leaf).all() for leaf in tensors.values()):
        raise InputError(f"{file}: values that are not finite")
    boundaries = tuple(tensors["boundaries"].tolist())
    threshold, extra_error, sure = tensors["promise"].tolist()
    ascending = all(0 < low < high for low, high in zip((0, *boundaries), (*boundaries, blocks), strict=True) if low)
    if not (boundaries[0] > 0 and ascending and 0 <= threshold <= 1 and 0 < extra_error < 1 and 0 < sure < 1):
        raise InputError(f"{file}: boundaries, threshold, extra_error or confidence are out of their range")
    rows, losses = tensors["calibration"].tolist()
    left = tuple(tensors["left"].tolist())
    kernels, biases = tensors["kernels"], tensors["biases"]
    return Exits(boundaries, kernels, biases, threshold, extra_error, sure, rows, losses, left)
