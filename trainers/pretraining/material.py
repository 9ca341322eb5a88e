"""Everything that a run trains on, fixed before the first weight. Imports no jax.

Shapes: N rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from backbone.network.encoder import Network
    from backbone.storage import Preprocessing
    from backbone.trees import Params

Split = Literal["train", "held_out"]
Batch = dict[str, Any]  # arrays by name; "weights" is 0 on rows that only fill a batch up


class Rows(Protocol):
    """An array with rows first: a NumPy array in memory, or one that is read from disk by the numbers of its rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape; rows come first."""

    def __len__(self) -> int:
        """Returns the number of rows."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns a copy of the rows with these numbers, int [B]."""


@dataclass(frozen=True)
class Material:
    """The rows of a run, the network that reads them, and the facts that its objective needs."""

    network: Network
    preprocessing: Preprocessing
    family: str  # published layout of the network's weights
    fingerprint: dict[str, str]  # identity of the rows, which --resume compares
    splits: Mapping[Split, Mapping[str, Rows]]  # arrays by name, with rows first; "ids" [N,T,...] among them
    first_weights: Params | None = None  # weights that the run begins with; None: those of the start, or fresh ones
    labels: tuple[str, ...] = ()  # names of a classifier's outputs; text has none
    special: tuple[int, ...] = ()  # ids that no objective predicts: [CLS], [SEP], [PAD]; images have none
    mask_id: int | None = None  # id of the mask token, where the tokenizer has one
    train_tokens: int | None = None  # tokens of the training text, special ones not counted
    unigram_entropy: float | None = None  # entropy of the held-out tokens, nats: the best loss that sees no context

    @property
    def rows(self) -> dict[Split, int]:
        """Returns the number of rows of each split."""
        return {name: len(arrays["ids"]) for name, arrays in self.splits.items()}

    @property
    def tokens(self) -> int:
        """Returns T, the tokens of each row."""
        return int(self.splits["train"]["ids"].shape[1])

    def batch(self, split: Split, rows: np.ndarray, size: int, share: np.ndarray | None = None) -> Batch:
        """Returns arrays on the host for these row numbers, filled up to `size` with rows of weight zero.

        `share`, bool [size], says which places of the batch this process needs; the others are zero, and not read.
        """
        filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        weights = (np.arange(size) < len(rows)).astype(np.float32)
        arrays = {name: _placed(array, filled, share) for name, array in self.splits[split].items()}
        return {**arrays, "weights": weights}


def _placed(array: Rows, rows: np.ndarray, share: np.ndarray | None) -> np.ndarray:
    if share is None or share.all():
        return array[rows]
    part = array[rows[share]]
    whole = np.zeros((len(rows), *part.shape[1:]), part.dtype)
    whole[share] = part
    return whole


class FirstRows:
    """The first rows of an array that is read from disk."""

    def __init__(self, rows: Rows, count: int):
        self._rows, self._count = rows, count

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape; rows come first."""
        return (self._count, *self._rows.shape[1:])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self._rows[rows]


def first_rows(rows: Rows, count: int) -> Rows:
    """Returns the first `count` rows of an array, or all of them if it is 0."""
    return FirstRows(rows, count) if 0 < count < len(rows) else rows
