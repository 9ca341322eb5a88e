"""Examples in memory and the order in which they are seen.

An epoch's batches are a pure function of (seed, epoch): each row runs in its own length bucket, the
rows of a bucket are shuffled and cut into batches, and the batches are shuffled. A last batch of a
bucket is filled up with rows of weight zero, so every batch of a bucket has one shape. Any step of
any epoch can be found again without replaying what came before.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex, TypedDict

import jax
import numpy as np

from backbone.buckets import bucket_of, pad


class Batch(TypedDict):
    """Arrays of one micro-batch."""

    ids: Any  # int32 [B,T]
    mask: Any  # bool [B,T]
    labels: Any  # int32 [B] or float32 [B,C]
    weights: Any  # float32 [B]: 1 for a row, 0 for filling


@dataclass(frozen=True)
class Examples:
    """Tokenised rows of one split."""

    rows: list[np.ndarray]  # token ids, int32 [t] each
    labels: np.ndarray  # int32 [N] or float32 [N,C]
    ladder: tuple[int, ...]  # of the backbone
    fill: int = 0  # id of the padding token

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def buckets(self) -> np.ndarray:
        """The bucket of each row, int [N]."""
        return np.array([bucket_of(len(row), self.ladder) for row in self.rows], int)

    def gather(self, bucket: int, indices: np.ndarray, size: int) -> Batch:
        """The rows `indices` as one batch of `size` rows padded to `bucket` tokens."""
        chosen = np.concatenate([indices, np.repeat(indices[:1], size - len(indices))])
        ids, mask = pad([self.rows[i] for i in chosen], bucket, self.fill)
        weights = (np.arange(size) < len(indices)).astype(np.float32)
        return Batch(ids=ids, mask=mask, labels=self.labels[chosen], weights=weights)


@dataclass(frozen=True)
class Order:
    """Which rows make up which batch."""

    buckets: np.ndarray  # of each row, int [N]
    batch_size: int
    seed: int

    @cached_property
    def batches_per_epoch(self) -> int:
        """The same for every epoch."""
        return sum(-(-int(n) // self.batch_size) for n in np.unique(self.buckets, return_counts=True)[1])

    def epoch(self, number: int) -> list[tuple[int, np.ndarray]]:
        """(bucket, row indices) of each batch of epoch `number`, in order."""
        draw = np.random.default_rng([self.seed, number])
        batches = []
        for bucket in np.unique(self.buckets):
            rows = draw.permutation(np.flatnonzero(self.buckets == bucket))
            batches += [(int(bucket), rows[i : i + self.batch_size]) for i in range(0, len(rows), self.batch_size)]
        return [batches[i] for i in draw.permutation(len(batches))]


class _BatchSource:
    """Random access to the batches of one epoch, for grain."""

    def __init__(self, examples: Examples, plan: Sequence[tuple[int, np.ndarray]], size: int):
        self._examples, self._plan, self._size = examples, plan, size

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: SupportsIndex) -> Batch:
        bucket, rows = self._plan[operator.index(index)]
        return self._examples.gather(bucket, rows, self._size)


def batches(examples: Examples, order: Order, epoch: int, first: int, threads: int) -> Iterator[Batch]:
    """The batches of an epoch from number `first` on, on the device, assembled ahead by threads."""
    import grain

    source = _BatchSource(examples, order.epoch(epoch), order.batch_size)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    dataset = grain.MapDataset.source(source)[first:].to_iter_dataset(options)
    for batch in dataset:
        yield jax.device_put(batch)
