"""A corpus tokenised once into ArrayRecord, in the home, and read from there by the numbers of its sequences.

    text = streamed_text(corpus)
    sequences = tokenised(corpus, preprocessing, roles, home() / "streams")

The folder is named by the content of the shards, the tokenizer and the settings of packing. After every
`COMMIT_BYTES` of text, or more of a large corpus, the sequences so far are made durable, and a process that was killed
goes on from there. Memory holds the paragraphs of one batch. Imports no jax.

Shapes: N sequences, T tokens.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbone.copies import used
from backbone.errors import InputError
from backbone.files import disk_errors, sha256_file, sync_folder, sync_tree, write_durable
from backbone.preprocessing import TextPreprocessing
from backbone.records import decode, digest, encode
from backbone.texts import load_json
from trainers.data.splits import membership
from trainers.pretraining.corpus import Corpus, Packer, Roles, Sequences, Text, files_of
from trainers.pretraining.record_rows import OPTIONS, RecordFile, RecordRows
from trainers.pretraining.shards import units

log = logging.getLogger(__name__)

VERSION = 1  # raised by hand when the same corpus would give other sequences
SEAL = "stream.json"  # file in the folder of a whole stream
PROGRESS = "progress.json"  # the same, in the folder of one that is being made
COMMIT_BYTES = 1 << 27  # text after which the sequences so far are made durable, at least
MAX_FILES = 64  # files of a side, all of which are open while rows are read; a packed corpus may need some more
BATCH_BYTES = 1 << 20  # text that is tokenised at once
SIDES = {"train": "train", "dev": "held_out"}  # side of a corpus by the name of the split


@dataclass(frozen=True)
class TokenStream:
    """What of a corpus has been tokenised, as `stream.json` holds it."""

    version: int = VERSION
    tokens: int = 0  # tokens of the paragraphs in `train`, special ones not counted
    shard: int = 0  # shards that have been read whole
    place: int = 0  # place in the next shard up to which it has been read
    train: tuple[RecordFile, ...] = ()
    held_out: tuple[RecordFile, ...] = ()
    carry: dict[str, tuple[int, ...]] = field(default_factory=dict)  # ids by side that wait for more paragraphs

    def damaged(self, folder: Path) -> str:
        """Returns the name of a file that is missing or cut; "" if all are whole."""
        return next((file.name for file in (*self.train, *self.held_out) if not file.is_whole(folder)), "")


@dataclass(frozen=True)
class StreamedParagraphs:
    """The paragraphs of one side of a corpus, read anew each time that they are asked for."""

    corpus: Corpus
    side: str  # train or held_out

    def __iter__(self) -> Iterator[str]:
        for path in files_of(self.corpus):
            for _, paragraphs in units(path, self.corpus.column):
                for paragraph in paragraphs:
                    if SIDES[membership(paragraph, self.corpus.held_out_fraction, 0.0)] == self.side:
                        yield paragraph


def streamed_text(corpus: Corpus) -> Text:
    """Returns the paragraphs of a corpus, of which none stays in memory."""
    return Text(StreamedParagraphs(corpus, "train"), StreamedParagraphs(corpus, "held_out"))


def tokenised(corpus: Corpus, preprocessing: TextPreprocessing, roles: Roles, cache: Path) -> Sequences:
    """Returns the sequences of a corpus from a folder of `cache`, where they are made if they are missing.

    Raises InputError naming a shard that is absent, damaged, without text or no UTF-8.
    """
    files = list(files_of(corpus))
    identity = {
        "version": VERSION,
        "shards": [sha256_file(path) for path in files],
        "column": corpus.column,
        "tokens": corpus.tokens,
        "held_out_fraction": corpus.held_out_fraction,
        "preprocessing_id": preprocessing.preprocessing_id,
    }
    key = digest(identity)
    folder = cache / key.removeprefix("sha256:")[:32]
    if (stream := _whole(folder)) is None:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if (stream := _whole(folder)) is None:
                _remove(folder)
                stream = _made(files, corpus, preprocessing, roles, folder)
    used(folder, hold=True)
    rows = {
        side: RecordRows(folder, getattr(stream, side), (corpus.tokens,), _dtype(preprocessing))
        for side in SIDES.values()
    }
    return Sequences(rows["train"], rows["held_out"], stream.tokens, key)


def _dtype(preprocessing: TextPreprocessing) -> np.dtype[Any]:
    """Returns the dtype of a stored id."""
    return np.dtype("<u2" if preprocessing.vocabulary <= 1 << 16 else "<i4")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock of a stream while it is made; other processes wait, and read what was made."""
    with folder.with_suffix(".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process tokenises this corpus; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _whole(folder: Path) -> TokenStream | None:
    """Returns the stream of a folder; None if there is none, or one of whose files is missing or cut."""
    stream = _noted(folder / SEAL)
    return stream if stream is not None and not stream.damaged(folder) else None


def _noted(path: Path) -> TokenStream | None:
    """Returns the stream that a file describes; None without the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return decode(TokenStream, load_json(text), str(path))


def _remove(folder: Path) -> None:
    """Removes a stream that is not whole, by its holder of the lock: it is renamed first, so nobody sees a part."""
    if not folder.exists():
        return
    stream, former = _noted(folder / SEAL), folder.with_suffix(".damaged")
    missing = stream.damaged(folder) if stream else SEAL
    log.warning("%s: %s is missing or cut; the corpus is tokenised again", folder, missing)
    shutil.rmtree(former, ignore_errors=True)  # of a process that was killed here
    folder.rename(former)
    shutil.rmtree(former)


def _made(
    files: Sequence[Path], corpus: Corpus, preprocessing: TextPreprocessing, roles: Roles, folder: Path
) -> TokenStream:
    """Tokenises a corpus into `folder`, from where a killed process was on."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    writer = _Writer(partial, corpus, preprocessing, roles, sum(path.stat().st_size for path in files))
    log.info("tokenising %d shards into %s%s", len(files), folder, ", going on" if writer.stream.shard else "")
    with disk_errors(folder):
        for number, path in enumerate(files):
            if number >= writer.stream.shard:
                writer.read(number, path)
        writer.commit(len(files), 0)
    write_durable(partial / SEAL, json.dumps(encode(writer.stream), indent=1).encode())
    (partial / PROGRESS).unlink()
    sync_tree(partial)
    partial.rename(folder)
    sync_folder(folder.parent)
    return writer.stream


def _commit_bytes(size: int, files: int = 0) -> int:
    """Returns the text between two commits of a corpus of `size` bytes, once a side has a number of files.

    The text doubles with every `MAX_FILES` files, for packed shards unpack to more than their size.
    """
    return max(COMMIT_BYTES, -(-size // (MAX_FILES - 1))) << (files // MAX_FILES)


class _Writer:
    """Writes the sequences of both sides, one file each between two commits."""

    def __init__(self, folder: Path, corpus: Corpus, preprocessing: TextPreprocessing, roles: Roles, size: int):
        self._size = size  # bytes of the shards
        self._folder, self._corpus, self._dtype = folder, corpus, _dtype(preprocessing)
        self.stream = self._committed()
        self._packers = {
            side: Packer(preprocessing, roles, corpus.tokens, self.stream.carry.get(side, ()))
            for side in SIDES.values()
        }
        self._files: dict[str, Any] = {}  # open files by side
        self._rows = dict.fromkeys(SIDES.values(), 0)  # sequences in them
        self._bytes = 0  # text since the last commit

    def _committed(self) -> TokenStream:
        """Returns what a killed process had made durable, nothing if a file of it is not whole; removes the rest."""
        stream = _noted(self._folder / PROGRESS) or TokenStream()
        if damaged := stream.damaged(self._folder):
            log.warning("%s: %s is missing or cut; the corpus is tokenised from its start", self._folder, damaged)
            stream = TokenStream()
            (self._folder / PROGRESS).unlink()
        names = {PROGRESS, *(file.name for file in (*stream.train, *stream.held_out))}
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink()
        return stream

    def read(self, number: int, path: Path) -> None:
        """Tokenises a shard, from the committed place on. Raises InputError if it holds no text."""
        start = self.stream.place if number == self.stream.shard else 0
        batch: dict[str, list[str]] = {side: [] for side in SIDES.values()}
        size, paragraphs = 0, 0
        for place, unit in units(path, self._corpus.column, start):
            for paragraph in unit:
                batch[SIDES[membership(paragraph, self._corpus.held_out_fraction, 0.0)]].append(paragraph)
                size, paragraphs = size + len(paragraph), paragraphs + 1
            if size >= BATCH_BYTES:
                self._write(batch, size)
                batch, size = {side: [] for side in SIDES.values()}, 0
                if self._bytes >= _commit_bytes(self._size, len(self.stream.train)):
                    self.commit(number, place)
        if not paragraphs and not start:
            raise InputError(f"{path}: holds no text; leave it out of corpus.files")
        self._write(batch, size)

    def _write(self, batch: dict[str, list[str]], size: int) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        self._bytes += size
        for side, paragraphs in batch.items():
            ids = self._packers[side].pack(paragraphs).astype(self._dtype)
            if len(ids) and side not in self._files:
                self._files[side] = ArrayRecordWriter(str(self._folder / self._name(side)), OPTIONS)
            for row in ids:
                self._files[side].write(row.tobytes())
            self._rows[side] += len(ids)

    def _name(self, side: str) -> str:
        return f"{side}-{len(getattr(self.stream, side)):05d}.array_record"

    def commit(self, shard: int, place: int) -> None:
        """Makes durable what was written, and notes that the corpus has been read up to a place of a shard."""
        made: dict[str, tuple[RecordFile, ...]] = {}
        for side in SIDES.values():
            made[side] = getattr(self.stream, side)
            if side in self._files:
                self._files.pop(side).close()
                made[side] += (RecordFile.of(self._folder / self._name(side), self._rows[side]),)
        self.stream = replace(
            self.stream,
            tokens=self.stream.tokens + self._packers["train"].count,
            shard=shard,
            place=place,
            train=made["train"],
            held_out=made["held_out"],
            carry={side: tuple(packer.carry.tolist()) for side, packer in self._packers.items()},
        )
        self._packers["train"].count = self._bytes = 0
        self._rows = dict.fromkeys(self._rows, 0)
        sync_tree(self._folder)
        write_durable(self._folder / PROGRESS, json.dumps(encode(self.stream)).encode())
