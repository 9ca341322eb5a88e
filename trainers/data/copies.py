"""Rows that say the same: equal but for case, blanks and Unicode's compatible forms. Imports no jax."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from trainers.data.splits import normalise

MAX_SHOWN = 10  # rows of a group that people are shown


class Placed(NamedTuple):
    """A row and its place."""

    part: str  # file or split that it belongs to
    content: str  # text, or both of a pair
    labels: tuple[str, ...]
    where: str  # file and line


@dataclass(frozen=True)
class Copies:
    """Rows with one normalised text."""

    where: tuple[str, ...]  # file and line of each
    labels: tuple[str, ...]  # label of each; several with | between
    across: bool  # they are in different files or splits
    conflict: bool  # the labels differ

    def __str__(self) -> str:
        """Returns place and label of each row; of many, the first."""
        rows = list(zip(self.where, self.labels, strict=True))
        shown = ", ".join(f"{where} {label}" for where, label in rows[:MAX_SHOWN])
        return shown + f" and {len(rows) - MAX_SHOWN} more" * (len(rows) > MAX_SHOWN)


def copies_in(rows: Iterable[Placed]) -> tuple[Copies, ...]:
    """Returns the groups of rows that share a normalised text; contradictions come first, then those across parts."""
    groups: dict[str, list[Placed]] = defaultdict(list)
    for row in rows:
        groups[normalise(row.content)].append(row)
    copies = [
        Copies(
            where=tuple(row.where for row in group),
            labels=tuple("|".join(row.labels) for row in group),
            across=len({row.part for row in group}) > 1,
            conflict=len({row.labels for row in group}) > 1,
        )
        for group in groups.values()
        if len(group) > 1
    ]
    return tuple(sorted(copies, key=lambda group: (not group.conflict, not group.across)))
