"""Does the first line of a table of text name its columns, or is it a row? Imports no jax.

Without a header a label of the first line comes back below, and a number stands where numbers do. A header's names do
neither. Where a file shows neither, the line counts as a header unless it looks like a row; then an InputError asks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from adapters.labels.cells import as_number, stripped
from backbone.errors import InputError
from trainers.config import Data
from trainers.data.columns import LABEL_NAMES, TEXT_NAMES
from trainers.data.rows import Entries

MAX_ROWS = 2000  # rows that are looked at
MAX_WORDS = 6  # words of a column's name
DECISIVE = 0.95  # share of a column's cells that are numbers


@dataclass(frozen=True)
class NoHeader:
    """The names for the columns of a file without a header, and why it has none."""

    columns: tuple[str, ...]
    reason: str


def names_of(count: int) -> tuple[str, ...]:
    """Returns names for the columns of a file without a header."""
    return tuple(f"column{number}" for number in range(1, count + 1))


def without_header(data: Data, group: Entries, first: Sequence[str]) -> NoHeader | None:
    """Returns names where the first line, with the fields `first`, is a row; None where it names the columns.

    Names that a person chose (`data.text`, `data.label`, `data.text_pair`) decide. Raises InputError where the line
    looks like a row, but nothing in the file says so.
    """
    settings = data.read_settings("train", {})
    names = names_of(len(first))
    stated = {name for name in (data.text, data.label, data.text_pair) if name}
    if not first or (stated and stated <= set(first)):
        return None
    try:
        records = group.format.records(group.names[:1], replace(settings, header=names))
        rows = [tuple(str(record[name]) for name in names) for _, record in itertools.islice(records, 1, 1 + MAX_ROWS)]
    except InputError:  # a row that does not fit is reported by who reads the table
        return None
    if stated and stated <= set(names):
        return NoHeader(names, "by the names that were set")
    return _judged(first, rows, names, group.names[0])


def _judged(
    first: Sequence[str], rows: Sequence[tuple[str, ...]], names: tuple[str, ...], where: str
) -> NoHeader | None:
    """Returns the verdict on a first line above some rows."""
    columns = list(zip(*[row for row in rows if row != tuple(first)], strict=True)) or [()] * len(first)
    cells = list(zip(map(stripped, first), columns, strict=True))
    if [name for name, _ in cells] == [str(number) for number in range(len(first))]:  # as pandas numbers columns
        return None
    if any(name.lower() in TEXT_NAMES | LABEL_NAMES and name not in below for name, below in cells):
        return None
    for name, below in cells:
        if name and _is_number(name) and _all_numbers(below):
            return NoHeader(names, f"its first line is a row: {name} stands in a column of numbers")
        if name and name in map(stripped, below) and 2 * len(set(below)) <= len(below):
            return NoHeader(names, f"its first line is a row: {name!r} comes back below")
    repeats = any(2 <= len(set(below)) <= len(below) / 2 for _, below in cells)
    like_rows = [name for name, _ in cells if _is_number(name) or len(name.split()) > MAX_WORDS]
    if like_rows and not repeats:
        raise InputError(
            f"{where}: its first line may be a row, or the names of columns ({like_rows[0][:60]!r}); if it is a row, "
            f"set data.columns={','.join(names)}, or other names; if not, name columns with --set data.text=NAME "
            "--set data.label=NAME"
        )
    return None


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]+\.?[0-9]*", text))


def _all_numbers(cells: Sequence[str]) -> bool:
    """Returns whether nearly all cells that are filled hold numbers."""
    filled = [cell for cell in cells if stripped(cell)]
    numbers = 0
    for cell in filled:
        try:
            as_number(cell, "", "")
        except InputError:
            continue
        numbers += 1
    return bool(filled) and numbers >= DECISIVE * len(filled)
