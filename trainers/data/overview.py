"""The first lines of a training run: what its rows are, how they are read, and what is doubtful about them.

Everything comes from the prepared rows, so that no file is read for it. Copies are looked for among the first 100,000
rows. `topgraft check` says more, before a backbone is there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbone.texts import encoding_of
from trainers.config import Data, TrainConfig
from trainers.data.copies import Copies, Placed, copies_in
from trainers.data.examples import TaskData
from trainers.data.formats.format import Format
from trainers.data.lengths import Lengths, lengths_of
from trainers.data.prepare import SOURCES
from trainers.data.rows import Split, entries

MAX_ROWS = 100_000  # rows among which copies are looked for
MAX_LABELS = 8  # labels that a line shows
MAX_GROUPS = 5  # groups of copies that a warning names


@dataclass(frozen=True)
class Overview:
    """The rows of a run before it begins."""

    files: dict[str, tuple[str, ...]]  # files of each split, with their formats and encodings
    roles: dict[str, str]  # column by role; empty where rows have none
    head: str  # head.kind
    metric: str
    rows: dict[str, int]  # rows by split
    share: float  # data.dev_fraction, where it makes the development rows; else 0
    labels: dict[str, int]  # rows or, of tags, words by label, the most frequent first; empty where labels are open
    numbers: tuple[float, float] | None  # smallest and largest number; None where labels are none
    lengths: Lengths | None  # tokens of the inputs; None for images
    copies: tuple[Copies, ...]
    limited: bool  # there are more rows than were compared

    def lines(self) -> Iterator[str]:
        """Yields the overview for people, one short line for each thing."""
        files = "; ".join(f"{split} {', '.join(names)}" for split, names in self.files.items())
        yield f"data: {files}"
        roles = [f"{role}={name}" for role, name in self.roles.items()]
        yield f"head: {', '.join([self.head, f'scored by {self.metric}', *roles])}"
        rows = ", ".join(f"{split} {count}" for split, count in self.rows.items())
        yield f"rows: {rows}" + f" (dev: {self.share:.0%} of train, by hash)" * bool(self.share)
        if self.labels:
            shown = ", ".join(f"{label} {count}" for label, count in itertools.islice(self.labels.items(), MAX_LABELS))
            rest = len(self.labels) - MAX_LABELS
            least = list(self.labels.values())[-1]
            yield f"{len(self.labels)} labels: {shown}" + f" and {rest} more, down to {least}" * (rest > 0)
        if self.numbers is not None:
            yield f"numbers: {self.numbers[0]:g} to {self.numbers[1]:g}"
        if self.lengths is not None:
            yield f"tokens: {self.lengths}"
        across, conflicts = sum(c.across for c in self.copies), sum(c.conflict for c in self.copies)
        where = f" among the first {MAX_ROWS:,} rows" * self.limited
        yield f"copies{where}: {counted_texts(len(self.copies))}, {across} in several splits, {conflicts} contradicting"

    def warnings(self) -> Iterator[str]:
        """Yields what is probably a mistake: rows that contradict each other, and rows of several splits."""
        for kind, groups in (
            ("labels of equal texts differ", [c for c in self.copies if c.conflict]),
            ("equal texts in several splits, so scores are too high", [c for c in self.copies if c.across]),
        ):
            if groups:
                named = "; ".join(map(str, groups[:MAX_GROUPS])) + "; ..." * (len(groups) > MAX_GROUPS)
                yield f"{kind}: {len(groups)} ({named}); topgraft check lists all"


def counted_texts(count: int) -> str:
    """Returns `1 text more than once`, `2 texts more than once`."""
    return f"{count} text{'s' * (count != 1)} more than once"


def overview(config: TrainConfig, task: TaskData) -> Overview:
    """Returns the overview of the rows that a run has prepared."""
    data, column, tables = config.data, config.head.column, task.tables
    placed = (
        Placed(split, content, labels if column.labels_per == "word" else tuple(sorted(labels)), where)
        for split, table in tables.items()
        for content, labels, where in zip(table.texts, table.labels, table.where, strict=True)
    )
    every = [labels for table in tables.values() for labels in table.labels]
    numbers = [float(label) for labels in every for label in labels] if config.head.output == "value" else []
    lengths = [len(row) for split in task.splits.values() for row in split.rows]
    cut = sum(task.cut.values())
    of_images = any(table.images for table in tables.values())
    return Overview(
        files={split: _files(data, split) for split in SOURCES if getattr(data, split)},
        roles=_roles(data),
        head=config.head.kind,
        metric=config.metric,
        rows={split: len(table) for split, table in tables.items()},
        share=data.dev_fraction if not data.dev and "dev" in tables else 0.0,
        labels=_by_count(every) if column.closed else {},
        numbers=(min(numbers), max(numbers)) if numbers else None,
        lengths=None if of_images or not lengths else lengths_of(lengths, data.max_tokens, cut=cut),
        copies=copies_in(itertools.islice(placed, MAX_ROWS)),
        limited=len(every) > MAX_ROWS,
    )


def _by_count(rows: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Returns the number of each label, the most frequent first, equal ones by name."""
    counts = Counter(itertools.chain.from_iterable(rows))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _roles(data: Data) -> dict[str, str]:
    """Returns the column of each role; {} for files without columns."""
    group = next((group for split in SOURCES for group in entries(data, split)), None)
    if group is None or not group.format.has_columns:
        return {}
    roles = ("image", "label") if data.of_images else ("text", "text_pair", "label", "difficulty")
    return {role: getattr(data, role) for role in roles if getattr(data, role)}


def _files(data: Data, split: Split) -> tuple[str, ...]:
    """Returns the files of a split, each with its format and encoding."""
    known: Sequence[tuple[str, Format]] = [
        (name, group.format) for group in entries(data, split) for name in group.names
    ]
    return tuple(f"{name} ({', '.join(_reading(name, chosen, data.encoding))})" for name, chosen in known)


def _reading(name: str, chosen: Format, encoding: str) -> Iterator[str]:
    """Yields the format of a file and, of text, its encoding."""
    yield chosen.tag
    if not chosen.binary and chosen.entry == "file":
        yield encoding_of(Path(chosen.path(name)), encoding)
