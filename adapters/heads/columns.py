"""Label columns: cells to texts, the texts of all rows to the names of a head's outputs, texts to numbers.

A head states its column (`Head.column`), and nobody else asks what the column holds. A row's labels are kept as a
tuple of texts, whatever the head, so that rows are prepared, hashed and compared alike. Imports no jax.
Shape letters: `N` rows, `C` names, `T` tokens.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from adapters.labels.cells import as_number, as_parts, as_text, binary_digits, listed, looks_listed, plain, stripped
from adapters.labels.spelling import spelling
from adapters.labels.tagging import NO_TAG, OUTSIDE, check_sentence
from backbone.errors import InputError, nearest

Labels = Sequence[tuple[str, ...]]  # of each row
Cell = tuple[Any, str]  # raw value, and its file and line


class LabelFields(Protocol):
    """The fields of a config's `data` that say how labels are read."""

    @property
    def label(self) -> str:
        """Returns the name of the column."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Returns the names of 0..C-1 where the column holds numbers of classes."""

    @property
    def label_separator(self) -> str:
        """Returns what stands between several labels in one text."""

    @property
    def keep_labels(self) -> tuple[str, ...]:
        """Returns the labels whose rows are read; () for all."""


@dataclass(frozen=True)
class Layout:
    """The places of the words of tokenised rows."""

    places: Sequence[np.ndarray]  # first sub-word of each word of each row, int; -1 beyond the cut
    tokens: int  # T, tokens of the longest row's bucket


class LabelColumn:
    """The reading, checking, naming and encoding of a label column. It has no state.

    A column of a head that comes with Topgraft states another `reading` when it reads cells differently. Of a column
    of your own the bytes of its file count, as those of a format do (`own_file`).
    """

    reading: ClassVar[str] = "label"  # part of the key of prepared rows: equal values read equal rows
    several: ClassVar[bool] = False  # a row may have any number of labels; part of the key too
    closed: ClassVar[bool] = False  # labels are of a set: one that the train rows lack cannot be encoded
    reads_whole: ClassVar[bool] = False  # all cells of a split decide how each is read (`settled`)
    labels_per: ClassVar[Literal["row", "word"]] = "row"  # word: the text is words, and each has a label
    chooses_rows: ClassVar[bool] = False  # `data.keep_labels` can choose rows by it
    cells: ClassVar[tuple[Any, ...]] = ()  # examples of cells, for tests
    file: ClassVar[str] = __file__  # file that defines the column

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        file = sys._getframe(1).f_code.co_filename  # of the class statement
        cls.file = str(Path(file).resolve()) if Path(file).is_file() else file

    def own_file(self) -> str:
        """Returns the file of a column that does not come with Topgraft; "" for one that does."""
        return "" if Path(self.file).parent == Path(__file__).resolve().parent else self.file

    @property
    def has_items(self) -> bool:
        """Returns whether its labels are those of `items`, whose spellings can be counted."""
        return self.closed and type(self).parse is LabelColumn.parse

    def key(self) -> dict[str, Any]:
        """Returns what the column adds to the key of prepared rows; the names are those of the first version."""
        return {"multi_label": self.several, "kind": self.reading}

    def settled(self, cells: Iterable[Cell], data: LabelFields) -> LabelColumn:
        """Returns the column that reads the rows of a data set, of which `cells` are the first split.

        Asked where `reads_whole` holds. Raises InputError where the cells contradict each other.
        """
        return self

    def items(self, cell: Any, data: LabelFields, where: str) -> Sequence[Any]:
        """Returns the labels in a cell as they are written, one for each that `parse` returns."""
        raise NotImplementedError

    def parse(self, cell: Any, data: LabelFields, where: str) -> tuple[str, ...]:
        """Returns the labels in a cell; raises InputError that names `where`, file and line."""
        return tuple(label_name(item, data, where) for item in self.items(cell, data, where))

    def cell(self, labels: Sequence[str], data: LabelFields) -> Any:
        """Returns the cell of a JSON file that `parse` reads as `labels`."""
        return list(labels) if self.several or self.labels_per == "word" else labels[0]

    def check(self, words: Sequence[Any], labels: Sequence[str], where: str) -> None:
        """Raises InputError unless `labels` are those of `words`; asked only where `labels_per` is "word"."""
        raise NotImplementedError

    def known_names(self, data: LabelFields) -> tuple[str, ...]:
        """Returns the names that are known without rows; () where the rows decide."""
        return data.label_names

    def names(self, labels: Labels, data: LabelFields) -> tuple[str, ...]:
        """Returns the names of the head's outputs from the train rows; raises InputError where there is none."""
        raise NotImplementedError

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        """Returns the labels of N rows as an array; raises InputError, naming file and line, for an unknown one.

        `layout` is that of the rows' words; only labels of words need it.
        """
        raise NotImplementedError

    def carries(self, labels: np.ndarray, numbers: Collection[int]) -> np.ndarray:
        """Returns which rows carry one of the outputs `numbers`: bool [N] of encoded labels."""
        raise NotImplementedError

    def shares(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Returns how much of each row belongs to each class, float [N,C+1]; the last is for rows without a label.

        Heads that support `out_of_scope` need it.
        """
        raise NotImplementedError

    def majority(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Returns the most frequent answer, bool [C]; heads that support `retrain` need it."""
        raise NotImplementedError


class OneLabel(LabelColumn):
    """One label of a fixed set; encoded as int32 [N]."""

    chooses_rows = True
    closed = True
    cells: ClassVar[tuple[Any, ...]] = ("b", "a", "c", "a", "b")

    def items(self, cell: Any, data: LabelFields, where: str) -> Sequence[Any]:
        value = _opened(cell, data, where)
        if isinstance(value, dict) or (isinstance(value, list) and len(value) > 1):
            shown = repr(value)[:60]
            raise InputError(f"{where}: {data.label}: a list of labels needs head.kind=multi_label, got {shown}")
        return value if value and isinstance(value, list) else [None if value == [] else value]

    def names(self, labels: Labels, data: LabelFields) -> tuple[str, ...]:
        present = {label for row in labels for label in row}
        if len(present) < 2:
            only = next(iter(present), "none")
            raise InputError(
                f"data.label: the train rows hold one class only ({only!r}); a classifier needs at least two: check "
                f"data.label ({data.label!r}), or use head.kind=multi_label"
            )
        return _kept_names(data) or tuple(sorted(present))

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        number = _numbers(labels, names, where)
        return np.array([number[row[0]] for row in labels], np.int32)

    def carries(self, labels: np.ndarray, numbers: Collection[int]) -> np.ndarray:
        return np.isin(labels, list(numbers))

    def shares(self, labels: np.ndarray, classes: int) -> np.ndarray:
        return np.asarray(np.eye(classes + 1)[labels])

    def majority(self, labels: np.ndarray, classes: int) -> np.ndarray:
        return np.arange(classes) == np.bincount(labels).argmax()


class SeveralLabels(LabelColumn):
    """Any number of labels of a fixed set; encoded as float32 [N,C] of 0 and 1.

    A cell is text with `data.label_separator` between labels, a list, a list written out as text, a dictionary of
    labels with 0 or 1, or a vector of 0 and 1 (`adapters.heads.hot_vectors`).
    """

    several = True
    closed = True
    reads_whole = True
    cells: ClassVar[tuple[Any, ...]] = ("a|b", "", ["c"], "b", ["c", "a"])

    def settled(self, cells: Iterable[Cell], data: LabelFields) -> LabelColumn:
        from adapters.heads.hot_vectors import HotVectors, ListedLabels, is_of_vectors

        if self.own_file():
            return self
        return HotVectors() if is_of_vectors(((self.raw(*c, data), c[1]) for c in cells), data) else ListedLabels()

    def items(self, cell: Any, data: LabelFields, where: str) -> Sequence[Any]:
        from adapters.heads.hot_vectors import require_labels

        items = self.raw(cell, where, data)
        require_labels(items, data, where, of_list=isinstance(_opened(cell, data, where), list))
        return items

    def raw(self, cell: Any, where: str, data: LabelFields) -> list[Any]:
        """Returns the items of a cell, be they labels or 0 and 1; raises InputError for lists in lists."""
        value = _opened(cell, data, where)
        if isinstance(value, dict):
            return _chosen(value, data, where)
        if isinstance(value, str):
            if looks_listed(value):
                raise InputError(
                    f"{where}: {data.label}: {value[:60]!r} looks like a list, but is none (quotes and brackets that "
                    f"end); write labels with {data.label_separator!r} between (data.label_separator), or as JSON"
                )
            if bits := binary_digits(value):
                return list(bits)
            return [part for part in map(stripped, value.split(data.label_separator)) if part]
        items = value if isinstance(value, list) else [] if value is None or value != value else [value]
        for item in items:
            if isinstance(item, (list, tuple, dict)):
                raise InputError(f"{where}: {data.label}: expected a list of labels, got {str(value)[:60]}")
        return items

    def names(self, labels: Labels, data: LabelFields) -> tuple[str, ...]:
        present = {label for row in labels for label in row}
        if not present and not data.label_names:
            raise InputError(f"data.label: no train row has a label in the column {data.label!r}")
        return _kept_names(data) or tuple(sorted(present))

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        number = _numbers(labels, names, where)
        hot = np.zeros((len(labels), len(names)), np.float32)
        for row, carried in enumerate(labels):
            hot[row, [number[label] for label in carried]] = 1
        return hot

    def carries(self, labels: np.ndarray, numbers: Collection[int]) -> np.ndarray:
        return np.asarray(labels[:, list(numbers)].any(axis=1))

    def shares(self, labels: np.ndarray, classes: int) -> np.ndarray:
        without = ~labels.any(axis=1, keepdims=True)
        parts = np.concatenate([labels, without], axis=1).astype(float)
        return np.asarray(parts / parts.sum(axis=1, keepdims=True))

    def majority(self, labels: np.ndarray, classes: int) -> np.ndarray:
        sets, counts = np.unique(labels, axis=0, return_counts=True)
        return np.asarray(sets[counts.argmax()] > 0.5)


class Number(LabelColumn):
    """A finite number; encoded as float64 [N], which the head turns into what it is trained on."""

    reading = "number"
    cells: ClassVar[tuple[Any, ...]] = ("3", -1.5, "2e1", 0, "4")

    def parse(self, cell: Any, data: LabelFields, where: str) -> tuple[str, ...]:
        return (repr(as_number(cell, data.label, where)),)

    def known_names(self, data: LabelFields) -> tuple[str, ...]:
        return (data.label,)

    def names(self, labels: Labels, data: LabelFields) -> tuple[str, ...]:
        return (data.label,)

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        return np.array([float(row[0]) for row in labels])

    def carries(self, labels: np.ndarray, numbers: Collection[int]) -> np.ndarray:
        return np.full(len(labels), bool(numbers))


class Tags(LabelColumn):
    """A BIO tag for each word; encoded as int32 [N,T]: numbers at first sub-words, `NO_TAG` everywhere else."""

    reading = "tags"
    labels_per = "word"
    closed = True
    cells: ClassVar[tuple[Any, ...]] = ("O B-x I-x", ["B-y", "O"], "O O O", ["B-x", "B-y", "I-y"], "B-x")

    def items(self, cell: Any, data: LabelFields, where: str) -> Sequence[Any]:
        value = _opened(cell, data, where)
        return as_parts(cell if isinstance(value, str) else value, data.label, where)

    def check(self, words: Sequence[Any], labels: Sequence[str], where: str) -> None:
        check_sentence(words, labels, where)

    def names(self, labels: Labels, data: LabelFields) -> tuple[str, ...]:
        present = {tag for row in labels for tag in row}
        if present <= {OUTSIDE}:
            raise InputError("data.label: no train row holds an entity; check data.label")
        return data.label_names or tuple(sorted(present | {OUTSIDE}))

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        assert layout is not None, "labels of words need the layout of the words"
        number = _numbers(labels, names, where, "tag")
        encoded = np.full((len(labels), layout.tokens), NO_TAG, np.int32)
        for row, (tags, places) in enumerate(zip(labels, layout.places, strict=True)):
            for tag, place in zip(tags, places, strict=True):
                if place >= 0:
                    encoded[row, place] = number[tag]
        return encoded

    def carries(self, labels: np.ndarray, numbers: Collection[int]) -> np.ndarray:
        return np.asarray(np.isin(labels, list(numbers)).any(axis=1))


def label_name(cell: Any, data: LabelFields, where: str) -> str:
    """Returns the label of one cell, by its name or its number; raises InputError where there is none.

    Where `data.label_names` are two, a boolean is the number 0 or 1 unless a name says otherwise.
    """
    text = spelling(cell, data.label, where)
    if not text:
        raise InputError(f"{where}: {data.label}: no label; give the row one, or remove it")
    if not data.label_names or text in data.label_names:
        return text
    if text in ("False", "True") and len(data.label_names) == 2:
        return data.label_names[text == "True"]
    if text.isascii() and text.isdecimal() and int(text) < len(data.label_names):
        return data.label_names[int(text)]
    known = f"0..{len(data.label_names) - 1} of data.label_names, nor a name of them"
    raise InputError(f"{where}: {data.label}: {text!r} is not {known} ({nearest(text, data.label_names)})")


def unknown_labels(labels: Labels, names: Iterable[str]) -> dict[str, int]:
    """Returns the labels that are none of `names`, each with the number of its rows, in alphabetical order."""
    known = set(numbered(names))
    counts = Counter(label for row in labels for label in set(row) if label not in known)
    return dict(sorted(counts.items()))


def _opened(cell: Any, data: LabelFields, where: str) -> Any:
    """Returns a list or a dictionary, also where a text writes one out; any other cell as it is."""
    value = plain(cell)
    if isinstance(value, bytes):
        value = as_text(value, f"{where}: {data.label}")
    if isinstance(value, str):
        written = listed(value, data.label, where)
        value = value if written is None else written
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value]
        pairs = items and all(isinstance(item, tuple) and len(item) == 2 for item in items)  # a map of Parquet
        return dict(items) if pairs else items
    return value


def _chosen(value: dict[Any, Any], data: LabelFields, where: str) -> list[Any]:
    """Returns the keys whose value is 1 or true; raises InputError for values that are neither 0 nor 1."""
    for key, chosen in value.items():
        if plain(chosen) not in (0, 1):
            raise InputError(
                f"{where}: {data.label}: {key!r} has the value {chosen!r}; a dictionary of labels holds 0 and 1"
            )
    return [key for key, chosen in value.items() if plain(chosen) == 1]


def _kept_names(data: LabelFields) -> tuple[str, ...]:
    return tuple(name for name in data.label_names if not data.keep_labels or name in data.keep_labels)


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Returns the number of each name, and of its normal form: grafts of former versions have other spellings."""
    names = list(names)
    return {spelling(name): i for i, name in enumerate(names)} | {name: i for i, name in enumerate(names)}


def _numbers(labels: Labels, names: Sequence[str], where: Sequence[str], noun: str = "label") -> dict[str, int]:
    """Returns the number of each name; raises InputError at the first row with a label that is none of them."""
    number = numbered(names)
    for row, place in zip(labels, where, strict=True):
        for label in row:
            if label not in number:
                rows = sum(any(other not in number for other in row) for row in labels)
                raise InputError(
                    f"{place}: the {noun} {label!r} was never seen in training; {nearest(label, names)}; {rows} of "
                    f"{len(labels)} rows have such a {noun}: name all {noun}s in data.label_names, choose rows by "
                    "data.keep_labels, or correct or remove them"
                )
    return number
