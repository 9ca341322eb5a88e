"""The spelling of a label: every label of every format, head and list of names passes through here. Imports no jax.

Two cells are one label where they differ only by Unicode form (NFC), by blanks, or by the `.0` of a whole number.
Case, compatible forms (NFKC) and characters that look alike keep labels apart.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from adapters.labels.cells import BLANK, as_text, plain, stripped
from backbone.errors import InputError, counted

MISSING = ("nan", "<na>", "nat", "null", "n/a", "#n/a")  # texts that tools write where there is no value
MARKS = ("|", ",", ";", "\t")  # separators of several labels in one text
_EDGES = re.compile(f"^{BLANK}+|{BLANK}+$")
_RUN = re.compile(rf"{BLANK}*\s{BLANK}*")  # blanks with white space among them; a joiner inside an emoji is no blank
_WHOLE = re.compile(r"(-?)(0|[1-9][0-9]*)\.0")
_EXACT = 2**53  # whole numbers below it are exact in float64


def spelling(cell: Any, column: str = "label", where: str = "") -> str:
    """Returns the normal form of a label; "" for a cell without one (nothing, NaN, or blanks alone).

    Numbers count by their value: 0, 0.0, "0" and "0.0" are "0", while "007" and "1.10" stay as they are. A boolean is
    "True" or "False". Raises InputError for a cell that no label can be: infinity, NUL, bytes that are no UTF-8.
    """
    cell = plain(cell)
    text = as_text(cell, f"{where}: {column}") if isinstance(cell, (str, bytes)) else _written(cell, column, where)
    if "\0" in text:
        raise InputError(f"{where}: {column}: the label {text[:40]!r} holds a NUL character; the file is damaged")
    return _normal(text)


def written(cell: Any) -> str:
    """Returns a label as its cell shows it, for counts of spellings; a typed cell as Python writes it."""
    cell = plain(cell)
    return cell.decode(errors="replace") if isinstance(cell, bytes) else cell if isinstance(cell, str) else str(cell)


def spelt(names: Iterable[str], field_name: str) -> tuple[str, ...]:
    """Returns the normal forms of names in a config; raises InputError for two that are one, or for a blank one."""
    first: dict[str, str] = {}
    for name in names:
        label = spelling(name, field_name)
        if not label:
            raise InputError(f"{field_name}: {name!r} is no name")
        if label in first:
            raise InputError(f"{field_name}: {first[label]!r} and {name!r} are one label; leave one out")
        first[label] = name
    return tuple(first)


def _written(cell: Any, column: str, where: str) -> str:
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float) and math.isinf(cell):
        raise InputError(f"{where}: {column}: {cell} is no label")
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < _EXACT:
        return str(int(cell))
    if isinstance(cell, Decimal) and cell.is_finite():
        return format(cell.normalize() + 0, "f")
    return str(cell)


@functools.lru_cache(maxsize=4096)
def _normal(text: str) -> str:
    text = _RUN.sub(" ", _EDGES.sub("", unicodedata.normalize("NFC", text)))
    if whole := _WHOLE.fullmatch(text):
        text = whole[1] + whole[2]
    return "0" if text == "-0" else text


@dataclass(frozen=True)
class Spelling:
    """A label that is written in another way than its normal form, or in several."""

    label: str  # normal form, which is the label's name
    rows: dict[str, int]  # number of rows by the way it is written

    def __str__(self) -> str:
        """Returns the ways with their counts, for messages."""
        ways = ", ".join(f"{way!r} ({counted(count, 'row')})" for way, count in self.rows.items())
        return f"{ways}: one label, {self.label!r}"


@dataclass
class Spellings:
    """A tally of the ways in which labels are written."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)  # rows by label and way

    def add(self, label: str, cell: Any) -> None:
        """Counts one cell of a label."""
        self.counts.setdefault(label, Counter())[written(cell)] += 1

    def several(self) -> tuple[Spelling, ...]:
        """Returns the labels that are not always written as their name, in alphabetical order."""
        odd = {label: ways for label, ways in self.counts.items() if set(ways) != {label}}
        return tuple(Spelling(label, dict(ways.most_common())) for label, ways in sorted(odd.items()))

    def alike(self) -> tuple[tuple[str, ...], ...]:
        """Returns the groups of labels that differ only by case, compatible form or invisible characters."""
        groups: dict[str, list[str]] = {}
        for label in sorted(self.counts):
            groups.setdefault(_visible(label), []).append(label)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    def missing(self) -> tuple[str, ...]:
        """Returns the labels that tools write where there is no value."""
        return tuple(sorted(label for label in self.counts if label.casefold() in MISSING))

    def joined(self, *, several: bool = False) -> tuple[str, ...]:
        """Returns the labels that are other labels with a separator between, if each part stands in two labels or more.

        `a,b` beside `a` and `b,c`: several labels in one text, whose separator is another than the config's. Where rows
        have `several` labels, one part that is a label by itself is enough: `a,b` beside `b`.
        """
        parts = {
            (mark, label): [stripped(part) for part in label.split(mark)] for mark in MARKS for label in self.counts
        }
        stand = Counter((mark, part) for (mark, _), parted in parts.items() for part in set(parted))
        return tuple(
            label
            for (mark, label), parted in parts.items()
            if len(parted) > 1
            and all(parted)
            and (all(stand[mark, part] > 1 for part in parted) or (several and any(p in self.counts for p in parted)))
        )


def _visible(label: str) -> str:
    """Returns what a reader sees of a label: NFKC, casefolded, one space between words, no format characters."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())
