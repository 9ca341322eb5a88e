"""Readers: files of many formats, or a TFDS name, to rows of text (or pairs of texts) and labels.

Every reader is strict: a row that cannot be understood is an InputError with file, line and remedy,
never a row left out. Imports no jax; `pyarrow` and `tensorflow_datasets` only where they are used.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapters.cells import as_number, as_parts, as_text
from adapters.heads.columns import LabelColumn
from backbone.errors import InputError, nearest
from trainers.config import Data
from trainers.data.tags import sentences

Split = Literal["train", "dev", "test"]
TFDS = "tfds:"

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".bio": "bio",
    ".conll": "bio",
}
_WITHOUT_COLUMNS = ("parallel", "label_text", "bio", "json_lists")


@dataclass(frozen=True)
class LabelledRow:
    """One example."""

    text: str
    labels: tuple[str, ...]  # labels as the head's column reads them: one, several, a number's text, a tag per word
    where: str  # file and line, for messages
    difficulty: float | None = None  # from data.difficulty
    pair: str | None = None  # the second text, from data.text_pair
    image: bytes | None = None  # encoded; the text is then the sha256 of these bytes, what the row is known by

    @property
    def content(self) -> str:
        """The text, or both with NUL (which no text holds) between them: what a row is known by."""
        return self.text if self.pair is None else f"{self.text}\0{self.pair}"


def file_of(name: str, data: Data) -> Path:
    """The file that an entry of a split names."""
    return Path(name.partition("#")[0] if data.format == "json_lists" else name)


def read_rows(data: Data, split: Split, column: LabelColumn) -> Iterator[LabelledRow]:
    """Returns the rows of a split in the order of its files; raises InputError at the first bad one."""
    rows = _all_rows(data, split, column)
    return _with_labels(rows, data, split, column) if data.keep_labels else rows


def _with_labels(rows: Iterator[LabelledRow], data: Data, split: str, column: LabelColumn) -> Iterator[LabelledRow]:
    """Yields the rows whose label is one of `data.keep_labels`; raises InputError if train lacks one of them."""
    if not column.chooses_rows:
        raise InputError("data.keep_labels: chooses rows by their one label; this head reads none, or several, of them")
    seen = set()
    for row in rows:
        seen.add(row.labels[0])
        if row.labels[0] in data.keep_labels:
            yield row
    missing = [label for label in data.keep_labels if label not in seen]
    if seen and (missing if split == "train" else len(missing) == len(data.keep_labels)):
        raise InputError(
            f"data.keep_labels: no row of data.{split} has the label {missing[0]!r}; {nearest(missing[0], seen)}"
        )


def _all_rows(data: Data, split: Split, column: LabelColumn) -> Iterator[LabelledRow]:
    files: tuple[str, ...] = getattr(data, split)
    reading = _Reading(data, split, column)
    if data.of_images:
        from trainers.data.image_files import read_images

        if files:
            yield from _counted((reading.image(*found) for found in read_images(data, split)), files[0])
        return
    for field in ("difficulty", "text_pair"):
        if getattr(data, field) and data.format in _WITHOUT_COLUMNS:
            raise InputError(f"data.{field}: files of format {data.format} have no columns")
    if data.format == "parallel" and files:
        yield from _counted(reading.parallel(Path(files[0]), Path(files[1])), files[0])
        return
    for name in files:
        if name.startswith(TFDS):
            yield from _counted(reading.tfds(name.removeprefix(TFDS)), name)
            continue
        path = file_of(name, data)
        if not path.is_file():
            raise InputError(f"data.{split}: {name}: no such file")
        if data.format == "json_lists":
            yield from _counted(reading.json_lists(path, name.partition("#")[2]), name)
        else:
            yield from _counted(reading.reader(path)(path), name)


def suffix_format(path: Path, split: str) -> str:
    """The format that a file's suffix names; raises InputError for an unknown one."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"data.{split}: {path}: format unknown from its suffix; set data.format")
    return _SUFFIXES[path.suffix.lower()]


def _counted(rows: Iterator[LabelledRow], name: str) -> Iterator[LabelledRow]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{name}: holds no rows")


@dataclass(frozen=True)
class _Reading:
    data: Data
    split: str
    column: LabelColumn

    def reader(self, path: Path) -> Callable[[Path], Iterator[LabelledRow]]:
        kind: str = self.data.format
        if kind == "auto":
            kind = suffix_format(path, self.split)
        readers: dict[str, Callable[[Path], Iterator[LabelledRow]]] = {
            "csv": lambda p: self.separated(p, ",", quoted=True),
            "tsv": lambda p: self.separated(p, "\t", quoted=False),
            "tsv_quoted": lambda p: self.separated(p, "\t", quoted=True),
            "jsonl": self.jsonl,
            "parquet": self.parquet,
            "label_text": self.label_text,
            "bio": self.bio,
        }
        if kind == "bio" and self.column.labels_per != "word":
            raise InputError(f"data.{self.split}: {path}: holds tags of words; it needs head.kind=token_tagging")
        return readers[kind]

    def separated(self, path: Path, delimiter: str, *, quoted: bool) -> Iterator[LabelledRow]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        stream = io.StringIO(self._text(path), newline="")
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        names: Sequence[str] = self.data.columns
        places: dict[str, int] = {}
        line = 1
        try:
            for fields in reader:
                where, line = f"{path}:{line}", reader.line_num + 1
                if not fields:
                    continue
                if not names:
                    names = fields
                    continue
                if not places:
                    places = {column: self._column(column, names, path) for column in self._columns}
                if len(fields) != len(names):
                    raise InputError(
                        f"{where}: {len(fields)} fields, expected {len(names)} ({', '.join(names)}){_hint(quoted)}"
                    )
                yield self.row(*(fields[places[column]] for column in self._columns), where=where)
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: {error}{_hint(quoted)}") from error
        if names and not places:
            for column in self._columns:
                self._column(column, names, path)

    @property
    def _columns(self) -> tuple[str, ...]:
        """The columns that are read: text, label and, where asked for, difficulty and the second text."""
        return tuple(self._roles.values())

    @property
    def _roles(self) -> dict[str, str]:
        """The column of each field of `data` that names one."""
        fields = ("text", "label", "difficulty", "text_pair")
        return {field: getattr(self.data, field) for field in fields if getattr(self.data, field)}

    def _field(self, column: str) -> str:
        return f"data.{list(self._roles)[self._columns.index(column)]}"

    def _column(self, column: str, names: Sequence[str], path: Path) -> int:
        if column not in names:
            field = self._field(column)
            raise InputError(
                f"{path}: has no column {column!r}; {nearest(column, names)}; "
                f"set {field}, or data.columns if the file has no header"
            )
        return list(names).index(column)

    def jsonl(self, path: Path) -> Iterator[LabelledRow]:
        for number, line in enumerate(self._text(path).split("\n"), 1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
            for column in self._columns:
                if column not in record:
                    known = nearest(column, record)
                    raise InputError(f"{where}: has no field {column!r}; {known}; set {self._field(column)}")
            yield self.row(*(record[column] for column in self._columns), where=where)

    def parquet(self, path: Path) -> Iterator[LabelledRow]:
        import pyarrow
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(path)
            names = file.schema_arrow.names
            columns = [names[self._column(column, names, path)] for column in self._columns]
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
                for record in batch.to_pylist():
                    number += 1
                    yield self.row(*(record[column] for column in columns), where=f"{path}:row {number}")
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file: {error}") from error

    def label_text(self, path: Path) -> Iterator[LabelledRow]:
        for number, line in _lines(self._text(path)):
            label, space, text = line.partition(" ")
            if not space:
                raise InputError(f"{path}:{number}: expected LABEL, a space and the text")
            yield self.row(text, label, where=f"{path}:{number}")

    def bio(self, path: Path) -> Iterator[LabelledRow]:
        for where, words, tags in sentences(path, self._text(path)):
            yield self.row(words, tags, where=where)

    def json_lists(self, path: Path, name: str) -> Iterator[LabelledRow]:
        try:
            lists = json.loads(self._text(path))
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        known = [key for key, value in lists.items() if isinstance(value, list)] if isinstance(lists, dict) else []
        if name not in known:
            raise InputError(
                f"data.{self.split}: {path}: has no list {name!r} (json_lists reads FILE#LIST); {nearest(name, known)}"
            )
        for number, item in enumerate(lists[name], 1):
            where = f"{path}#{name}:{number}"
            if not isinstance(item, list) or len(item) != 2:
                raise InputError(f"{where}: expected [text, label], got {json.dumps(item)[:60]}")
            yield self.row(*item, where=where)

    def parallel(self, texts: Path, labels: Path) -> Iterator[LabelledRow]:
        for path in (texts, labels):
            if not path.is_file():
                raise InputError(f"data.{self.split}: {path}: no such file")
        left, right = list(_lines(self._text(texts))), list(_lines(self._text(labels)))
        if len(left) != len(right):
            raise InputError(f"{texts} has {len(left)} lines, {labels} has {len(right)}: they must be parallel")
        for (number, text), (_, label) in zip(left, right, strict=True):
            yield self.row(text, label.strip(), where=f"{texts}:{number}")

    def tfds(self, name: str) -> Iterator[LabelledRow]:
        builder, split = tfds_builder(name, self.split)
        if split not in builder.info.splits:
            raise InputError(f"tfds:{name}: has no split {split!r}; {nearest(split, builder.info.splits)}")
        names = list(builder.info.features)
        for column in self._columns:
            self._column(column, names, Path(f"tfds:{name}"))
        feature = builder.info.features[self.data.label]
        to_name = getattr(feature, "int2str", None) or getattr(getattr(feature, "feature", None), "int2str", None)
        for number, record in enumerate(builder.as_data_source(split=split)):
            text, label, *more = (record[column] for column in self._columns)
            where = f"tfds:{name}:{number}"
            yield self.row(text, tfds_label(label, to_name, where), *more, where=where)

    def row(self, text: Any, label: Any, *more: Any, where: str) -> LabelledRow:
        """Returns a checked row; `more` are the values of the columns after text and label."""
        others = dict(zip(list(self._roles)[2:], more, strict=False))
        difficulty = None
        if "difficulty" in others:
            difficulty = as_number(others["difficulty"], self.data.difficulty, where)
        if self.column.labels_per == "word":
            words = as_parts(text, self.data.text, where)
            labels = self.column.parse(label, self.data, where)
            self.column.check(words, labels, where)
            return LabelledRow(" ".join(words), labels, where, difficulty)
        text = self._side(text, self.data.text, where)
        pair = self._side(others["text_pair"], self.data.text_pair, where) if "text_pair" in others else None
        if pair is not None:
            for side, column in ((text, self.data.text), (pair, self.data.text_pair)):
                if not side.strip():
                    raise InputError(f"{where}: {column}: is empty; a pair needs both sides")
        return LabelledRow(text, self.column.parse(label, self.data, where), where, difficulty, pair)

    def _side(self, text: Any, column: str, where: str) -> str:
        text = as_text(text, f"{where}: {column}") if isinstance(text, (bytes, str)) else text
        if not isinstance(text, str):
            raise InputError(
                f"{where}: {column}: expected text, got {'nothing' if text is None else type(text).__name__}"
            )
        if "\0" in text:
            raise InputError(f"{where}: {column}: holds a NUL character; the file is damaged or not text")
        return text

    def image(self, content: bytes, label: Any, where: str) -> LabelledRow:
        """Returns the row of an image that was decoded once already."""
        labels = self.column.parse(label, self.data, where)
        return LabelledRow("sha256:" + hashlib.sha256(content).hexdigest(), labels, where, image=content)

    def _text(self, path: Path) -> str:
        content = path.read_bytes()
        try:
            text = content.decode(self.data.encoding)
        except LookupError:
            raise InputError(f"data.encoding: {self.data.encoding!r} is unknown to Python") from None
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise InputError(
                f"{path}:{line}: byte {error.start} is not valid {self.data.encoding}; "
                f"convert the file, or set data.encoding (latin-1, cp1252, ...)"
            ) from None
        return text.removeprefix("\ufeff")


def _hint(quoted: bool) -> str:
    return (
        "; quotes that are no quotation: set data.format=tsv"
        if quoted
        else "; fields in quotes: set data.format=tsv_quoted"
    )


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines split at newlines only: texts hold other Unicode line breaks."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield number, line.removesuffix("\r")


def tfds_label(value: Any, to_name: Callable[[int], str] | None, where: str) -> Any:
    """The name of a class of TFDS, or a list of names; raises InputError for -1, which stands for no label."""
    if hasattr(value, "ndim") and value.ndim:
        return [tfds_label(item, to_name, where) for item in value]
    if to_name is not None:
        if int(value) < 0:
            raise InputError(f"{where}: no label ({int(value)}); choose a split that has labels")
        return to_name(int(value))
    return value.item() if hasattr(value, "item") else value


def tfds_builder(name: str, split: str) -> tuple[Any, str]:
    """(prepared builder, split) of `NAME[/CONFIG][:SPLIT]`; `split` is the default.

    Raises InputError when TFDS does not know the name or cannot prepare it here.
    """
    import tensorflow_datasets as tfds

    name, _, chosen = name.partition(":")
    try:
        builder = tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        try:
            builder = tfds.builder(name)
        except (tfds.core.DatasetNotFoundError, ValueError, ImportError):
            raise InputError(f"tfds:{name}: TFDS does not know this name: {str(error).splitlines()[0]}") from error
    except ImportError as error:
        raise InputError(f"tfds:{name}: needs TensorFlow to be prepared: pip install 'topgraft[tensorflow]'") from error
    try:
        builder.download_and_prepare()
    except ImportError as error:
        raise InputError(f"tfds:{name}: needs TensorFlow to be prepared: pip install 'topgraft[tensorflow]'") from error
    except (OSError, ValueError, AssertionError, tfds.download.DownloadError) as error:
        raise InputError(
            f"tfds:{name}: cannot be prepared here: {type(error).__name__}: {str(error).splitlines()[0]}; prepare it "
            f"where there is network (pip install 'topgraft[tensorflow]' if it asks for TensorFlow) and copy its folder"
        ) from error
    return builder, chosen or split
