"""The fixed list of lengths that inputs are padded to.

Every data set uses the same list. Compiled programs, cached hidden states and results therefore stay the same when
the data changes. A row always runs in the same bucket: the shortest length that holds it.

A row has one of three forms. It is token ids [t], or [t,2], ids with the segment of each token (a pair read as one). Or
it is `Sides`, two rows that are encoded apart and lie one after the other in a batch.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backbone.errors import InputError

LENGTHS = (8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


@dataclass(frozen=True, eq=False)
class Sides:
    """Two rows of token ids that are encoded apart, both in the bucket of the longer one."""

    first: np.ndarray
    second: np.ndarray

    def __len__(self) -> int:
        return max(len(self.first), len(self.second))


TokenRow: TypeAlias = np.ndarray | Sides


def sides_of(row: TokenRow) -> tuple[np.ndarray, ...]:
    """Returns the rows of tokens that are encoded for this one: itself, or both sides."""
    return (row.first, row.second) if isinstance(row, Sides) else (row,)


def tokens_of(row: TokenRow) -> np.ndarray:
    """Returns all token ids [t] of a row, without segments."""
    return np.concatenate([side[:, 0] if side.ndim == 2 else side for side in sides_of(row)])


def lengths_up_to(limit: int) -> tuple[int, ...]:
    """Returns the lengths below `limit` tokens, and `limit` itself as the last."""
    if limit < LENGTHS[0]:
        raise InputError(f"max_tokens: the shortest bucket is {LENGTHS[0]} tokens, got {limit}")
    return (*(length for length in LENGTHS if length < limit), limit)


def bucket_of(length: int, lengths: Sequence[int]) -> int:
    """Returns the shortest of `lengths` that holds `length` tokens. Raises InputError if none does."""
    place = bisect.bisect_left(lengths, length)
    if place == len(lengths):
        raise InputError(f"an input of {length} tokens exceeds the longest bucket, {lengths[-1]}")
    return lengths[place]


def pad(rows: Sequence[TokenRow], bucket: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 [B,T] padded with `fill`, and a mask bool [B,T] that is true on real tokens.

    Rows with segments give ids [B,T,2], with padding in segment 0. Rows of patches give pixels uint8 [B,T,P]. A number
    n of `Sides` gives 2 n rows, side by side.
    """
    flat = [side for row in rows for side in sides_of(row)]
    ids = np.full((len(flat), bucket), fill, np.int32)
    mask = np.zeros((len(flat), bucket), np.bool_)
    if flat and flat[0].dtype == np.uint8:
        ids = np.zeros((len(flat), bucket, flat[0].shape[1]), np.uint8)
    elif flat and flat[0].ndim == 2:
        ids = np.stack([ids, np.zeros_like(ids)], axis=-1)
    for i, row in enumerate(flat):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask
