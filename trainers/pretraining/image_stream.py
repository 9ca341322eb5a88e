"""Labelled images that stay on disk: encoded ones in ArrayRecord in the home, decoded by threads batch by batch.

The images are copied once, in the order of their files, and decoded meanwhile, so that a damaged one is an error before
the first step. Beside them lies, for each side, which record every row is. Rows, order and labels are those of
`trainers.pretraining.labelled_images`. In memory are 44 bytes of each image, and 8 once they are copied.

Shapes: N images, B of a batch, T tokens, P values of a patch.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapters.heads.columns import OneLabel
from backbone.copies import used
from backbone.errors import InputError
from backbone.files import new_folder
from backbone.images import ImagePreprocessing
from backbone.records import decode, digest, encode
from backbone.texts import load_json
from trainers.config import Data
from trainers.data.prepare import source_of
from trainers.data.rows import LabelledRow, RowReader, Split
from trainers.data.splits import fingerprint, kept, membership, place_hash, row_hash
from trainers.pretraining.labelled_images import require_sides
from trainers.pretraining.material import Rows
from trainers.pretraining.material import Split as Side
from trainers.pretraining.record_rows import OPTIONS, RecordFile, RecordRows

log = logging.getLogger(__name__)

COLUMN = OneLabel()
VERSION = 1  # raised by hand when the same files would give other rows
SEAL = "stream.json"
NUMBERS = "{}.npz"  # of a side: "records" and "labels"
FILE_BYTES = 1 << 30  # encoded images of a file
NAMED: tuple[Split, ...] = ("dev", "test")  # splits with files of their own


@dataclass(frozen=True)
class ImageStream:
    """The images of a run on disk, as `stream.json` holds them."""

    version: int = VERSION
    files: tuple[RecordFile, ...] = ()
    labels: tuple[str, ...] = ()
    fingerprint: str = ""


@dataclass(frozen=True)
class StreamedImages:
    """Every image of a run, on disk."""

    splits: Mapping[Side, Mapping[str, Rows]]  # "ids" uint8 [N,T,P] and "labels" int32 [N] of train and held_out
    labels: tuple[str, ...]  # names of the labels
    fingerprint: str  # `sha256:<hex>` of the images and labels of both splits


class EncodedImages:
    """Images as one array uint8 [N,T,P], of which only those are decoded that are asked for."""

    def __init__(self, source: RecordRows, records: np.ndarray, preprocessing: ImagePreprocessing):
        self._source, self._records, self._preprocessing = source, records, preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns (N, T, P)."""
        image = self._preprocessing.image
        return (len(self._records), image.tokens, image.patch_width)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the patches uint8 [B,T,P] of rows int [B]."""
        numbers = self._records[rows]
        where = [f"image {number} of the stream" for number in numbers]
        return np.stack(self._preprocessing.encode(self._source.records(numbers), where))


def streamed_labelled(data: Data, preprocessing: ImagePreprocessing, cache: Path) -> StreamedImages:
    """Returns the images of a run, copied into a folder of `cache` where that is missing.

    Raises InputError for images or labels that are missing or bad.
    """
    key = digest(["images", VERSION, source_of(data, COLUMN).key(), sorted(data.moved)])
    folder = cache / key.removeprefix("sha256:")[:32]
    if (stream := _whole(folder)) is None:
        cache.mkdir(parents=True, exist_ok=True)
        try:
            with new_folder(folder, replace=folder.exists()) as temporary:
                _copy(data, temporary)
        except InputError:
            if _whole(folder) is None:  # else another process was faster
                raise
        stream = _whole(folder)
    if stream is None:
        raise OSError(f"{folder}: the copied images cannot be read back; is the disk full?")
    used(folder, hold=True)
    source = RecordRows(folder, stream.files, (), np.dtype(np.uint8))

    def side(name: Side) -> dict[str, Rows]:
        with np.load(folder / NUMBERS.format(name)) as arrays:
            ids = EncodedImages(source, arrays["records"], preprocessing)
            return {"ids": ids, "labels": arrays["labels"]}

    return StreamedImages({"train": side("train"), "held_out": side("held_out")}, stream.labels, stream.fingerprint)


def _whole(folder: Path) -> ImageStream | None:
    """Returns the stream of a folder; None if there is none, or one of whose files is missing or cut."""
    if not (folder / SEAL).is_file():
        return None
    stream = decode(ImageStream, load_json((folder / SEAL).read_text(encoding="utf-8")), str(folder / SEAL))
    if damaged := [file.name for file in stream.files if not file.is_whole(folder)]:
        log.warning("%s: %s is missing or cut; the images are copied again", folder, damaged[0])
        return None
    return stream


def _copy(data: Data, folder: Path) -> None:
    """Copies the images of every split, and notes which are trained on and which are held out."""
    copies, reader = _Copies(folder), RowReader(data, COLUMN)
    rows: dict[str, _Rows] = {name: _Rows() for name in ("train", "dev", "gate", "test")}
    dev_fraction = 0.0 if data.dev else data.dev_fraction
    for row in reader.rows("train") if data.train else ():
        if data.train_fraction == 1 or kept(row.content, data.train_fraction):
            split = membership(row.content, dev_fraction, data.gate_fraction)
            rows[split].add(row, copies.add(row) if split != "gate" else 0)
    if not data.dev:
        rows["dev"] = _moved(rows["dev"], rows["train"], frozenset(data.moved))
    for name in NAMED:
        for row in reader.rows(name) if getattr(data, name) else ():
            rows[name].add(row, copies.add(row))
    held_out = require_sides([name for name, part in rows.items() if part.records])
    sides = {"train": rows["train"], "held_out": rows[held_out]}
    names = COLUMN.names(list(rows["train"].labels), data)
    prints = {}
    for side, part in sides.items():
        order, prints[side] = part.sorted()
        encoded = COLUMN.encode(list(part.labels), names, list(part.labels.values()))
        records, labels = np.array(part.records, np.uint32), encoded[np.array(part.numbers, np.int32)]
        np.savez(folder / NUMBERS.format(side), records=records[order], labels=labels[order])
    stream = ImageStream(files=copies.closed(), labels=names, fingerprint=digest(prints))
    (folder / SEAL).write_text(json.dumps(encode(stream), indent=1), encoding="utf-8")


@dataclass
class _Rows:
    """The rows of a split without their images."""

    records: array[int] = field(default_factory=lambda: array("I"))  # number of each row's record
    numbers: array[int] = field(default_factory=lambda: array("I"))  # number of each row's labels
    labels: dict[tuple[str, ...], str] = field(default_factory=dict)  # labels, in order of appearance, and where first
    contents: bytearray = field(default_factory=bytearray)  # 32 bytes of each row: the sha256 of its image
    _known: dict[tuple[str, ...], int] = field(default_factory=dict)

    def add(self, row: LabelledRow, record: int) -> None:
        self.add_parts(bytes.fromhex(row.content.removeprefix("sha256:")), row.labels, row.where, record)

    def add_parts(self, content: bytes, labels: tuple[str, ...], where: str, record: int) -> None:
        self.labels.setdefault(labels, where)
        self.numbers.append(self._known.setdefault(labels, len(self._known)))
        self.records.append(record)
        self.contents += content

    def content(self, row: int) -> str:
        """Returns what a row is known by."""
        return "sha256:" + self.contents[32 * row : 32 * row + 32].hex()

    def sorted(self) -> tuple[np.ndarray, str]:
        """Returns the rows int [N] in canonical order, by their hash, and their fingerprint."""
        names = list(self.labels)
        hashes = [row_hash(self.content(row), names[number]) for row, number in enumerate(self.numbers)]
        words = np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 4)
        return np.lexsort(words.T[::-1]), fingerprint(hashes)


def _moved(dev: _Rows, train: _Rows, before: frozenset[str]) -> _Rows:
    """Moves development rows to training: those moved before, and one for each label that training lacks.

    Rows of the same image go together. Returns the rows that stay.
    """
    names = list(dev.labels)
    lacking = set(dev.labels) - set(train.labels)
    if not lacking and not before:
        return dev
    places = [place_hash(dev.content(row)) for row in range(len(dev.records))]
    lacking -= {names[number] for place, number in zip(places, dev.numbers, strict=True) if place in before}
    chosen = set(before)
    for row in dev.sorted()[0]:
        if names[dev.numbers[row]] in lacking:
            lacking.remove(names[dev.numbers[row]])
            chosen.add(places[row])
    stay, count = _Rows(), 0
    for row, place in enumerate(places):
        side, labels = train if place in chosen else stay, names[dev.numbers[row]]
        side.add_parts(bytes.fromhex(dev.content(row)[7:]), labels, dev.labels[labels], dev.records[row])
        count += place in chosen
    if count:
        log.warning("%d development images were moved to training, for labels that it lacked", count)
    return stay


class _Copies:
    """Files of encoded images, written in order."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: Any = None
        self._files: list[RecordFile] = []
        self._count = self._bytes = 0  # images and bytes in the open file
        self._before = 0  # images in the files that are closed

    def add(self, row: LabelledRow) -> int:
        """Writes the image of a row; returns the number of its record."""
        from array_record.python.array_record_module import ArrayRecordWriter

        assert row.image is not None, "formats of images give one"
        if self._writer is None:
            self._writer = ArrayRecordWriter(str(self._folder / self._name), OPTIONS)
        self._writer.write(row.image)
        self._count, self._bytes = self._count + 1, self._bytes + len(row.image)
        number = self._before + self._count - 1
        if self._bytes >= FILE_BYTES:
            self._close()
        return number

    @property
    def _name(self) -> str:
        return f"images-{len(self._files):05d}.array_record"

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._files.append(RecordFile.of(self._folder / self._name, self._count))
            self._before, self._count, self._bytes, self._writer = self._before + self._count, 0, 0, None

    def closed(self) -> tuple[RecordFile, ...]:
        """Returns the files, all of them closed."""
        self._close()
        return tuple(self._files)
