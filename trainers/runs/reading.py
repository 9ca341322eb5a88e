"""The report of a reading: what was merged, moved, empty or left out among the rows. Imports no jax.

It is kept beside prepared rows and in a run's result, so a run that reuses rows says the same as the one that read
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from adapters.labels.spelling import Spelling
from backbone.errors import counted

MAX_NAMED = 5  # items of a kind that a message names


@dataclass(frozen=True)
class MovedRow:
    """A development row that training keeps, because training lacked a label of it."""

    where: str  # file and line
    labels: tuple[str, ...]
    hash: str  # hash of the normalised text, by which it is known for good


@dataclass(frozen=True)
class EmptyTexts:
    """Rows of a split whose text is empty, or blanks alone."""

    rows: int
    where: str  # file and line of the first


@dataclass(frozen=True)
class ReadReport:
    """What a person should know about the rows that were read."""

    spellings: tuple[Spelling, ...] = ()  # labels that are not always written as their name
    alike: tuple[tuple[str, ...], ...] = ()  # labels kept apart that differ only by case, form or invisible characters
    missing: tuple[str, ...] = ()  # labels that tools write where there is no value
    joined: tuple[str, ...] = ()  # labels that are others with a separator between
    unused: tuple[str, ...] = ()  # names of data.label_names without a training row
    moved: tuple[MovedRow, ...] = ()  # rows that training keeps
    empty: dict[str, EmptyTexts] = field(default_factory=dict)  # empty texts by split
    notes: tuple[str, ...] = ()  # what formats left out, in words

    def warnings(self) -> Iterator[str]:
        """Yields a sentence for each thing that changes what is trained or that is probably a mistake."""
        for spelling in self.spellings:
            if len(spelling.rows) > 1:
                yield f"labels: {spelling}"
        for group in self.alike:
            yield f"labels: {_named(group)} differ by case or form only and are kept apart; correct them if not"
        if self.missing:
            yield f"labels: {_named(self.missing)} may stand for missing values; they are read as names"
        if self.joined:
            yield (
                f"labels: {_named(self.joined)} look like several labels in one text; head.kind=multi_label with "
                "data.label_separator reads them apart"
            )
        if self.unused:
            yield f"data.label_names: no training row has {_named(self.unused)}; nothing is learnt about such names"
        if self.moved:
            labels = sorted({label for row in self.moved for label in row.labels})
            yield (
                f"moved from the development share to training, which lacked a label, for good: "
                f"{counted(len(self.moved), 'row')} ({_named(labels)}; first {self.moved[0].where})"
            )
        for split, texts in self.empty.items():
            empty = counted(texts.rows, "row")
            yield f"{split}: an empty text in {empty}, first {texts.where}; remove what says nothing"
        yield from self.notes


def _named(labels: tuple[str, ...] | list[str]) -> str:
    rest = f" and {len(labels) - MAX_NAMED} more" if len(labels) > MAX_NAMED else ""
    return ", ".join(map(repr, labels[:MAX_NAMED])) + rest
