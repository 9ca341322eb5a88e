"""Rows of hidden states on disk, keyed by content: what was computed once is read, never recomputed.

A `Variant` says exactly what its rows are; two variants never share one. Its folder holds immutable
segments: `N.rows` (values, memory-mapped), `N.index` (which row lies where) and `N.json` (sizes and
sha256, written last: a segment without it does not exist). N is a time in nanoseconds, so that no number
is used twice even where older segments have been removed. One writer at a time, by a lock on
`writer.lock`; readers, and whoever removes whole segments, need none: a row that `has` reports is mapped,
and stays readable when its segment is removed. A writer that is killed leaves at most files without their
`.json`, which the next writer removes.

Only real tokens are stored. float32 rows come back bit for bit; bfloat16 rounds to 8 bits of mantissa;
int8 keeps one float32 scale per token (largest magnitude / 127).
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

log = logging.getLogger(__name__)

Storage = Literal["float32", "bfloat16", "int8"]
SEGMENT_BYTES = 32 * 2**20  # of values; what a kill can cost
MAPPED_FROM = 2**20  # bytes; smaller segments are read whole, since every map holds a file descriptor
VARIANT_FILE = "variant.json"
LAYOUT = 1  # raised by hand when files of the same variant would be read differently

_INDEX = np.dtype([("key", "S16"), ("start", "<i8"), ("tokens", "<i4"), ("bucket", "<i4")])


@dataclass(frozen=True)
class Variant:
    """What the rows of a folder are."""

    weights_id: str  # of the backbone
    boundary: int  # the state at the input of this block; blocks = the last state
    prefix_id: str  # identity of the adapter below the boundary, or "none"
    content: Literal["states", "pooled"]  # [t,D] per row, or [L+1,D]: pooled states of all boundaries
    pooling: str  # of pooled rows; "" for states
    width: int  # D
    compute_dtype: str  # the states were computed in
    storage: Storage  # and are kept in
    backend: str  # cpu, gpu or tpu: their last bits differ
    layout: int = LAYOUT


@dataclass(frozen=True)
class Segment:
    """What the description of a segment says."""

    rows: int
    tokens: int
    rows_bytes: int
    rows_sha256: str
    index_bytes: int
    index_sha256: str

    def is_of(self, stem: Path, *, verify: bool) -> list[Path]:
        """The files that are not what was written; only their sizes are looked at without `verify`."""
        damaged = []
        for suffix, size, sha256 in (
            (".rows", self.rows_bytes, self.rows_sha256),
            (".index", self.index_bytes, self.index_sha256),
        ):
            file = stem.with_suffix(suffix)
            if _size(file) != size or (verify and sha256_file(file) != sha256):
                damaged.append(file)
        return damaged


def _described(stem: Path) -> Segment:
    """Raises FileNotFoundError for a segment that is gone, InputError for a description that is damaged."""
    return decode(Segment, _read_json(stem.with_suffix(".json")), str(stem))


def row_key(row: TokenRow) -> bytes:
    """16 bytes of the sha256 of a row: token ids, segments or the other side where it has them, or patches."""
    parts = sides_of(row)
    state = hashlib.sha256()
    if len(parts) > 1 or parts[0].ndim > 1:  # a plain row is its ids alone; no other row hashes the same bytes
        state.update(b"sides" + b"".join(len(part).to_bytes(8, "little") + bytes([part.ndim]) for part in parts))
    for part in parts:
        state.update(np.ascontiguousarray(part, "u1" if part.dtype == np.uint8 else "<i4").tobytes())
    # numpy drops trailing zero bytes of S16, so a digest never ends in one
    return state.digest()[:15] + b"\x01"


def bytes_per_token(width: int, storage: Storage) -> int:
    """Bytes that one state takes on disk."""
    return _record(width, storage).itemsize


def _record(width: int, storage: Storage) -> np.dtype[Any]:
    if storage == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (width,))])
    return np.dtype((np.dtype("<f4") if storage == "float32" else np.dtype(ml_dtypes.bfloat16), (width,)))


def lossless(storage: str, compute_dtype: str) -> bool:
    """Whether states come back as they were computed."""
    return storage in ("float32", compute_dtype)


def compress(states: np.ndarray, storage: Storage) -> np.ndarray:
    """States [t,D] as they are stored."""
    if storage == "int8":
        scale = np.abs(states).max(axis=-1).astype(np.float32) / 127
        packed = np.zeros(len(states), _record(states.shape[-1], storage))
        packed["scale"] = scale
        packed["values"] = np.rint(states / np.maximum(scale, 1e-30)[:, None])
        return packed
    return states.astype(np.float32 if storage == "float32" else ml_dtypes.bfloat16)


def expand(stored: np.ndarray, storage: Storage) -> np.ndarray:
    """States float32 [t,D] from what is stored."""
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
        self.variant, self.folder = variant, root / digest(encode(variant)).removeprefix("sha256:")[:24]
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
        """Adds a segment of the folder to what is known; one that was removed meanwhile is passed over."""
        stem = self._stem(number)
        try:
            if damaged := _described(stem).is_of(stem, verify=False):
                log.warning("%s: not the size that was written; its rows are computed again", damaged[0])
            else:
                self._know(number, np.fromfile(stem.with_suffix(".index"), _INDEX))
        except FileNotFoundError:
            pass
        except InputError as error:
            log.warning("%s; its rows are computed again", error)

    def _know(self, number: int, index: np.ndarray) -> None:
        for key, start, tokens, bucket in index.tolist():
            self._places[key] = _Place(number, start, tokens, bucket)

    def _stem(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _forget(self, number: int) -> None:
        """Takes a segment out of what is known."""
        self._places = {key: place for key, place in self._places.items() if place.segment != number}
        self._maps.pop(number, None)

    def _mapped(self, number: int) -> bool:
        """Maps a segment, so that its rows can be read whoever removes it; False if it is gone."""
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
        """Whether the row is stored, computed in this bucket; from then on `read` gives it."""
        place = self._places.get(key)
        return place is not None and place.bucket == bucket and self._mapped(place.segment)

    def segments(self, keys: Iterable[bytes]) -> set[Path]:
        """The segments that hold these rows, as `collect_garbage` is told to keep them."""
        places = (self._places.get(key) for key in keys)
        return {self._stem(place.segment) for place in places if place is not None}

    def check(self, keys: Iterable[bytes]) -> None:
        """Hashes the segments of these rows, once in a process; a damaged one is removed."""
        segments = {self._places[key].segment for key in keys if key in self._places} - self._checked
        for number in sorted(segments):
            stem = self._stem(number)
            try:
                damaged = _described(stem).is_of(stem, verify=True) if self._mapped(number) else []
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
        """States float32 [t,D] of a row that is stored; KeyError for one that is not."""
        place = self._places[key]
        if not self._mapped(place.segment):
            raise KeyError(key)
        return expand(self._maps[place.segment][place.start : place.start + place.tokens], self.variant.storage)

    @contextlib.contextmanager
    def writing(self) -> Iterator[RowCache]:
        """Holds the writer's lock; on leaving, what is pending is written even if the block failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "writer.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("%s: another process is writing; waiting for it", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._clean()
            if not (self.folder / VARIANT_FILE).exists():
                write_durable(self.folder / VARIANT_FILE, json.dumps(encode(self.variant), indent=1).encode())
            known = {place.segment for place in self._places.values()}
            for number in _segments(self.folder):
                if number not in known:
                    self._take(number)
            try:
                yield self
            finally:
                self._flush()

    def add(self, key: bytes, bucket: int, states: np.ndarray) -> None:
        """Stores a row; call inside `writing()`. A row that is there already is left."""
        if self.has(key, bucket) or (key, bucket) in self._pending:
            return
        stored = compress(states, self.variant.storage)
        self._pending[key, bucket] = stored
        self._pending_bytes += stored.nbytes
        if self._pending_bytes >= SEGMENT_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Writes what is pending as one segment: values and index first, the description last.

        What cannot be written is dropped, and computed again; the OSError names the file.
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
        described = Segment(len(index), start, len(values), next(digests), len(places), next(digests))
        self._mapped(number)
        write_durable(stem.with_suffix(".json"), json.dumps(encode(described)).encode())
        self._know(number, index)

    def _clean(self) -> None:
        """Removes what a killed writer left."""
        whole = {f"{number:06d}" for number in _segments(self.folder)}
        for path in self.folder.iterdir():
            left = path.suffix in (".rows", ".index") and path.stem not in whole
            if left or ".tmp-" in path.name:
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes every row of the variant."""
        for number in _segments(self.folder):
            _remove_segment(self._stem(number))
        self._places, self._maps, self._pending, self._pending_bytes = {}, {}, {}, 0


def _segments(folder: Path) -> list[int]:
    """Numbers of the whole segments, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.stem) for p in folder.glob("*.json") if p.stem.isdecimal() and p.stem.isascii())


def _read_json(path: Path) -> Any:
    """Raises FileNotFoundError where there is none, InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: unreadable ({error}); `topgraft cache gc` removes what is damaged") from error


@dataclass(frozen=True)
class VariantStat:
    """What `topgraft cache stat` and `verify` say of one variant."""

    folder: str
    variant: dict[str, Any]
    rows: int
    tokens: int
    bytes: int
    segments: int
    damaged: list[str]  # files whose bytes are not those written (verify only)


def stat(root: Path, *, verify: bool = False) -> list[VariantStat]:
    """Every variant below `root`; with `verify` the bytes of every segment are hashed."""
    found = []
    for folder in sorted(path for path in root.glob("*/") if (path / VARIANT_FILE).exists() or _segments(path)):
        segments, damaged = [], []
        for number in _segments(folder):
            stem = folder / f"{number:06d}"
            try:
                described = _described(stem)
                damaged += described.is_of(stem, verify=verify)
                segments.append(described)
            except FileNotFoundError:  # removed by another process meanwhile
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
        found.append(
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
    return found


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def held(root: Path) -> int:
    """Bytes of all whole segments below `root`."""
    return sum(_size(stem.with_suffix(".rows")) for stem in _stems(root))


def _stems(root: Path) -> list[Path]:
    return [folder / f"{number:06d}" for folder in root.glob("*/") for number in _segments(folder)]


def collect_garbage(root: Path, max_bytes: int, keep: Collection[Path] = (), *, verify: bool = True) -> list[str]:
    """Removes the oldest segments until `root` holds at most `max_bytes`; with `verify` damaged ones first.

    Segments in `keep` (folder and number) are left. Returns the files' stems that were removed. What
    another process is writing is left too, and what it reads stays readable there (see `RowCache.has`).
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
    return removed


def _remove_segment(stem: Path) -> None:
    """The description first, so that a kill leaves no segment that looks whole."""
    for suffix in (".json", ".index", ".rows"):
        stem.with_suffix(suffix).unlink(missing_ok=True)
