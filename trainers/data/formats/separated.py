"""Tables of text: a row a line, columns between commas, tabs or another character, their names in the first line.

A `.csv` file whose columns lie between semicolons, tabs or pipes is read where its header leaves no doubt. A decimal
comma is no delimiter and is not guessed. Source of the quotes: RFC 4180.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from backbone.errors import InputError
from trainers.data.formats.format import Format, ReadSettings, Record

log = logging.getLogger(__name__)

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}  # the likely ones, and their names
SEP_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # Excel's first line that names the delimiter
BEHIND_BLANK = re.compile(r'\s+".*"\s*', re.DOTALL)  # a quoted field that is none, as a blank stands before it


@dataclass(frozen=True)
class Layout:
    """The way in which the fields of a line lie beside one another."""

    delimiter: str
    quoted: bool
    blanks: bool = False  # blanks behind a delimiter are no part of the next field

    def rows(self, text: str) -> Any:
        """Returns a reader of the rows of a text; each is a list of fields, [] for an empty line."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        return csv.reader(
            io.StringIO(text, newline=""),
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            skipinitialspace=self.blanks,
            strict=True,
        )

    def first(self, text: str) -> list[str]:
        """Returns the fields of the first row; [] if there is none."""
        try:
            return next((fields for fields in self.rows(text) if fields), [])
        except csv.Error:
            return []

    @property
    def words(self) -> str:
        """Returns what lies between two columns, for people."""
        return DELIMITERS.get(self.delimiter, repr(self.delimiter)) + " and blanks" * self.blanks


class Separated(Format):
    """The base of tables of text. Each row must have as many fields as the table has columns."""

    reads = ("delimiter",)
    delimiter: ClassVar[str]  # between two fields
    quoted: ClassVar[bool] = True  # a field may stand in quotes, and then hold delimiters and line ends
    guesses: ClassVar[bool] = False  # another delimiter is recognised by the header

    def first_line(self, entry: str, settings: ReadSettings) -> tuple[str, ...]:
        """Returns the fields of the first row."""
        text, _, named = _after_sep(settings.text_of(Path(entry)), settings.delimiter)
        return tuple(self._layout(text, named, settings, Path(entry)).first(text))

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the records of a file, without its empty lines; a record stands at its first line."""
        path = Path(entries[0])
        text, line, named = _after_sep(settings.text_of(path), settings.delimiter)
        layout = self._layout(text, named, settings, path)
        reader, before = layout.rows(text), line - 1
        names: Sequence[str] = settings.header
        if names:
            self._require(names, path, settings, layout, named)
        try:
            for fields in reader:
                where, line = f"{path}:{line}", before + reader.line_num + 1
                if not fields:
                    continue
                if not names:
                    names = fields
                    self._require(names, path, settings, layout, named)
                    continue
                self._check(fields, names, where, layout, text)
                yield where, dict(zip(names[::-1], fields[::-1], strict=True))
        except csv.Error as error:
            raise InputError(f"{path}:{before + reader.line_num}: {error}; {self._hint(layout)}") from error

    def _layout(self, text: str, named: str, settings: ReadSettings, path: Path) -> Layout:
        """Returns the layout of a file: the named one, the format's, or the only one that the header fits."""
        usual = Layout(named or self.delimiter, self.quoted)
        if named or not self.guesses or _fits(usual, text, settings):
            return usual
        fitting = []
        for delimiter in DELIMITERS:
            both = (Layout(delimiter, self.quoted, blanks) for blanks in (False, True))
            fitting += [layout for layout in both if _fits(layout, text, settings)][:1]
        if len(fitting) > 1:
            raise InputError(
                f"{path}: its columns may lie between {' or '.join(layout.words for layout in fitting)}; set "
                "data.delimiter"
            )
        if not fitting:
            return usual
        log.info("%s: its columns lie between %s, by its header; data.delimiter says otherwise", path, fitting[0].words)
        return fitting[0]

    def _require(self, names: Sequence[str], path: Path, settings: ReadSettings, layout: Layout, named: str) -> None:
        """Raises InputError unless `names` are those of the columns to be read."""
        remedy = ", or data.columns if the file has no header"
        if len(names) == 1 and not named:
            others = {other: names[0].split(other) for other in DELIMITERS if other != layout.delimiter}
            delimiter = max(others, key=lambda other: len(others[other]))
            if len(others[delimiter]) > 1:
                names, setting = others[delimiter], {"\t": "tab"}.get(delimiter, repr(delimiter))
                advice = f"; its columns seem to lie between {DELIMITERS[delimiter]}: set data.delimiter={setting}"
                if settings.read and set(settings.read) <= set(names):
                    raise InputError(f"{path}: has one column between {layout.words}{advice}")
                # where delimiters are recognised, the right name is all that it takes
                remedy += f"; its header was split at {DELIMITERS[delimiter]}" if self.guesses else advice
        settings.require_columns(names, str(path), remedy)

    def _check(self, fields: Sequence[str], names: Sequence[str], where: str, layout: Layout, text: str) -> None:
        """Raises InputError unless a row of `text` has a field for each column, and quotes that begin a field."""
        if len(fields) != len(names):
            raise InputError(
                f"{where}: {len(fields)} fields, expected {len(names)} ({', '.join(names)}), between {layout.words}; "
                f"{self._hint(layout)}"
            )
        doubtful = [field for field in fields if field[:1].isspace() and BEHIND_BLANK.fullmatch(field)]
        if self.quoted and not all(_in_quotes(field) in text for field in doubtful):
            raise InputError(f"{where}: a quote behind a blank begins no quotation; remove blanks before quotes")

    def _hint(self, layout: Layout) -> str:
        """Returns the remedy for fields that do not fit."""
        if not self.quoted:
            return "fields in quotes: set data.format=tsv_quoted"
        plain = "data.format=tsv"
        if layout.delimiter != "\t":
            plain += f" data.delimiter={layout.delimiter!r}"
        return f"a field with the delimiter in it stands in quotes; quotes that are no quotation: set {plain}"


def _in_quotes(field: str) -> str:
    """Returns a field as it stands in quotes, in which it may begin with a blank and hold quotes of its own."""
    return '"' + field.replace('"', '""') + '"'


def _after_sep(text: str, delimiter: str) -> tuple[str, int, str]:
    """Returns the text behind a line `sep=;`, the number of its first line, and the delimiter that is named."""
    match = SEP_LINE.match(text)
    return (text[match.end() :], 2, delimiter or match[1]) if match else (text, 1, delimiter)


def _fits(layout: Layout, text: str, settings: ReadSettings) -> bool:
    """Returns whether a file may be in a layout: the first row names what is to be read, or all have known columns."""
    if settings.header:
        try:
            return all(len(fields) == len(settings.header) for fields in layout.rows(text) if fields)
        except csv.Error:
            return False
    fields = layout.first(text)
    return set(settings.read) <= set(fields) and (bool(settings.read) or len(fields) > 1)


class Csv(Separated, tag="csv"):
    """Fields between commas, in quotes where they hold commas, quotes or line ends (RFC 4180)."""

    suffixes = (".csv",)
    delimiter = ","
    guesses = True


class Tsv(Separated, tag="tsv"):
    """Fields between tabs; quotes are text, as in GLUE."""

    suffixes = (".tsv",)
    delimiter = "\t"
    quoted = False


class TsvQuoted(Separated, tag="tsv_quoted"):
    """Fields between tabs, in quotes where they hold tabs, quotes or line ends."""

    delimiter = "\t"
