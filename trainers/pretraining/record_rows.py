"""Rows in ArrayRecord files, read from disk by their numbers through grain, and their shuffled order.

An order of N rows is a permutation that is computed row by row from a key (grain's `index_shuffle`, a cipher of four
rounds on N numbers), so none is ever in memory. The batch of a number follows from seed and number alone: the iterator
has no other state, and goes on at any batch without reading those before it.

Shapes: N rows, B rows of a batch.
"""

from __future__ import annotations

import errno
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backbone.errors import InputError

T = TypeVar("T")

OPTIONS = "group_size:1,uncompressed"  # of ArrayRecord: each row is read without others
MAX_ROWS = 2**32 - 1  # rows that can be shuffled
THREADS = 4  # threads that read batches
BUFFERED = 8  # batches that wait in memory
ON_DEVICE = 2  # batches that wait on the device


@dataclass(frozen=True)
class RecordFile:
    """A file of rows."""

    name: str
    rows: int
    bytes: int

    @classmethod
    def of(cls, path: Path, rows: int) -> RecordFile:
        """Returns the description of a file that is closed."""
        return cls(path.name, rows, path.stat().st_size)

    def is_whole(self, folder: Path) -> bool:
        """Returns whether the file is there with its size."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.bytes


class RecordRows:
    """The rows of some files as one array [N,...], of which only those are in memory that are asked for."""

    def __init__(self, folder: Path, files: Sequence[RecordFile], shape: tuple[int, ...], dtype: np.dtype[Any]):
        self._folder, self._files, self._shape, self._dtype = folder, tuple(files), shape, dtype
        self._count = sum(file.rows for file in files)

    @functools.cached_property
    def _source(self) -> Any:
        import grain

        return grain.sources.ArrayRecordDataSource(
            [f"{self._folder / file.name}[0:{file.rows}]" for file in self._files]
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns (N, ...)."""
        return (self._count, *self._shape)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Reads rows int [B] as int32 [B,...]. Raises InputError naming the folder of a damaged file."""
        records = self.records(rows)
        return np.stack([np.frombuffer(r, self._dtype).reshape(self._shape) for r in records]).astype(np.int32)

    def records(self, rows: np.ndarray) -> Sequence[bytes]:
        """Reads the bytes of some rows. Raises InputError naming the folder of a damaged file, or of too many."""
        try:
            records: Sequence[bytes] = self._source.__getitems__([int(row) for row in rows])
        except (RuntimeError, OSError, IndexError) as error:
            if os.strerror(errno.EMFILE) in str(error):
                raise InputError(
                    f"{self._folder}: its {len(self._files)} files are more than this process may open; raise the "
                    "limit (`ulimit -n 65536`)"
                ) from error
            raise InputError(f"{self._folder}: damaged ({error}); remove this folder, and it is made again") from error
        return records


@dataclass(frozen=True)
class ShuffledOrder:
    """A permutation of N rows, of which each place is computed when it is needed."""

    seed: int
    epoch: int
    count: int  # N

    def __post_init__(self) -> None:
        if self.count > MAX_ROWS:
            raise InputError(f"{self.count} rows: at most {MAX_ROWS} can be shuffled; split the corpus")

    @functools.cached_property
    def _shuffled(self) -> Any:
        import grain

        key = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        return grain.MapDataset.range(self.count).shuffle(seed=key)

    def __getitem__(self, places: slice) -> np.ndarray:
        """Returns the rows int64 at a slice of places."""
        return np.array([self._shuffled[place] for place in range(*places.indices(self.count))], np.int64)


def prefetched(read: Callable[[int], T], done: int, until: int) -> Iterator[T]:
    """Yields `read(done)` to `read(until - 1)` in this order, read by threads before they are needed."""
    import grain

    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=BUFFERED)
    yield from grain.MapDataset.range(done, until).map(read).to_iter_dataset(options)


def ahead(batches: Iterator[T], count: int = ON_DEVICE) -> Iterator[T]:
    """Yields the same batches, `count` of them made before they are needed."""
    waiting: deque[T] = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
