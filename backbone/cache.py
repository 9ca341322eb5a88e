"""Rows of hidden states on disk, keyed by content: what was computed once is read, never recomputed.

A `Variant` says exactly what its rows are; two variants never share one. Its folder holds immutable
segments: `NNNNNN.rows` (values, memory-mapped), `NNNNNN.index` (which row lies where) and
`NNNNNN.json` (sizes and sha256, written last: a segment without it does not exist). One writer at a
time, by a lock on `writer.lock`; readers need none. A writer that is killed leaves at most files
without their `.json`, which the next writer removes.

Only real tokens are stored. float32 rows come back bit for bit; bfloat16 rounds to 8 bits of mantissa;
int8 keeps one float32 scale per token (largest magnitude / 127).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from backbone.buckets import Row, sides_of
from backbone.errors import InputError
from backbone.files import sha256_file, write_durable
from backbone.records import decode, digest, encode

log = logging.getLogger(__name__)

Storage = Literal["float32", "bfloat16", "int8"]
SEGMENT_BYTES = 32 * 2**20  # of values; what a kill can cost
DESCRIPTION = "variant.json"
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


def row_key(row: Row) -> bytes:
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
        """Adds a segment of the folder to what is known."""
        sizes = _read_json(self.folder / f"{number:06d}.json")
        for suffix in ("rows", "index"):
            file = self.folder / f"{number:06d}.{suffix}"
            if not file.is_file() or file.stat().st_size != sizes[f"{suffix}_bytes"]:
                log.warning("%s: not the size that was written; its rows are computed again", file)
                return
        index = np.fromfile(self.folder / f"{number:06d}.index", _INDEX)
        for key, start, tokens, bucket in index.tolist():
            self._places[key] = _Place(number, start, tokens, bucket)

    def has(self, key: bytes, bucket: int) -> bool:
        """Whether the row is stored, computed in this bucket."""
        place = self._places.get(key)
        return place is not None and place.bucket == bucket

    def check(self, keys: Iterable[bytes]) -> None:
        """Hashes the segments of these rows, once in a process; a damaged one is removed."""
        segments = {self._places[key].segment for key in keys if key in self._places} - self._checked
        for number in sorted(segments):
            sizes = _read_json(self.folder / f"{number:06d}.json")
            for suffix in ("rows", "index"):
                file = self.folder / f"{number:06d}.{suffix}"
                if not file.is_file() or sha256_file(file) != sizes[f"{suffix}_sha256"]:
                    log.warning("%s: damaged; its rows are computed again", file)
                    self._places = {k: place for k, place in self._places.items() if place.segment != number}
                    _remove_segment(self.folder / f"{number:06d}")
                    break
        self._checked |= segments

    def read(self, key: bytes) -> np.ndarray:
        """States float32 [t,D] of a row that is stored."""
        place = self._places[key]
        rows = self._maps.get(place.segment)
        if rows is None:
            file = self.folder / f"{place.segment:06d}.rows"
            rows = np.memmap(file, np.uint8, mode="r")
            rows = self._maps[place.segment] = rows.view(_record(self.variant.width, self.variant.storage).base)
            if self.variant.storage != "int8":
                rows = self._maps[place.segment] = rows.reshape(-1, self.variant.width)
        return expand(rows[place.start : place.start + place.tokens], self.variant.storage)

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
            if not (self.folder / DESCRIPTION).exists():
                write_durable(self.folder / DESCRIPTION, json.dumps(encode(self.variant), indent=1).encode())
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
        """Writes what is pending as one segment: values and index first, the description last."""
        if not self._pending:
            return
        number = max(_segments(self.folder), default=-1) + 1
        index = np.zeros(len(self._pending), _INDEX)
        start = 0
        paths = {suffix: self.folder / f"{number:06d}.{suffix}" for suffix in ("rows", "index")}
        with paths["rows"].open("wb") as file:
            for i, ((key, bucket), stored) in enumerate(self._pending.items()):
                index[i] = (key, start, len(stored), bucket)
                file.write(stored.tobytes())
                start += len(stored)
            file.flush()
            os.fsync(file.fileno())
        write_durable(paths["index"], index.tobytes())
        sizes: dict[str, Any] = {"rows": len(index), "tokens": start}
        for suffix, path in paths.items():
            sizes |= {f"{suffix}_bytes": path.stat().st_size, f"{suffix}_sha256": sha256_file(path)}
        write_durable(self.folder / f"{number:06d}.json", json.dumps(sizes).encode())
        self._pending, self._pending_bytes = {}, 0
        self._take(number)

    def _clean(self) -> None:
        """Removes what a killed writer left."""
        whole = {f"{number:06d}" for number in _segments(self.folder)}
        for path in self.folder.iterdir():
            left = path.suffix in (".rows", ".index") and path.stem not in whole
            if left or ".tmp-" in path.name:
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes every row of the variant."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._places, self._maps, self._pending, self._pending_bytes = {}, {}, {}, 0


def _segments(folder: Path) -> list[int]:
    """Numbers of the whole segments, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.stem) for p in folder.glob("*.json") if p.stem.isdigit())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: unreadable ({error}); run `topgraft cache verify`, or remove {path.parent}"
        ) from error


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
    for folder in sorted(p.parent for p in root.glob(f"*/{DESCRIPTION}")):
        variant = decode(Variant, _read_json(folder / DESCRIPTION), str(folder / DESCRIPTION))
        sizes = {number: _read_json(folder / f"{number:06d}.json") for number in _segments(folder)}
        damaged = []
        for number, size in sizes.items():
            for suffix in ("rows", "index"):
                file = folder / f"{number:06d}.{suffix}"
                whole = file.is_file() and file.stat().st_size == size[f"{suffix}_bytes"]
                if not whole or (verify and sha256_file(file) != size[f"{suffix}_sha256"]):
                    damaged.append(str(file))
        found.append(
            VariantStat(
                folder=str(folder),
                variant=encode(variant),
                rows=sum(size["rows"] for size in sizes.values()),
                tokens=sum(size["tokens"] for size in sizes.values()),
                bytes=sum(p.stat().st_size for p in folder.iterdir()),
                segments=len(sizes),
                damaged=damaged,
            )
        )
    return found


def collect_garbage(root: Path, most_bytes: int, keep: Sequence[Path] = (), *, verify: bool = True) -> list[str]:
    """Removes the oldest segments until `root` holds at most `most_bytes`; with `verify` damaged ones first.

    Variants whose folder is in `keep` are left whole. Returns the files' stems that were removed. A
    process that has a segment mapped goes on reading it.
    """
    removed = []
    for entry in stat(root, verify=True) if verify else ():
        for stem in sorted({str(Path(file).with_suffix("")) for file in entry.damaged}):
            _remove_segment(Path(stem))
            removed.append(stem)
    segments = []
    total = 0
    for file in root.glob("*/*.rows"):
        size = file.stat()
        total += size.st_size
        if file.parent not in keep:
            segments.append((size.st_mtime_ns, size.st_size, file.with_suffix("")))
    for _, size_bytes, stem_path in sorted(segments):
        if total <= most_bytes:
            break
        _remove_segment(stem_path)
        removed.append(str(stem_path))
        total -= size_bytes
    return removed


def _remove_segment(stem: Path) -> None:
    """The description first, so that a kill leaves no segment that looks whole."""
    for suffix in (".json", ".index", ".rows"):
        stem.with_suffix(suffix).unlink(missing_ok=True)
