"""Rows of text, pairs of texts or images with their labels, from files of any format.

A format (`trainers.data.formats`) yields records; here their columns become the text, the label, the difficulty, the
second text and the image of a row. Every step is strict: a record that cannot be understood is an InputError with
file, line and remedy, never a row left out. Imports no jax.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from adapters.heads.columns import LabelColumn
from adapters.labels.cells import as_number, as_parts, as_text, listed, stripped
from adapters.labels.spelling import Spellings
from backbone.errors import InputError, nearest
from backbone.remote import is_remote, local
from trainers.config import Data
from trainers.data.encoded_images import image_bytes
from trainers.data.formats.format import Format, format_of
from trainers.data.tag_records import records_in_bio

Split = Literal["train", "dev", "test"]
ROLES = ("text", "label", "difficulty", "text_pair")  # fields of `Data` that name the columns of a row of text


@dataclass(frozen=True)
class LabelledRow:
    """A text, a pair of texts or an image, with its labels."""

    text: str  # text, or words with spaces between; of an image sha256:HEX of its bytes
    labels: tuple[str, ...]  # labels as the head's column reads them: one, several, a number's text, a tag per word
    where: str  # file and line, for messages
    difficulty: float | None = None  # number in the column data.difficulty
    pair: str | None = None  # second text, from the column data.text_pair
    image: bytes | None = None  # encoded image

    @property
    def content(self) -> str:
        """Returns what the row is known by: the text, or both texts with NUL between them, which no text holds."""
        return self.text if self.pair is None else f"{self.text}\0{self.pair}"


@dataclass(frozen=True)
class Entries:
    """Entries of a split that are read together: one, or as many files as the format takes."""

    format: Format
    names: tuple[str, ...]


def entries(data: Data, split: Split) -> Iterator[Entries]:
    """Yields the entries of a split with their formats; raises InputError for a file that does not exist.

    An entry on an object store is that of its copy.
    """
    names = tuple(str(local(name)) if is_remote(name) else name for name in getattr(data, split))
    together = names and data.file_format is not None and data.file_format.files
    for group in [names] if together else [(name,) for name in names]:
        chosen = format_of(group[0], data.format, split, image_column=bool(data.image))
        for name in group:
            chosen.require_entry(name, split)
        images = chosen.of_images or bool(data.image)
        if images != data.of_images:
            raise InputError(
                f"data.{split}: {group[0]}: format {chosen.tag} holds {'images' if images else 'text'}, but "
                f"data.format={data.format} and data.image={data.image!r} say otherwise; set one of them"
            )
        yield Entries(chosen, group)


@dataclass
class RowReader:
    """Reads the rows of a data set, split by split; the first split settles how the labels of all are read."""

    data: Data
    column: LabelColumn
    limit: int | None = None  # rows of a split that are read at most; None: all
    spellings: Spellings = field(default_factory=Spellings)  # ways in which the labels are written

    def rows(self, split: Split) -> Iterator[LabelledRow]:
        """Yields the rows of a split in the order of its files; raises InputError at the first bad one."""
        rows: Iterator[_Unlabelled] = itertools.islice(self._unlabelled(split), self.limit)
        if self.column.reads_whole:
            kept = list(rows)
            self.column = self.column.settled([(row.cell, row.where) for row in kept], self.data)
            rows = iter(kept)
        labelled = map(self._labelled, rows)
        return _with_labels(labelled, self.data, split, self.column) if self.data.keep_labels else labelled

    def _unlabelled(self, split: Split) -> Iterator[_Unlabelled]:
        """Yields every row of a split; raises InputError for a file that holds none."""
        reading = _Reading(self.data, split, self.column)
        for group in entries(self.data, split):
            rows = reading.rows(group)
            first = next(rows, None)
            if first is None:
                raise InputError(f"{group.names[0]}: holds no rows")
            yield first
            yield from rows

    def _labelled(self, row: _Unlabelled) -> LabelledRow:
        """Returns the row with its labels, and counts how they are written."""
        data, column, where = self.data, self.column, row.where
        labels = column.parse(row.cell, data, where)
        if column.labels_per == "word":
            words = as_parts(_words(row.text, row.cell, data, where), data.text, where)
            column.check(words, labels, where)
            row.text = " ".join(words)
        if column.has_items:
            for label, item in zip(labels, column.items(row.cell, data, where), strict=True):
                self.spellings.add(label, item)
        return LabelledRow(row.text, labels, where, row.difficulty, row.pair, row.image)


def read_rows(data: Data, split: Split, column: LabelColumn) -> Iterator[LabelledRow]:
    """Returns the rows of a split in the order of its files; raises InputError at the first bad one."""
    return RowReader(data, column).rows(split)


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


def _words(text: Any, cell: Any, data: Data, where: str) -> Any:
    """Returns the words of a sentence; a list written out as text where the cell of its tags is one too."""
    if isinstance(text, str) and isinstance(cell, str) and listed(cell, data.label, where) is not None:
        written = listed(text, data.text, where)
        return text if written is None else written
    return text


@dataclass
class _Unlabelled:
    """A row whose label is still the raw cell."""

    text: Any  # checked text; raw where each word has a label
    cell: Any  # raw label
    where: str
    difficulty: float | None = None
    pair: str | None = None
    image: bytes | None = None


@dataclass(frozen=True)
class _Reading:
    """Records of a split to rows without labels."""

    data: Data
    split: str
    column: LabelColumn

    def rows(self, group: Entries) -> Iterator[_Unlabelled]:
        """Yields the rows of some entries: the values in each record's columns, or of each role without columns."""
        chosen, data, images = group.format, self.data, self.data.of_images
        self._require_fit(group)
        columns = {"image": data.image, "label": data.label} if images else self._roles
        if not chosen.has_columns:
            columns = {role: role for role in ("image" if images else "text", "label")}
        settings = data.read_settings(self.split, columns if chosen.has_columns else {})
        records = chosen.records(group.names, settings)
        if self.column.reading == "tags" and not chosen.labels_per:
            records = records_in_bio(records, columns["label"], group.names[0])
        for where, record in records:
            try:
                values = [record[column] for column in columns.values()]
            except KeyError:
                raise _incomplete(chosen, columns, record, where) from None
            if images:
                content = image_bytes(values[0], data.image or "image", where)
                name = "sha256:" + hashlib.sha256(content).hexdigest()
                yield _Unlabelled(name, values[1], where, image=content)
            else:
                yield self.row(*values, where=where)

    def _require_fit(self, group: Entries) -> None:
        """Raises InputError if the format cannot hold what the data name or the head reads."""
        chosen = group.format
        chosen.require_layout(self.data.read_settings(self.split, {}))
        for name in () if self.data.of_images or chosen.has_columns else ("difficulty", "text_pair"):
            if getattr(self.data, name):
                raise InputError(f"data.{name}: files of format {chosen.tag} have no columns")
        if chosen.labels_per == "word" and self.column.labels_per != "word":
            raise InputError(
                f"data.{self.split}: {group.names[0]}: holds tags of words; it needs head.kind=token_tagging"
            )

    @property
    def _roles(self) -> dict[str, str]:
        """Returns the column of each role of a row of text that has one."""
        return {role: getattr(self.data, role) for role in ROLES if getattr(self.data, role)}

    def row(self, text: Any, label: Any, *more: Any, where: str) -> _Unlabelled:
        """Returns a row of checked texts; `more` are the values of the columns after text and label."""
        others = dict(zip(list(self._roles)[2:], more, strict=False))
        difficulty = None
        if "difficulty" in others:
            difficulty = as_number(others["difficulty"], self.data.difficulty, where)
        if self.column.labels_per == "word":
            return _Unlabelled(text, label, where, difficulty)
        text = self._side(text, self.data.text, where)
        pair = self._side(others["text_pair"], self.data.text_pair, where) if "text_pair" in others else None
        if pair is not None:
            for side, column in ((text, self.data.text), (pair, self.data.text_pair)):
                if not stripped(side):
                    raise InputError(f"{where}: {column}: is empty; a pair needs both sides")
        return _Unlabelled(text, label, where, difficulty, pair)

    def _side(self, text: Any, column: str, where: str) -> str:
        text = as_text(text, f"{where}: {column}") if isinstance(text, (bytes, str)) else text
        if not isinstance(text, str):
            raise InputError(
                f"{where}: {column}: expected text, got {'nothing' if text is None else type(text).__name__}"
            )
        if "\0" in text:
            raise InputError(f"{where}: {column}: holds a NUL character; the file is damaged or not text")
        return text


def _incomplete(chosen: Format, columns: Mapping[str, str], record: Mapping[str, Any], where: str) -> InputError:
    """Returns the error for a record that lacks one of `columns`, the column of each role."""
    role, column = next((role, column) for role, column in columns.items() if column not in record)
    if chosen.has_columns:
        return InputError(f"{where}: has no field {column!r}; {nearest(column, record)}; set data.{role}")
    known = ", ".join(columns)
    return InputError(f"{where}: a record of format {chosen.tag} holds {', '.join(record)}; it must hold {known}")
