"""Rows of hidden states on disk, keyed by content, so that each is computed once and read from then on.

A `Variant` says exactly what its rows are; two variants never share one. Its folder holds immutable segments: `N.rows`
(values, memory-mapped), `N.index` (which row lies where) and `N.json` (sizes and sha256, written last). A segment
without its `.json` does not exist. N is a time in nanoseconds, so no number is used twice, even after older segments
have been removed.

A lock on `writer.lock` admits one writer at a time. Reading and removing whole segments need no lock: a row that `has`
reports is mapped, and stays readable when its segment is removed. A writer that is killed leaves at most files without
their `.json`, which the next writer removes.

Only real tokens are stored. float32 rows come back bit for bit; bfloat16 rounds to 8 bits of mantissa; int8 keeps one
float32 scale per token (largest magnitude / 127).

Shapes: t tokens of a row, D width, L blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from backbone.buckets import TokenRow, sides_of
from backbone.errors import InputError
from backbone.files import sha256_file, write_durable
from backbone.records import decode, digest, encode
from backbone.texts import load_json

log = logging.getLogger(__name__)

Storage = Literal["float32", "bfloat16", "int8"]
SEGMENT_BYTES = 32 * 2**20  # bytes of values in a segment: the largest loss by a kill
MAPPED_FROM = 2**20  # bytes from which a segment is mapped; smaller ones are read, since a map holds a descriptor
VARIANT_FILE = "variant.json"
LOCK = "writer.lock"
LAYOUT = 1  # raised by hand when files of the same variant would be read differently

_INDEX = np.dtype([("key", "S16"), ("start", "<i8"), ("tokens", "<i4"), ("bucket", "<i4")])


@dataclass(frozen=True)
class Variant:
    """The meaning of the rows of a folder."""

    weights_id: str  # identity of the backbone in its precision
    boundary: int  # block whose input the states are; L = the last state
    prefix_id: str  # identity of the adapter below the boundary, or "none"
    content: Literal["states", "pooled"]  # states [t,D] of a row, or pooled states [L+1,D] of all boundaries
    pooling: str  # pooling of pooled rows; "" for states
    width: int  # D
    storage: Storage  # dtype in which they are stored
    backend: str  # cpu, gpu or tpu, whose last bits differ
    compute_dtype: str = "float32"  # dtype of states as they are computed; former versions had others
    layout: int = LAYOUT  # version of the files
    compiler: str = ""  # verdict on a compiler whose known answers are wrong; "" for one that is right

    def identity(self) -> dict[str, Any]:
        """Returns the JSON values that name the folder; `compiler` is among them only if it is wrong."""
        values: dict[str, Any] = encode(self)
        if not self.compiler:
            del values["compiler"]
        return values


@dataclass(frozen=True)
class Segment:
    """The description of a segment, in its `.json`."""

    rows: int
    tokens: int
    rows_bytes: int
    rows_sha256: str
    index_bytes: int
    index_sha256: str

    def damaged_files(self, stem: Path, *, verify: bool) -> list[Path]:
        """Returns the files that differ from this description: in size, and with `verify` also in sha256."""
        damaged = []
        for suffix, size, sha256 in (
            (".rows", self.rows_bytes, self.rows_sha256),
            (".index", self.index_bytes, self.index_sha256),
        ):
            file = stem.with_suffix(suffix)
            if _size(file) != size or (verify and sha256_file(file) != sha256):
                damaged.append(file)
        return damaged


def _read_segment(stem: Path) -> Segment:
    """Reads a description. Raises FileNotFoundError for a segment that is gone, InputError for a damaged one."""
    return decode(Segment, _read_json(stem.with_suffix(".json")), str(stem))


def row_key(row: TokenRow) -> bytes:
    """Returns 16 bytes of the sha256 of a row: its token ids, segments and other side, or its patches."""
    parts = sides_of(row)
    state = hashlib.sha256()
    if len(parts) > 1 or parts[0].ndim > 1:  # a plain row is its ids alone; no other row hashes the same bytes
        state.update(b"sides" + b"".join(len(part).to_bytes(8, "little") + bytes([part.ndim]) for part in parts))
    for part in parts:
        state.update(np.ascontiguousarray(part, "u1" if part.dtype == np.uint8 else "<i4").tobytes())
    # numpy drops trailing zero bytes of S16, so a digest never ends in one
    return state.digest()[:15] + b"\x01"


def bytes_per_token(width: int, storage: Storage) -> int:
    """Returns the bytes that one state takes on disk."""
    return _record(width, storage).itemsize


def _record(width: int, storage: Storage) -> np.dtype[Any]:
    if storage == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (width,))])
    return np.dtype((np.dtype("<f4") if storage == "float32" else np.dtype(ml_dtypes.bfloat16), (width,)))


def lossless(storage: str) -> bool:
    """Returns whether states come back as they were computed."""
    return storage == "float32"


def compress(states: np.ndarray, storage: Storage) -> np.ndarray:
    """Returns states [t,D] in the form in which they are stored."""
    if storage == "int8":
        scale = np.abs(states).max(axis=-1).astype(np.float32) / 127
        packed = np.zeros(len(states), _record(states.shape[-1], storage))
        packed["scale"] = scale
        packed["values"] = np.rint(states / np.maximum(scale, 1e-30)[:, None])
        return packed
    return states.astype(np.float32 if storage == "float32" else ml_dtypes.bfloat16)


def expand(stored: np.ndarray, storage: Storage) -> np.ndarray:
    """Returns states float32 [t,D] from their stored form."""
    if storage == "int8":
        return np.asarray(stored["values"] * stored["scale"][:, None], np.float32)
    return stored.astype(np.float32)


@dataclass(frozen=True)
class _Place:
    segment: int
    start: int
    tokens: int
    bucket: int


class RowCache:
    """The rows of one variant below `root`; opening it reads indices only."""

    def __init__(self, root: Path, variant: Variant):
        self.variant, self.folder = variant, root / digest(variant.identity()).removeprefix("sha256:")[:24]
        self._root = root
        self._places: dict[bytes, _Place] = {}
        self._maps: dict[int, np.ndarray] = {}
        self._checked: set[int] = set()
        self._pending: dict[tuple[bytes, int], np.ndarray] = {}
        self._pending_bytes = 0
        for number in _segments(self.folder):
            self._take(number)

    def __len__(self) -> int:
        return len(self._places)

    def _take(self, number: int) -> None:
        """Adds a segment of the folder to the known places, unless it was removed in the meantime or is damaged."""
        stem = self._stem(number)
        try:
            segment = _read_segment(stem)
            damaged = segment.damaged_files(stem, verify=False)
            index = np.fromfile(stem.with_suffix(".index"), _INDEX) if not damaged else np.zeros(0, _INDEX)
            if damaged:
                log.warning("%s: not the size that was written; its rows are computed again", damaged[0])
            elif not self._fits(segment, index):
                log.warning("%s: its index is not that of its rows; they are computed again", stem)
            else:
                self._know(number, index)
        except FileNotFoundError:
            pass
        except InputError as error:
            log.warning("%s; its rows are computed again", error)

    def _fits(self, segment: Segment, index: np.ndarray) -> bool:
        """Returns whether the rows of an index lie one behind the other and fill the file of their states."""
        ends = np.cumsum(index["tokens"], dtype=np.int64)
        size = int(ends[-1]) * bytes_per_token(self.variant.width, self.variant.storage) if len(ends) else 0
        whole = (segment.index_bytes, segment.rows_bytes) == (index.nbytes, size)
        return whole and bool((index["tokens"] > 0).all()) and np.array_equal(index["start"], ends - index["tokens"])

    def _know(self, number: int, index: np.ndarray) -> None:
        for key, start, tokens, bucket in index.tolist():
            self._places[key] = _Place(number, start, tokens, bucket)

    def _stem(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _forget(self, number: int) -> None:
        """Removes a segment from the known places."""
        self._places = {key: place for key, place in self._places.items() if place.segment != number}
        self._maps.pop(number, None)

    def _mapped(self, number: int) -> bool:
        """Maps a segment, so that its rows stay readable if it is removed; returns False if it is gone."""
        if number in self._maps:
            return True
        file = self._stem(number).with_suffix(".rows")
        try:
            small = file.stat().st_size < MAPPED_FROM
            rows: np.ndarray = np.fromfile(file, np.uint8) if small else np.memmap(file, np.uint8, mode="r")
        except FileNotFoundError:
            log.info("%s: removed by another process; its rows are computed again", file)
            self._forget(number)
            return False
        self._keep_mapped(number, rows)
        return True

    def _keep_mapped(self, number: int, rows: np.ndarray) -> None:
        rows = rows.view(_record(self.variant.width, self.variant.storage).base)
        self._maps[number] = rows if self.variant.storage == "int8" else rows.reshape(-1, self.variant.width)

    def has(self, key: bytes, bucket: int) -> bool:
        """Returns whether the row is stored, computed in this bucket; from then on `read` gives it."""
        place = self._places.get(key)
        return place is not None and place.bucket == bucket and self._mapped(place.segment)

    def segments(self, keys: Iterable[bytes]) -> set[Path]:
        """Returns the segments that hold these rows, in the form of `keep` of `collect_garbage`."""
        places = (self._places.get(key) for key in keys)
        return {self._stem(place.segment) for place in places if place is not None}

    def check(self, keys: Iterable[bytes]) -> None:
        """Hashes the segments of these rows, once in a process, and removes damaged ones."""
        segments = {self._places[key].segment for key in keys if key in self._places} - self._checked
        for number in sorted(segments):
            stem = self._stem(number)
            try:
                damaged = _read_segment(stem).damaged_files(stem, verify=True) if self._mapped(number) else []
            except FileNotFoundError:
                log.info("%s: removed by another process; its rows are computed again", stem)
                self._forget(number)
                continue
            except InputError:
                damaged = [stem.with_suffix(".json")]
            if damaged:
                log.warning("%s: damaged; its rows are computed again", damaged[0])
                self._forget(number)
                _remove_segment(stem)
        self._checked |= segments

    def read(self, key: bytes) -> np.ndarray:
        """Returns states float32 [t,D] of a stored row. Raises KeyError for another."""
        place = self._places[key]
        if not self._mapped(place.segment):
            raise KeyError(key)
        return expand(self._maps[place.segment][place.start : place.start + place.tokens], self.variant.storage)

    @contextlib.contextmanager
    def writing(self) -> Iterator[RowCache]:
        """Holds the writer's lock. At the end of the block, pending rows are written even if it failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("%s: another process is writing; waiting for it", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            _clean(self.folder)
            if not (self.folder / VARIANT_FILE).exists():
                write_durable(self.folder / VARIANT_FILE, json.dumps(self.variant.identity(), indent=1).encode())
            known = {place.segment for place in self._places.values()}
            for number in _segments(self.folder):
                if number not in known:
                    self._take(number)
            try:
                yield self
            finally:
                self._flush()

    def add(self, key: bytes, bucket: int, states: np.ndarray) -> None:
        """Stores a row, unless it is stored already; call inside `writing()`."""
        if self.has(key, bucket) or (key, bucket) in self._pending:
            return
        stored = compress(states, self.variant.storage)
        self._pending[key, bucket] = stored
        self._pending_bytes += stored.nbytes
        if self._pending_bytes >= SEGMENT_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Writes the pending rows as one segment: values and index first, the description last.

        Rows that cannot be written are dropped, to be computed again; the OSError names the file.
        """
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        number = max([time.time_ns(), *(n + 1 for n in _segments(self.folder))])
        index = np.zeros(len(pending), _INDEX)
        start = 0
        for i, ((key, bucket), stored) in enumerate(pending.items()):
            index[i] = (key, start, len(stored), bucket)
            start += len(stored)
        values = np.concatenate(list(pending.values())).view(np.uint8).reshape(-1).data
        stem, places = self._stem(number), memoryview(index.tobytes())
        write_durable(stem.with_suffix(".rows"), values)
        write_durable(stem.with_suffix(".index"), places)
        digests = (hashlib.sha256(content).hexdigest() for content in (values, places))
        segment = Segment(len(index), start, len(values), next(digests), len(places), next(digests))
        self._mapped(number)
        write_durable(stem.with_suffix(".json"), json.dumps(encode(segment)).encode())
        self._know(number, index)

    def discard(self) -> None:
        """Removes every row of the variant."""
        for number in _segments(self.folder):
            _remove_segment(self._stem(number))
        self._places, self._maps, self._pending, self._pending_bytes = {}, {}, {}, 0


def _segments(folder: Path) -> list[int]:
    """Returns the numbers of the whole segments, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.stem) for p in folder.glob("*.json") if p.stem.isdecimal() and p.stem.isascii())


def _read_json(path: Path) -> Any:
    """Reads a JSON file. Raises FileNotFoundError if there is none, InputError if it is damaged."""
    try:
        return load_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: unreadable ({error}); `topgraft cache gc` removes what is damaged") from error


@dataclass(frozen=True)
class VariantStat:
    """One variant as `topgraft cache stat` and `verify` report it."""

    folder: str
    variant: dict[str, Any]  # JSON of its `Variant`; {} if that is missing or damaged
    rows: int
    tokens: int
    bytes: int  # bytes of every file in the folder
    segments: int
    damaged: list[str]  # files that differ from their description; contents are read by verify only


def stat(root: Path, *, verify: bool = False) -> list[VariantStat]:
    """Returns every variant below `root`; with `verify` the bytes of every segment are hashed."""
    stats = []
    for folder in sorted(path for path in root.glob("*/") if (path / VARIANT_FILE).exists() or _segments(path)):
        segments, damaged = [], []
        for number in _segments(folder):
            stem = folder / f"{number:06d}"
            try:
                segment = _read_segment(stem)
                damaged += segment.damaged_files(stem, verify=verify)
                segments.append(segment)
            except FileNotFoundError:  # removed by another process in the meantime
                continue
            except InputError:
                damaged.append(stem.with_suffix(".json"))
        try:
            variant = encode(decode(Variant, _read_json(folder / VARIANT_FILE), str(folder / VARIANT_FILE)))
        except FileNotFoundError:  # the next writer puts it there
            variant = {}
        except InputError:
            variant = {}
            damaged.append(folder / VARIANT_FILE)
        stats.append(
            VariantStat(
                folder=str(folder),
                variant=variant,
                rows=sum(segment.rows for segment in segments),
                tokens=sum(segment.tokens for segment in segments),
                bytes=sum(map(_size, folder.iterdir())),
                segments=len(segments),
                damaged=[str(file) for file in damaged if file.with_suffix(".json").exists()],
            )
        )
    return stats


def _size(path: Path) -> int:
    """Returns the bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def stored_bytes(root: Path) -> int:
    """Returns the bytes of all whole segments below `root`."""
    return sum(_size(stem.with_suffix(".rows")) for stem in _stems(root))


def _stems(root: Path) -> list[Path]:
    return [folder / f"{number:06d}" for folder in root.glob("*/") for number in _segments(folder)]


def collect_garbage(root: Path, max_bytes: int, keep: Collection[Path] = (), *, verify: bool = True) -> list[str]:
    """Removes the oldest segments until `root` holds at most `max_bytes`; with `verify` damaged ones first.

    Segments in `keep` (folder and number) are left, and so are those that another process is writing. Segments that it
    reads stay readable there (see `RowCache.has`). Returns the stems of the files that were removed.
    """
    removed = []
    for entry in stat(root, verify=True) if verify else ():
        for stem in sorted({str(Path(file).with_suffix("")) for file in entry.damaged}):
            _remove_segment(Path(stem))
            removed.append(stem)
    segments = []
    total = 0
    for path in _stems(root):
        with contextlib.suppress(FileNotFoundError):
            size = path.with_suffix(".rows").stat()
            total += size.st_size
            if path not in keep:
                segments.append((size.st_mtime_ns, size.st_size, path))
    for _, size_bytes, path in sorted(segments):
        if total <= max_bytes:
            break
        _remove_segment(path)
        removed.append(str(path))
        total -= size_bytes
    for folder in root.glob("*/"):
        _clean_unless_written(folder)
    return removed


def _clean(folder: Path) -> None:
    """Removes the files that a killed writer or remover left; call with the writer's lock."""
    whole = {f"{number:06d}" for number in _segments(folder)}
    for path in folder.iterdir():
        left = path.suffix in (".rows", ".index") and path.stem not in whole
        if left or ".tmp-" in path.name:
            path.unlink(missing_ok=True)


def _clean_unless_written(folder: Path) -> None:
    """Removes what was left in a folder, unless a writer is at work there: its segment has no description yet."""
    with contextlib.suppress(FileNotFoundError), (folder / LOCK).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _clean(folder)


def _remove_segment(stem: Path) -> None:
    """Removes a segment, the description first, so that a kill leaves no segment that looks whole."""
    for suffix in (".json", ".index", ".rows"):
        stem.with_suffix(suffix).unlink(missing_ok=True)
