"""The verb `check`: what labelled files hold, what is assumed about them, and what is doubtful. Imports no jax.

It takes files, whose reading is inferred, or a config script, which says it. With `audit` it costs a forward pass: a
probe lists the rows whose label is probably wrong.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adapters.heads.columns import LabelColumn
from adapters.labels.spelling import Spellings
from backbone.console.log_lines import one_line
from backbone.errors import InputError, counted
from backbone.texts import encoding_of
from trainers.config import Data
from trainers.config.load import load_config
from trainers.data.columns import Column
from trainers.data.copies import Copies, Placed, copies_in
from trainers.data.inference import MAX_ROWS, Assumption, Inferred, groups_of, inferred, is_data, measured
from trainers.data.lengths import Lengths, estimate, lengths_of
from trainers.data.prepare import SOURCES
from trainers.data.rows import LabelledRow, RowReader, Split, entries
from trainers.runs.reading import ReadReport

if TYPE_CHECKING:
    from trainers.fitting.label_audit import LabelAudit

MAX_SHOWN = 20  # labels, or groups of rows, that people are shown


@dataclass(frozen=True)
class FileRows:
    """The rows of a file."""

    file: str
    encoding: str  # "" for files that are no text
    rows: int
    limited: bool  # the file holds more rows, which were not read


@dataclass(frozen=True)
class DataCheck:
    """The result of `check`; `--json` prints it."""

    files: tuple[FileRows, ...]
    columns: tuple[Column, ...]  # columns of the train file; () for a format without columns, and for a config
    text: str
    text_pair: str  # "" without a second text
    label: str
    head: str  # head.kind
    metric: str
    labels: dict[str, int]  # rows or, of tags, words by label, the most frequent first; empty for numbers
    lengths: Lengths | None  # estimated tokens; None for images
    copies: tuple[Copies, ...]  # contradictions first, then copies across files
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]  # what is doubtful about labels and texts

    def table(self) -> str:
        """Returns the check for people."""
        lines = [
            f"{f.file}: {counted(f.rows, 'row')}"
            + f", the first {MAX_ROWS:,} alone" * f.limited
            + f", {f.encoding}" * bool(f.encoding)
            for f in self.files
        ]
        roles = {self.text: "text", self.text_pair: "second text", self.label: "label"}
        lines += ["", "columns"] if self.columns else []
        for c in self.columns:
            facts = f"{c.content}, {c.distinct} different, {c.rows - c.filled} blank, {c.words:.1f} words"
            lines.append(f"  {c.name}: {facts}" + (f"  <- {roles[c.name]}" if c.name in roles else ""))
        lines += ["", f"head: {self.head}, scored by {self.metric}"]
        if self.labels:
            lines.append(f"{len(self.labels)} labels")
            lines += [f"  {label}: {count}" for label, count in itertools.islice(self.labels.items(), MAX_SHOWN)]
            lines += _more(len(self.labels))
        lines += [f"tokens: {self.lengths}"] if self.lengths is not None else []
        lines += self._copies()
        lines += ["", "assumed; --set says otherwise"] if self.assumptions else []
        lines += [f"  {assumption}  ({assumption.reason})" for assumption in self.assumptions]
        lines += ["", "doubtful"] if self.warnings else []
        return "\n".join(map(one_line, [*lines, *(f"  {warning}" for warning in self.warnings)]))

    def _copies(self) -> list[str]:
        across = sum(group.across for group in self.copies)
        conflicts = sum(group.conflict for group in self.copies)
        lines = ["", f"{len(self.copies)} texts more than once, {across} in several files, {conflicts} contradicting"]
        for group in self.copies[:MAX_SHOWN]:
            kind = "labels differ" if group.conflict else "same label"
            lines.append(f"  {kind}{', in several files' * group.across}: {group}")
        return lines + _more(len(self.copies))


def _more(count: int) -> list[str]:
    return [f"  and {count - MAX_SHOWN} more (--json lists all)"] if count > MAX_SHOWN else []


def check(named: Sequence[str], overrides: Sequence[str] = ()) -> DataCheck:
    """Checks files of one task, or the files of a config; raises InputError where their reading is unclear."""
    reading = _reading(named, overrides)
    config, column, spellings = reading.inferred.config, reading.inferred.config.head.column, Spellings()
    facts, rows = [], []
    for group in reading.groups:
        data = replace(config.data, train=group, dev=(), test=())
        reader = RowReader(data, column, limit=MAX_ROWS + 1, spellings=spellings)
        read = list(reader.rows("train"))
        column = reader.column
        name = ", ".join(group)
        facts.append(FileRows(name, _encoding(data), min(len(read), MAX_ROWS), len(read) > MAX_ROWS))
        rows += [(name, row) for row in read[:MAX_ROWS]]
    placed = [Placed(name, row.content, _compared(row, column), row.where) for name, row in rows]
    labels = Counter(label for _, row in rows for label in row.labels) if column.closed else Counter[str]()
    return DataCheck(
        files=tuple(facts),
        columns=reading.inferred.columns,
        text=config.data.text,
        text_pair=config.data.text_pair,
        label=config.data.label,
        head=config.head.kind,
        metric=config.metric,
        labels=dict(labels.most_common()),
        lengths=None if config.data.of_images else _lengths([row.content for _, row in rows], config.data.max_tokens),
        copies=copies_in(placed),
        assumptions=reading.inferred.assumptions,
        warnings=(*reading.inferred.doubts, *_warnings(rows, spellings, column, facts[: reading.train])),
    )


def audit(
    named: Sequence[str], overrides: Sequence[str] = (), *, max_suspects: int = 0, show: bool = False
) -> LabelAudit:
    """Audits the labels of files, of all of them together, or of the train files of a config."""
    from trainers.fitting.label_audit import audit_labels

    reading = _reading(named, overrides)
    config = reading.inferred.config
    if is_data(named[0], overrides):
        every = tuple(name for group in reading.groups for name in group)
        config = replace(config, data=replace(config.data, train=every, dev=(), test=()))
    return audit_labels(config, max_suspects=max_suspects, show=show)


@dataclass(frozen=True)
class _Reading:
    """The files to be checked, and how they are read."""

    inferred: Inferred
    groups: list[tuple[str, ...]]  # files that are read together, those of training first
    train: int  # number of the groups that are training's


def _reading(named: Sequence[str], overrides: Sequence[str]) -> _Reading:
    """Returns the files and their reading; the first train file decides the roles of all."""
    if is_data(named[0], overrides):
        groups = groups_of(named, overrides)
        return _Reading(inferred(groups[0], overrides), groups, 1)
    if len(named) > 1:
        raise InputError(f"{named[1]}: name one config script, or files of rows alone")
    config = load_config(named[0], overrides)
    splits = [_together(config.data, split) for split in SOURCES if getattr(config.data, split)]
    if not config.data.train:
        raise InputError("data.train: no file; name one with --set data.train=FILE")
    return _Reading(Inferred(config), [group for groups in splits for group in groups], len(splits[0]))


def _together(data: Data, split: Split) -> list[tuple[str, ...]]:
    return [group.names for group in entries(data, split)]


def _encoding(data: Data) -> str:
    """Returns the encoding of train files; "" for files that are no text."""
    group = next(entries(data, "train"))
    if group.format.binary or group.format.entry != "file":
        return ""
    return encoding_of(group.format.path(group.names[0]), data.encoding)


def _compared(row: LabelledRow, column: LabelColumn) -> tuple[str, ...]:
    """Returns the labels of a row in an order that says nothing, unless each word has one."""
    return row.labels if column.labels_per == "word" else tuple(sorted(row.labels))


def _warnings(
    rows: Sequence[tuple[str, LabelledRow]], spellings: Spellings, column: LabelColumn, train: Sequence[FileRows]
) -> Iterator[str]:
    """Yields what is doubtful about labels and texts."""
    joined = spellings.joined(several=column.several)
    report = ReadReport(spellings.several(), spellings.alike(), spellings.missing(), joined=joined)
    yield from report.warnings()
    empty = [row.where for _, row in rows if not row.content.strip("\0 \t\r\n")]
    if empty:
        yield f"an empty text in {counted(len(empty), 'row')}, first {empty[0]}"
    names = {file.file for file in train}
    known = {label for name, row in rows if name in names for label in row.labels}
    unknown = [
        (label, row.where) for name, row in rows if name not in names for label in row.labels if label not in known
    ]
    if unknown and column.closed:
        label, where = unknown[0]
        yield f"{where}: the label {label!r} is in no train file, which training refuses; {len(unknown)} such in all"


def _lengths(contents: Sequence[str], max_tokens: int) -> Lengths:
    """Returns the estimated lengths of texts, and how many are cut."""
    some = measured(contents)
    lengths = lengths_of([estimate(text) for text in some], max_tokens)
    return replace(lengths, cut=round(lengths.cut * len(contents) / len(some)))
