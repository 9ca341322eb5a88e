"""The base of subsets: which of the train rows a run learns from, and why each one.

A method ranks the rows of one group, which are those of one label where each row has one. `balance` says how many rows
each group gets. Subsets are part of a config, so this file imports no jax. Shape letters: `N` train rows, `M` rows of a
group, `K` chosen rows, `D` width of pooled states, `C` labels.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self, TypeAlias

import numpy as np

from backbone.errors import InputError
from backbone.variants.registered import Registered

Balance: TypeAlias = Literal["share", "equal"]


class RowFacts(Protocol):
    """The facts about the train rows that methods read; each is computed when it is first read."""

    @property
    def keys(self) -> Sequence[bytes]:
        """Returns the key of each row's tokens; rows with the same tokens share it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the labels, in the order of the probabilities."""

    @property
    def states(self) -> np.ndarray:
        """Returns pooled last states float32 [N,D], less their mean, each of length one."""

    @property
    def probabilities(self) -> np.ndarray:
        """Returns probabilities float32 [N,C] by a probe that has not seen the row."""

    @property
    def forgetting(self) -> np.ndarray:
        """Returns how often a linear head forgot each row, int [N]; -1 where it never learned it."""


@dataclass(frozen=True)
class Chosen:
    """The rows of one group that a method chooses, in the order of its choice."""

    numbers: np.ndarray  # row numbers int [K]
    reasons: tuple[str, ...]  # reason of each row


class Subset(Registered, by="method", folder="trainers.subsets", needs=("choose",)):
    """A part of the train rows; a share of 1 takes all of them, by every method."""

    reads_labels: ClassVar[bool] = False  # the method doubts or learns labels, so each row must have one
    reads_seed: ClassVar[bool] = True  # another seed may choose other rows

    share: float  # share of the train rows that a run learns from
    balance: Balance  # how the rows are divided among the labels
    near: float  # cosine from which a row of the same label is left out as a near-duplicate; 0 = none is
    seed: int  # random seed of the choice

    @property
    def is_whole(self) -> bool:
        """Returns whether every row is taken."""
        return self.share == 1 and not self.near

    def choose(self, rows: RowFacts, members: np.ndarray, count: int) -> Chosen:
        """Returns `count` of the rows `members`, int [M], of one group."""
        raise NotImplementedError

    @classmethod
    def example(cls) -> Self:
        """Returns settings for the test suite of all methods; the default ones."""
        return cls()


@dataclass(frozen=True)
class ShareOfRows(Subset):
    """The settings of every method that comes with Topgraft."""

    share: float = 1.0  # share of the train rows that a run learns from
    balance: Balance = "share"  # labels keep their shares, or get equal numbers of rows where they have as many
    near: float = 0.0  # cosine from which a row of the same label is left out as a near-duplicate; 0 = none is
    seed: int = 0  # random seed of the choice

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share: must lie in (0, 1], got {self.share:g}")
        if not 0 <= self.near <= 1:
            raise InputError(f"near: a cosine from 0 to 1, got {self.near:g}; 0 leaves no near-duplicate out")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: must lie in 0..{2**32 - 1}, got {self.seed}")


def quotas(sizes: Sequence[int], available: Sequence[int], count: int, balance: Balance) -> list[int]:
    """Returns how many of `count` rows each group gets, by Sainte-Lague's divisors; no more than are available.

    Each group gets one row first, so that every label stays. `sizes` are the rows of each group in the data. Raises
    InputError if the rows are fewer than the groups.
    """
    left = min(count, sum(available))
    if left < len(sizes):
        raise InputError(
            f"subset.share: {left} rows are fewer than the {len(sizes)} labels, each of which needs one; raise it"
        )
    weights = [float(size) if balance == "share" else 1.0 for size in sizes]
    shares = [1] * len(sizes)
    queue = [(-weight / 3, group) for group, weight in enumerate(weights)]
    heapq.heapify(queue)
    for _ in range(left - len(sizes)):
        while shares[queue[0][1]] >= available[queue[0][1]]:
            heapq.heappop(queue)
        group = queue[0][1]
        shares[group] += 1
        heapq.heapreplace(queue, (-weights[group] / (2 * shares[group] + 1), group))
    return shares
