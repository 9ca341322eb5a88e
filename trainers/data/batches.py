"""Examples in memory, and batches of them that are assembled ahead of the device.

Each row runs in the bucket of its length. A batch with fewer rows than its size is filled with rows of weight zero,
so every batch of a bucket has one shape. Shape letters: `N` rows, `B` batch, `T` tokens, `D` width, `C` classes,
`P` values of a patch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NotRequired, SupportsIndex, TypedDict

import numpy as np

from backbone.buckets import TokenRow, bucket_of, pad
from backbone.meshes.layout import ONE, Layout
from trainers.data.order import Order

States = Callable[[Sequence[TokenRow], int], dict[int, np.ndarray]]  # (rows, bucket) to states by boundary


class Batch(TypedDict):
    """Arrays of one micro-batch."""

    ids: NotRequired[Any]  # token ids int32 [B,T] (see `backbone.buckets.pad`), unless `states` are given
    states: NotRequired[Any]  # states float32 [B,T,D] by boundary, from the boundary cache
    mask: Any  # places that hold a token, bool [B,T]
    labels: Any  # labels as the head encodes them: [B], [B,C], or [B,T] of tokens
    weights: Any  # weight of each row, float32 [B]: 1 for a row, 0 for filling


@dataclass(frozen=True)
class Examples:
    """Rows of one split as tokens, with their labels."""

    rows: list[TokenRow]  # token ids int32 [t] of each row, or of a pair (see `buckets`), or patches uint8 [T,P]
    labels: np.ndarray  # labels as the head encodes them: [N], [N,C], or [N,T] of tokens
    lengths: tuple[int, ...]  # lengths of the backbone's buckets
    fill: int = 0  # id of the padding token
    difficulty: np.ndarray | None = None  # difficulty of each row from a column of the data, float [N]
    labels_of_tokens: bool = False  # labels have an axis of tokens, which a batch cuts to its bucket

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def buckets(self) -> np.ndarray:
        """Returns the bucket of each row, int [N]."""
        return np.array([bucket_of(len(row), self.lengths) for row in self.rows], int)

    def gather(self, bucket: int, indices: np.ndarray, size: int, states: States | None = None) -> Batch:
        """Returns the rows `indices` as one batch of `size` rows padded to `bucket` tokens.

        With `states` the batch holds what it gives for the rows instead of their ids.
        """
        chosen = np.concatenate([indices, np.repeat(indices[:1], size - len(indices))])
        ids, mask = pad([self.rows[i] for i in chosen], bucket, self.fill)
        weights = (np.arange(size) < len(indices)).astype(np.float32)
        labels = self.labels[chosen]
        if self.labels_of_tokens:
            labels = labels[:, :bucket]
        batch = Batch(mask=mask, labels=labels, weights=weights)
        if states is None:
            return {**batch, "ids": ids}
        return {**batch, "states": states([self.rows[i] for i in chosen], bucket)}


def part_of(examples: Examples, indices: np.ndarray) -> Examples:
    """Returns the rows `indices` of a split."""
    difficulty = None if examples.difficulty is None else examples.difficulty[indices]
    return replace(
        examples, rows=[examples.rows[i] for i in indices], labels=examples.labels[indices], difficulty=difficulty
    )


class _BatchSource:
    """A source with random access to the batches of one epoch, for grain."""

    def __init__(self, examples: Examples, plan: Sequence[tuple[int, np.ndarray]], size: int, states: States | None):
        self._examples, self._plan, self._size, self._states = examples, plan, size, states

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: SupportsIndex) -> Batch:
        bucket, rows = self._plan[operator.index(index)]
        return self._examples.gather(bucket, rows, self._size, self._states)


def batches(
    examples: Examples,
    order: Order,
    epoch: int,
    first: int,
    threads: int,
    states: States | None = None,
    layout: Layout = ONE,
) -> Iterator[Batch]:
    """Yields the batches of an epoch from number `first` on, on the devices; threads assemble them ahead."""
    import grain

    source = _BatchSource(examples, order.epoch(epoch), order.batch_size, states)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    dataset = grain.MapDataset.source(source)[first:].to_iter_dataset(options)
    for batch in dataset:
        yield layout.batch(batch)
