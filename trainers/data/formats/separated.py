"""Tables of text: a row a line, fields between commas or tabs, names of the columns in the first line."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from backbone.errors import InputError
from trainers.data.formats.format import Format, ReadSettings, Record


class Separated(Format):
    """The base of tables of text. Each row must have as many fields as the table has columns."""

    delimiter: ClassVar[str]  # between two fields
    quoted: ClassVar[bool] = True  # a field may stand in quotes, and then hold delimiters and line ends
    hint: ClassVar[str] = "; quotes that are no quotation: set data.format=tsv"  # remedy for fields that do not fit

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the records of a file, without its empty lines; a record stands at its first line."""
        path = Path(entries[0])
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        quoting: Any = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        stream = io.StringIO(settings.text_of(path), newline="")
        reader = csv.reader(stream, delimiter=self.delimiter, quoting=quoting, strict=True)
        names: Sequence[str] = settings.header
        if names:
            self._require(names, path, settings)
        line = 1
        try:
            for fields in reader:
                where, line = f"{path}:{line}", reader.line_num + 1
                if not fields:
                    continue
                if not names:
                    names = fields
                    self._require(names, path, settings)
                    continue
                if len(fields) != len(names):
                    raise InputError(
                        f"{where}: {len(fields)} fields, expected {len(names)} ({', '.join(names)}){self.hint}"
                    )
                yield where, dict(zip(names[::-1], fields[::-1], strict=True))  # the first of two columns of a name
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: {error}{self.hint}") from error

    def _require(self, names: Sequence[str], path: Path, settings: ReadSettings) -> None:
        settings.require_columns(names, str(path), ", or data.columns if the file has no header")


class Csv(Separated, tag="csv"):
    """Fields between commas, in quotes where they hold commas, quotes or line ends (RFC 4180)."""

    suffixes = (".csv",)
    delimiter = ","


class Tsv(Separated, tag="tsv"):
    """Fields between tabs; quotes are text, as in GLUE."""

    suffixes = (".tsv",)
    delimiter = "\t"
    quoted = False
    hint = "; fields in quotes: set data.format=tsv_quoted"


class TsvQuoted(Separated, tag="tsv_quoted"):
    """Fields between tabs, in quotes where they hold tabs, quotes or line ends."""

    delimiter = "\t"
