"""The verb `check`: what labelled files hold, what is assumed about them, and what is doubtful. Imports no jax.

`train FILE` trains the config that the assumptions make: `inferred_config`.
"""

from __future__ import annotations

import itertools
import logging
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.heads.head import Head
from adapters.labels import counted
from backbone.compression import plain_name
from backbone.errors import InputError
from backbone.registered import variant
from trainers.config import Data, TrainConfig
from trainers.config.load import load_config, override_part
from trainers.data.columns import Column, Kind, Roles, described, roles_of
from trainers.data.formats.format import known_formats
from trainers.data.rows import LabelledRow, RowReader, entries
from trainers.data.splits import normalise
from trainers.runs.reading import ReadReport

log = logging.getLogger(__name__)

MAX_ROWS = 100_000  # rows of a file that are read
MAX_SHOWN = 20  # labels, groups of rows or warnings of a kind that people are shown
TOKENS_PER_WORD = 1.4  # usual sub-words of an English word
SPECIAL = 3  # tokens around a pair
CUTS = (32, 64, 128, 256, 512)  # values of data.max_tokens that are chosen
METRICS = {"multi_label": "macro_f1"}  # metric by head.kind where it is not the first of the head's


@dataclass(frozen=True)
class Assumption:
    """A setting that was inferred, and why."""

    setting: str  # FIELD=VALUE, as --set takes it
    reason: str


@dataclass(frozen=True)
class FileRows:
    """The rows of a file."""

    file: str
    rows: int
    limited: bool  # the file holds more rows, which were not read


@dataclass(frozen=True)
class Copies:
    """Rows with one normalised text."""

    where: tuple[str, ...]  # file and line of each
    labels: tuple[str, ...]  # label of each
    across: bool  # they are in different files
    conflict: bool  # the labels differ


@dataclass(frozen=True)
class Lengths:
    """Lengths of the inputs in words, and what a run would cut."""

    mean: float
    median: int
    p99: int
    max: int
    max_tokens: int  # tokens of the longest input that is not cut
    cut: int  # rows that are probably cut, at 1.4 tokens a word


@dataclass(frozen=True)
class DataCheck:
    """The result of `check`; `--json` prints it."""

    files: tuple[FileRows, ...]
    columns: tuple[Column, ...]  # () for a format without columns
    text: str
    text_pair: str  # "" without a second text
    label: str
    head: str  # head.kind
    metric: str
    labels: dict[str, int]  # rows or, of tags, words by label, the most frequent first; empty for numbers
    lengths: Lengths
    copies: tuple[Copies, ...]  # contradictions first, then copies across files
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]  # what is doubtful about labels and texts

    def table(self) -> str:
        """Returns the check for people."""
        lines = [f"{f.file}: {counted(f.rows)}" + f", the first {MAX_ROWS:,} alone" * f.limited for f in self.files]
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
        size = self.lengths
        lines.append(f"words: mean {size.mean:.1f}, median {size.median}, 99 % up to {size.p99}, longest {size.max}")
        lines.append(f"max_tokens {size.max_tokens} would cut about {counted(size.cut)}")
        lines += self._copies()
        lines += ["", "assumed; --set says otherwise"] if self.assumptions else []
        lines += [
            f"  --set {shlex.quote(assumption.setting)}  ({assumption.reason})" for assumption in self.assumptions
        ]
        lines += ["", "doubtful"] if self.warnings else []
        return "\n".join([*lines, *(f"  {warning}" for warning in self.warnings)])

    def _copies(self) -> list[str]:
        across = sum(group.across for group in self.copies)
        conflicts = sum(group.conflict for group in self.copies)
        lines = ["", f"{len(self.copies)} texts more than once, {across} in several files, {conflicts} contradicting"]
        for group in self.copies[:MAX_SHOWN]:
            rows = ", ".join(f"{where} {label}" for where, label in zip(group.where, group.labels, strict=True))
            kind = "labels differ" if group.conflict else "same label"
            lines.append(f"  {kind}{', in several files' * group.across}: {rows}")
        return lines + _more(len(self.copies))


def _more(count: int) -> list[str]:
    return [f"  and {count - MAX_SHOWN} more (--json lists all)"] if count > MAX_SHOWN else []


def is_data(name: str, overrides: Sequence[str] = ()) -> bool:
    """Returns whether an argument of `train` names data: by its suffix, its prefix, or `data.format`."""
    if name.endswith(".py"):
        return False
    suffix = Path(plain_name(Path(name))).suffix.lower()
    known = known_formats().values()
    if any(suffix in cls.suffixes or (cls.prefix and name.startswith(cls.prefix)) for cls in known):
        return True
    stated = any(text.startswith("data.format=") for text in overrides)
    return stated and Path(name.partition("#")[0]).is_file()


def check(files: Sequence[str], overrides: Sequence[str] = ()) -> DataCheck:
    """Checks files of one task, the first of which decides the roles; raises InputError where they are unclear."""
    inferred = _inferred(files, overrides)
    config = inferred.config
    column = config.head.column
    facts, rows, spellings = [], [], None
    for file in _groups(files, config.data):
        data = override_part(config.data, "data", ["data.dev=", "data.test=", _train(file)])
        reader = RowReader(data, column, limit=MAX_ROWS + 1)
        if spellings is not None:
            reader.spellings = spellings
        read = list(reader.rows("train"))
        column, spellings = reader.column, reader.spellings
        name = file if isinstance(file, str) else ", ".join(file)
        facts.append(FileRows(name, min(len(read), MAX_ROWS), len(read) > MAX_ROWS))
        rows += [(name, row) for row in read[:MAX_ROWS]]
    report = ReadReport()
    if spellings is not None:
        report = ReadReport(spellings.several(), spellings.alike(), spellings.missing(), joined=spellings.joined())
    empty = [row.where for _, row in rows if not row.content.strip("\0 \t\r\n")]
    warnings = [*report.warnings(), *([f"an empty text in {counted(len(empty))}, first {empty[0]}"] if empty else [])]
    labels = Counter(label for _, row in rows for label in row.labels) if column.closed else Counter()
    return DataCheck(
        files=tuple(facts),
        columns=inferred.columns,
        text=config.data.text,
        text_pair=config.data.text_pair,
        label=config.data.label,
        head=config.head.kind,
        metric=config.metric,
        labels=dict(labels.most_common()),
        lengths=_lengths([row for _, row in rows], config.data.max_tokens),
        copies=copies_in(rows),
        assumptions=inferred.assumptions,
        warnings=tuple(warnings),
    )


def inferred_config(file: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Returns the config that trains on a file, and logs each assumption as the setting that would say it."""
    inferred = _inferred([file], overrides)
    for assumption in inferred.assumptions:
        log.info("assumed: --set %s (%s)", shlex.quote(assumption.setting), assumption.reason)
    return inferred.config


def copies_in(rows: Sequence[tuple[str, LabelledRow]]) -> tuple[Copies, ...]:
    """Returns the groups of rows, each with its file, that share a normalised text; contradictions come first."""
    groups: dict[str, list[tuple[str, LabelledRow]]] = defaultdict(list)
    for file, row in rows:
        groups[normalise(row.content)].append((file, row))
    copies = []
    for group in groups.values():
        if len(group) > 1:
            conflict = len({frozenset(row.labels) if len(row.labels) < 2 else row.labels for _, row in group}) > 1
            copies.append(
                Copies(
                    where=tuple(row.where for _, row in group),
                    labels=tuple("|".join(row.labels) for _, row in group),
                    across=len({file for file, _ in group}) > 1,
                    conflict=conflict,
                )
            )
    return tuple(sorted(copies, key=lambda group: (not group.conflict, not group.across)))


@dataclass(frozen=True)
class _Inferred:
    """A config with what was assumed for it."""

    config: TrainConfig
    columns: tuple[Column, ...]
    assumptions: tuple[Assumption, ...]


def _inferred(files: Sequence[str], overrides: Sequence[str]) -> _Inferred:
    """Returns the config for the first of some files; settings that a person gave count first."""
    stated = {text.partition("=")[0].strip(): text.partition("=")[2] for text in overrides}
    of_data = [text for text in overrides if text.startswith("data.")]
    first = _train(_groups(files, override_part(Data(), "data", of_data))[0])
    data = override_part(Data(text="", label=""), "data", [first, *of_data])
    group = next(entries(data, "train"))
    if group.format.of_images or data.of_images:
        raise InputError(f"{files[0]}: holds images; train them with the config image_classification")
    columns: tuple[Column, ...] = ()
    if group.format.has_columns:
        table = _table(data)
        columns = described(table)
        roles = roles_of(table, columns, files[0], data.text, data.text_pair, data.label, stated.get("head.kind", ""))
    else:
        kind: Any = stated.get("head.kind") or _kind_without_columns(data, files[0])
        roles = Roles("text", "", "label", kind, "")
    assumed = _assumptions(roles, group.format.has_columns)
    script = "token_tagging" if roles.kind == "token_tagging" else "text_classification"
    name = re.sub(r"[^\w-]+", "_", Path(plain_name(Path(files[0]))).stem).strip("_") or "graft"
    settings = [first, f"name={name}", *(a.setting for a in assumed)]
    rest = [text for text in overrides if not (text.startswith("head.kind="))]
    config = load_config(script, [*settings, *rest])
    if "data.max_tokens" not in stated:
        rows = list(RowReader(config.data, config.head.column, limit=MAX_ROWS).rows("train"))
        size = _lengths(rows, config.data.max_tokens)
        tokens = next((cut for cut in CUTS if size.p99 * TOKENS_PER_WORD + SPECIAL <= cut), CUTS[-1])
        chosen = Assumption(f"data.max_tokens={tokens}", f"99 % of the inputs have up to {size.p99} words")
        assumed.append(chosen)
        config = load_config(script, [*settings, chosen.setting, *rest])
    return _Inferred(config, columns, tuple(a for a in assumed if a.setting.partition("=")[0] not in stated))


def _assumptions(roles: Roles, has_columns: bool) -> list[Assumption]:
    """Returns the settings of some roles; those of the head come before those that depend on it."""
    assumed = [Assumption(f"head.kind={roles.kind}", "by what the labels are")]
    if has_columns:
        assumed.append(Assumption(f"data.text={roles.text}", "the column of the longest and most different texts"))
        if roles.text_pair:
            assumed.append(Assumption(f"data.text_pair={roles.text_pair}", "the second text of a pair, by its name"))
            assumed.append(Assumption("head.pair=cross", "both texts are read as one row"))
        assumed.append(Assumption(f"data.label={roles.label}", "a column of labels, by its values and name"))
    if roles.separator:
        assumed.append(Assumption(f"data.label_separator={roles.separator}", "cells hold several labels"))
    if roles.kind != "token_tagging" and roles.kind != "classification":
        assumed.append(Assumption("head.pooling=mean", "the mean of all tokens"))
    metric = METRICS.get(roles.kind, variant(Head, roles.kind, "head.kind").metrics[0])
    return [*assumed, Assumption(f"metric={metric}", f"the usual one of {roles.kind}")]


def _table(data: Data) -> Mapping[str, Sequence[Any]]:
    """Returns the cells of every column of data.train; a record without a field has None there."""
    records = []
    for group in entries(data, "train"):
        read = group.format.records(group.names, data.read_settings("train", {}))
        records += [record for _, record in itertools.islice(read, MAX_ROWS)]
    names = dict.fromkeys(name for record in records for name in record if name)
    if not records:
        raise InputError(f"{', '.join(data.train)}: holds no rows")
    return {name: [record.get(name) for record in records] for name in names}


def _kind_without_columns(data: Data, where: str) -> Kind:
    """Returns the head of the labels of a format without columns."""
    group = next(entries(data, "train"))
    if group.format.labels_per == "word":
        return "token_tagging"
    records = group.format.records(group.names, data.read_settings("train", {}))
    cells = [record["label"] for _, record in itertools.islice(records, MAX_ROWS)]
    columns = described({"label": cells, "text": ["a text"] * len(cells)})
    return roles_of({"label": cells, "text": cells}, columns, where, text="text", label="label").kind


def _groups(files: Sequence[str], data: Data) -> list[str | tuple[str, ...]]:
    """Returns the files that are read together: each alone, or as many as the format takes."""
    size = len(data.file_format.files) if data.file_format is not None else 0
    return [tuple(files[i : i + size]) for i in range(0, len(files), size)] if size else list(files)


def _train(file: str | tuple[str, ...]) -> str:
    return f"data.train={file if isinstance(file, str) else ','.join(file)}"


def _lengths(rows: Sequence[LabelledRow], max_tokens: int) -> Lengths:
    """Returns the lengths of the inputs, both texts of a pair together."""
    words = sorted(len(row.content.replace("\0", " ").split()) for row in rows)
    cut = sum(count * TOKENS_PER_WORD + SPECIAL > max_tokens for count in words)
    last = len(words) - 1
    p99 = words[int(0.99 * last)]
    return Lengths(round(sum(words) / len(words), 2), words[last // 2], p99, words[-1], max_tokens, cut)
