"""The fixed ladder of lengths that inputs are padded to.

One ladder for every data set, so that compiled programs, cached hidden states and results do not
move when the data does. A row always runs in the same bucket: the least rung that holds it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from backbone.errors import InputError

LADDER = (8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


def ladder_up_to(limit: int) -> tuple[int, ...]:
    """The rungs that do not exceed `limit` tokens, and `limit` itself as the last."""
    if limit < LADDER[0]:
        raise InputError(f"max_tokens: the shortest bucket is {LADDER[0]} tokens, got {limit}")
    return (*(rung for rung in LADDER if rung < limit), limit)


def bucket_of(length: int, ladder: Sequence[int]) -> int:
    """The least rung of `ladder` that holds `length` tokens."""
    place = bisect.bisect_left(ladder, length)
    if place == len(ladder):
        raise InputError(f"an input of {length} tokens exceeds the longest bucket, {ladder[-1]}")
    return ladder[place]


def pad(rows: Sequence[np.ndarray], bucket: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 [B, T] padded with `fill`, and mask bool [B, T] that is true on real tokens.

    Rows of patches give pixels uint8 [B, T, P].
    """
    ids = np.full((len(rows), bucket), fill, np.int32)
    if len(rows) and rows[0].dtype == np.uint8:
        ids = np.zeros((len(rows), bucket, rows[0].shape[1]), np.uint8)
    mask = np.zeros((len(rows), bucket), np.bool_)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask
