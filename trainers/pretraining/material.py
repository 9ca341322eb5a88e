"""Everything that a run trains on, fixed before the first weight. Imports no jax.

Shapes: N rows, T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from backbone.network.encoder import Network
    from backbone.storage import Preprocessing
    from backbone.trees import Params

Split = Literal["train", "held_out"]
Batch = dict[str, Any]  # arrays by name; "weights" is 0 on rows that only fill a batch up


@dataclass(frozen=True)
class Material:
    """The rows of a run on the host, the network that reads them, and the facts that its objective needs."""

    network: Network
    preprocessing: Preprocessing
    family: str  # published layout of the network's weights
    fingerprint: dict[str, str]  # identity of the rows, which --resume compares
    splits: dict[Split, dict[str, np.ndarray]]  # arrays by name, with rows first; "ids" [N,T,...] among them
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

    def batch(self, split: Split, rows: np.ndarray, size: int) -> Batch:
        """Returns arrays on the host for these row numbers, filled up to `size` with rows of weight zero."""
        filled = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        weights = (np.arange(size) < len(rows)).astype(np.float32)
        return {**{name: array[filled] for name, array in self.splits[split].items()}, "weights": weights}
