"""The order in which a run sees its rows: the rows that are open at a time, and their batches.

Everything is a pure function of (seed, epoch), so any batch of any epoch can be made again. Each row runs in the
bucket of its length. A bucket's rows are cut into batches as they are drawn, so a batch holds only rows that were
open when it was drawn. `N` is the number of rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from backbone.buckets import TokenRow, tokens_of
from trainers.config import Curriculum

PARTS = 10  # parts of an epoch; competence is constant inside a part


def competence(time: float, curriculum: Curriculum) -> float:
    """Returns the share of the rows that is open at `time` (0..1 of the run).

    Source: Platanios et al. 2019.
    """
    t = min(1.0, time / curriculum.duration)
    if curriculum.pacing == "linear":
        return min(1.0, curriculum.start + (1 - curriculum.start) * t)
    return min(1.0, math.sqrt(t * (1 - curriculum.start**2) + curriculum.start**2))


def length_difficulty(rows: Sequence[TokenRow]) -> np.ndarray:
    """Returns the number of tokens of each row, float64 [N]."""
    return np.array([len(row) for row in rows], float)


def rarity_difficulty(rows: Sequence[TokenRow]) -> np.ndarray:
    """Returns the sum of -log p over each row's tokens, float64 [N]; p is estimated on these rows.

    Source: Platanios et al. 2019, equation 4.
    """
    ids = [tokens_of(row) for row in rows]
    tokens = np.concatenate(ids)
    surprise = -np.log(np.maximum(np.bincount(tokens), 1) / len(tokens))
    return np.array([surprise[row].sum() for row in ids])


@dataclass(frozen=True, eq=False)
class Order:
    """The rows of every batch of a run. Batches are counted over the whole run."""

    buckets: np.ndarray  # bucket of each row, int [N]
    batch_size: int  # rows of a batch
    seed: int  # random seed of the order
    epochs: float = 1.0  # passes over the rows; may be a fraction
    curriculum: Curriculum = field(default_factory=Curriculum)  # pacing
    difficulty: np.ndarray | None = None  # difficulty of each row, float [N]; None: every row is open

    @cached_property
    def _rank(self) -> np.ndarray | None:
        """Returns the row numbers from easy to hard, ties by row number; None if every row is open."""
        if self.difficulty is None:
            return None
        if self.curriculum.control:
            return np.random.default_rng([self.seed, 2**31]).permutation(len(self.buckets))
        return np.argsort(self.difficulty, kind="stable")

    def _drawn(self, epoch: int, draw: np.random.Generator) -> np.ndarray:
        """Returns the row numbers of an epoch in the order in which they are drawn."""
        count = len(self.buckets)
        total = max(1, round(count * self.curriculum.subset))  # rows of the epoch
        if self._rank is None:
            return draw.permutation(count)[:total]
        chosen = []
        for part in range(PARTS):
            size = total * (part + 1) // PARTS - total * part // PARTS
            share = competence((epoch + part / PARTS) / self.epochs, self.curriculum)
            eligible = self._rank[: max(1, round(share * count))]
            while size > 0:  # the open rows are drawn again if they are fewer than the part needs
                taken = draw.permutation(eligible)[:size]
                chosen.append(taken)
                size -= len(taken)
        return np.concatenate(chosen)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - an Order lives as long as its run
    def epoch(self, number: int) -> list[tuple[int, np.ndarray]]:
        """Returns the bucket and the row numbers of each batch of epoch `number`, in order."""
        draw = np.random.default_rng([self.seed, number])
        if self._rank is None and self.curriculum.subset == 1:
            whole = []
            for bucket in np.unique(self.buckets):
                rows = draw.permutation(np.flatnonzero(self.buckets == bucket))
                whole += [(int(bucket), rows[i : i + self.batch_size]) for i in range(0, len(rows), self.batch_size)]
            return [whole[i] for i in draw.permutation(len(whole))]
        rows = self._drawn(number, draw)
        buckets = self.buckets[rows]
        batches, positions = [], []
        for bucket in np.unique(buckets):
            places = np.flatnonzero(buckets == bucket)
            for first in range(0, len(places), self.batch_size):
                chosen = places[first : first + self.batch_size]
                batches.append((int(bucket), rows[chosen]))
                positions.append(int(chosen[-1]))
        if self._rank is None:
            order = draw.permutation(len(batches))
        else:  # a batch runs when its last row has been drawn
            order = np.argsort(positions, kind="stable")
        return [batches[i] for i in order]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Returns the number of batches done at the end of each epoch; the last is the end of the run."""
        whole, part = int(self.epochs + 1e-9), self.epochs - int(self.epochs + 1e-9)
        ends, total = [], 0
        for number in range(whole):
            total += self._length(number)
            ends.append(total)
        if part > 1e-9:
            ends.append(total + max(1, math.ceil(part * self._length(whole) - 1e-9)))
        return tuple(ends)

    def _length(self, number: int) -> int:
        """Returns the number of batches of an epoch."""
        if self._rank is None and self.curriculum.subset == 1:  # the same in every epoch
            counts = np.unique(self.buckets, return_counts=True)[1]
            return int(sum(-(-int(n) // self.batch_size) for n in counts))
        return len(self.epoch(number))

    def place(self, done: int) -> tuple[int, int]:
        """Returns the epoch of the batch that follows `done` batches, and its number in that epoch."""
        epoch = next((i for i, end in enumerate(self.ends) if done < end), len(self.ends) - 1)
        return epoch, done - (self.ends[epoch - 1] if epoch else 0)


Difficulty = Callable[[Sequence[TokenRow]], np.ndarray]  # rows to their difficulty, float64 [N]
BY_TOKENS: dict[str, Difficulty] = {"length": length_difficulty, "rarity": rarity_difficulty}
