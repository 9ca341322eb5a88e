"""The paragraphs of a corpus, shard by shard, from any place on, in memory that does not grow with the files.

A shard is a text file, plain or packed, a Parquet file with a column of texts, or an ArrayRecord file of UTF-8 texts.
It is recognised by its content, an ArrayRecord file by its suffix. Paragraphs stand between blank lines; the end of a
row or record ends one too. Imports no jax.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from backbone.compression import plain_name, streamed
from backbone.errors import InputError, nearest
from backbone.texts import PARQUET, encoding_of

BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")  # line ends with nothing but space between them
ARRAY_RECORDS = (".array_record", ".arrayrecord")  # suffixes of ArrayRecord files
SUFFIXES = (".txt", ".parquet", *ARRAY_RECORDS)  # shards of a folder; the first kind that is there is read
MAX_BYTES = 1 << 20  # length from which a paragraph of a text file is cut, after a word
CHUNK = 1 << 16  # bytes that are read at once
RECORDS = 512  # rows or records that are read at once
REMEDY = "convert the file to UTF-8, or leave it out"

Unit = tuple[int, list[str]]  # paragraphs, and the place behind them from which reading goes on


def units(path: Path, column: str, start: int = 0) -> Iterator[Unit]:
    """Yields the paragraphs of a shard from place `start` on, each with the place behind it.

    A place is a number of bytes of the unpacked text, or of rows or records. Raises InputError naming the file for what
    is damaged, no UTF-8, or has no `column` of texts.
    """
    if is_text(path):
        return _text(path, start)
    is_records = path.suffix.lower() in ARRAY_RECORDS
    return _array_record(path, start) if is_records else _parquet(path, column, start)


def is_text(path: Path) -> bool:
    """Returns whether a shard is a text file, plain or packed."""
    if path.suffix.lower() in ARRAY_RECORDS:
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(PARQUET)) != PARQUET
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def suffix_of(path: Path) -> str:
    """Returns the suffix by which a file in a folder counts as a shard; "" for another file."""
    name = plain_name(path).lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def paragraphs_of(text: str) -> list[str]:
    """Returns the paragraphs of a text, with one space between words."""
    return [words for part in BLANK.split(text) if (words := " ".join(part.split()))]


def _text(path: Path, start: int) -> Iterator[Unit]:
    with streamed(path) as raw:
        stream, place = _as_utf8(path, raw, start), start
        words: list[str] = []
        size, rest = 0, b""
        while line := rest + stream.readline(MAX_BYTES - len(rest)):
            line, rest = _cut(line)
            text = _decoded(line, path, place)
            place, size = place + len(line), size + len(line)
            words += text.split()
            if words and (not text.strip() or size >= MAX_BYTES):
                yield place, [" ".join(words)]
                words, size = [], 0
        if words:
            yield place, [" ".join(words)]


def _as_utf8(path: Path, raw: BinaryIO, start: int) -> BinaryIO:
    """Returns the stream as UTF-8 with newlines from byte `start` on, whatever its mark and its line ends are."""
    encoding = encoding_of(path)
    if encoding != "utf-8":
        stream = io.BufferedReader(_Pieces(_recoded(path, raw, encoding)))
        _skip(stream, start)
        return stream
    head = raw.read(MAX_BYTES)
    text = head.removeprefix(codecs.BOM_UTF8)
    if start < len(text):
        pieces = _after(text[start:], raw)
    else:
        _skip(raw, start - len(text))
        pieces = _after(b"", raw)
    if b"\n" not in head and b"\r" in head:  # lines of the former Mac
        pieces = (piece.replace(b"\r", b"\n") for piece in pieces)
    return io.BufferedReader(_Pieces(pieces))


def _after(head: bytes, raw: BinaryIO) -> Iterator[bytes]:
    yield head
    while piece := raw.read(CHUNK):
        yield piece


def _recoded(path: Path, raw: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yields the text as UTF-8 without its mark."""
    decoder, first = codecs.getincrementaldecoder(encoding)(), True
    try:
        while piece := raw.read(CHUNK):
            text = decoder.decode(piece)
            yield (text.removeprefix("\ufeff") if first else text).encode()
            first = False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not valid {encoding}, which its byte order mark says it is; {REMEDY}") from error


class _Pieces(io.RawIOBase):
    """A stream of pieces of bytes."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _skip(stream: BinaryIO, count: int) -> None:
    """Leaves out `count` bytes; a plain file is not read for it."""
    if stream.seekable():
        stream.seek(count, io.SEEK_CUR)
        return
    while count > 0 and (piece := stream.read(min(CHUNK, count))):
        count -= len(piece)


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """Cuts a line that is as long as a paragraph may be after its last blank, or else after a whole character."""
    if line.endswith(b"\n") or len(line) < MAX_BYTES:
        return line, b""
    place = line.rfind(b" ") + 1
    if not place:  # the last character is at most four bytes long, and alone its first one is no 10xxxxxx
        lengths = (length for length in range(1, 5) if line[-length] & 0xC0 != 0x80)
        place = len(line) - next(lengths, 0)  # without such a byte it is no UTF-8, which reading it says
    return line[:place], line[place:]


def _decoded(content: bytes, path: Path, place: int) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {place + error.start} is not valid UTF-8; {REMEDY}") from None
    if "\0" in text:
        raise InputError(
            f"{path}: byte {place + content.index(0)} is a NUL character; the file is damaged, or is no text"
        )
    return text


def _parquet(path: Path, column: str, start: int) -> Iterator[Unit]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                known = nearest(column, file.schema_arrow.names)
                raise InputError(f"{path}: has no column {column!r}; {known}; set corpus.column")
            number = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if number + rows <= start:
                    number += rows
                    continue
                for batch in file.iter_batches(RECORDS, row_groups=[group], columns=[column]):
                    for text in batch.column(0).to_pylist():
                        number += 1
                        if number > start:
                            yield number, _of_cell(text, f"{path}:row {number}: {column}")
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from error


def _of_cell(text: Any, where: str) -> list[str]:
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: expected text, got {type(text).__name__}; set corpus.column to a column of texts")
    return paragraphs_of(text or "")


def _array_record(path: Path, start: int) -> Iterator[Unit]:
    import grain

    try:
        source = grain.sources.ArrayRecordDataSource(str(path))
        for first in range(start, len(source), RECORDS):
            numbers = range(first, min(first + RECORDS, len(source)))
            for number, record in zip(numbers, source.__getitems__(numbers), strict=True):
                yield number + 1, paragraphs_of(_decoded(record, Path(f"{path}:record {number}"), 0))
    except (RuntimeError, OSError, IndexError) as error:
        raise InputError(f"{path}: not a readable ArrayRecord file: {error}") from error
