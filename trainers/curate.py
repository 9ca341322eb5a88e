"""The verb `curate`: writes the train rows that a subset chooses, each with its reason, as a file to train on.

    result = curate(config, Path("chosen.jsonl"), suspects="relabel")

Rows that a run holds out of data.train, for development or a gate, are in the file too. A row's place is decided by its
text, so a run on the file holds out the same rows. Labels are written by their names, or as vectors of 0 and 1 where
the data hold such. The columns `where` and `reason` get another name, with `_` behind it, where the config reads a
column of that name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from adapters.heads.columns import LabelColumn
from adapters.heads.head import kinds_for
from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.files import write_durable
from trainers.config import TrainConfig
from trainers.curation.facts import TrainFacts
from trainers.curation.select import Selection, select
from trainers.data.prepare import Table
from trainers.data.rows import RowReader
from trainers.fitting.label_audit import SHOWN, suspect_rows
from trainers.inputs import Inputs, only_rows, prepare
from trainers.runs.run import Run

Suspects = Literal["", "show", "leave", "relabel"]
HELD_OUT = ("dev", "gate")  # splits whose rows may come from data.train
LISTED = 20  # suspects and near-duplicates that people are shown


@dataclass(frozen=True)
class Doubted:
    """A train row whose label a probe doubts."""

    where: str  # file and line
    label: str  # label in the data
    instead: str  # label that the probe gives
    confidence: float  # probability that the probe gives to `label`
    done: str  # what became of the row: "kept", "left out", "relabelled", or "not chosen" by the subset


@dataclass(frozen=True)
class NearDuplicate:
    """A row that was left out because another one of its label says almost the same."""

    where: str  # file and line
    of: str  # file and line of the row that stays
    cosine: float  # cosine of their states
    text: str

    def __str__(self) -> str:
        text = self.text.replace("\0", " | ")
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
        return f"{self.where}, cosine {self.cosine:.3f} with {self.of}: {shown}"


@dataclass(frozen=True)
class Curated:
    """The result of `curate`; `--json` prints it."""

    output: str
    method: str
    rows: int  # train rows among which was chosen
    chosen: int
    held_out: int  # rows of data.train that a run holds out; they are in the file too
    labels: Mapping[str, tuple[int, int]]  # chosen rows by label in the output, all rows by label in the data
    near: tuple[NearDuplicate, ...]
    doubted: tuple[Doubted, ...]  # most suspect first; empty without --suspects
    settings: str  # settings that make a run train on the same rows without the file; "" where none do
    no_settings: str  # reason why no settings do; "" where `settings` do

    def table(self) -> str:
        """Returns the choice for people."""
        lines = [
            f"{self.chosen} of {self.rows} train rows by {self.method}, and {self.held_out} that a run holds out: "
            f"{self.output}"
        ]
        relabelled = any(one.done == "relabelled" for one in self.doubted)
        of = "chosen, in the data" if relabelled else "of"
        lines += [f"  {label}: {chosen} {of} {count}" for label, (chosen, count) in self.labels.items()]
        if self.near:
            lines += ["", f"near-duplicates left out: {len(self.near)}"]
            lines += [f"  {one}" for one in self.near[:LISTED]]
        if self.doubted:
            lines += ["", f"rows whose label is probably wrong: {len(self.doubted)}"]
            lines += [
                f"  {one.where}: {one.label}, probably {one.instead} ({one.label}: {one.confidence:.2g}), {one.done}"
                for one in self.doubted[:LISTED]
            ]
        if max(len(self.near), len(self.doubted)) > LISTED:
            lines.append("  (--json lists all)")
        if self.settings:
            lines += ["", f"the same without the file: topgraft train ... {self.settings}"]
        else:
            lines += ["", f"no settings do the same without the file: {self.no_settings}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Doubt:
    """The doubt of a probe about a train row, and what becomes of the row."""

    instead: int  # number of the label that the probe gives
    confidence: float  # probability that the probe gives to the label in the data
    done: str = "kept"  # as in `Doubted`


_Doubts = Mapping[int, _Doubt]  # by row, the most suspect first


def curate(config: TrainConfig, output: Path, *, suspects: Suspects = "", show: bool = False) -> Curated:
    """Chooses train rows by `config.subset` and writes them to `output`, JSON Lines.

    `suspects` says what becomes of rows whose label a probe doubts: nothing is audited, they stay, are left out, or get
    the probe's label. A label whose rows are all doubted keeps the least doubted one. Raises InputError for images, and
    for a head whose labels cannot be audited.
    """
    _require_writable(config, output)
    if suspects and "audit" not in config.head.supports:
        raise InputError(f"--suspects: needs head.kind={kinds_for('audit')}, got {config.head.kind}; leave it out")
    ready_to_compute()
    run = Run(Path(), show)
    why_not = _no_settings(config, suspects)
    config = replace(only_rows(config), subset=config.subset)
    inputs = prepare(config, run)
    if inputs.data.tables["train"].images:
        raise InputError(
            "curate: writes rows of text; a run learns from a part of its images with --set subset.method=... and "
            "--set subset.share=..."
        )
    doubts = _doubts(inputs, run) if suspects else {}
    every = range(len(inputs.train))
    without = doubts.keys() - _last_of_labels(doubts, inputs, every) if suspects == "leave" else set()
    selection = select(inputs, run, config.subset, without=without)
    doubts = _decided(doubts, inputs, without, set(selection.numbers.tolist()), relabel=suspects == "relabel")
    held_out = [name for name in HELD_OUT if name in inputs.data.tables and not (name == "dev" and config.data.dev)]
    column = _settled(inputs)
    lines = [*_chosen(inputs, column, selection, doubts)]
    for name in held_out:
        table = inputs.data.tables[name]
        lines += [_record(inputs, column, table, i, table.labels[i], f"held out: {name}") for i in range(len(table))]
    write_durable(output, "".join(json.dumps(line) + "\n" for line in lines).encode())
    rows = sum(len(inputs.data.tables[name]) for name in held_out)
    return _result(inputs, selection, doubts, output, why_not, rows)


def _require_writable(config: TrainConfig, output: Path) -> None:
    """Raises InputError for an output that is no new file of JSON Lines, or names files that are read."""
    if output.suffix not in (".jsonl", ".ndjson"):
        raise InputError(f"--output {output}: rows are written as JSON Lines; name a file that ends in .jsonl")
    if output.exists():
        raise InputError(f"--output {output}: exists already; name a new file")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}")
    if config.subset.is_whole and config.subset.tag != "random":
        raise InputError(f"--share: {config.subset.tag} chooses among the rows; name a share below 1")


def _no_settings(config: TrainConfig, suspects: Suspects) -> str:
    """Returns why no settings make a run train on the rows of the file; "" where some do."""
    if suspects in ("leave", "relabel"):
        return "no setting repairs labels"
    if config.exits.boundaries:
        return "a run with exits.boundaries sets calibration rows apart first, and chooses among the others"
    return ""


def _doubts(inputs: Inputs, run: Run) -> dict[int, _Doubt]:
    """Returns the doubts of a probe by row, the most suspect first."""
    probabilities, labels = TrainFacts(inputs, run, 0).probabilities, inputs.train.labels
    return {
        row: _Doubt(instead, float(probabilities[row, labels[row]]))
        for row, instead in suspect_rows(probabilities, labels)
    }


def _last_of_labels(doubts: _Doubts, inputs: Inputs, rows: Collection[int]) -> set[int]:
    """Returns the least doubted row of each label of which all of `rows` are doubted."""
    labels = inputs.train.labels
    sure = {int(labels[row]) for row in rows if row not in doubts}
    last = {int(labels[row]): row for row in doubts if row in rows}
    return {row for label, row in last.items() if label not in sure}


def _decided(
    doubts: _Doubts, inputs: Inputs, without: Collection[int], chosen: Collection[int], *, relabel: bool
) -> dict[int, _Doubt]:
    """Returns the doubts with what becomes of each row; `without` were left out before the choice."""
    spared = _last_of_labels(doubts, inputs, chosen) if relabel else ()

    def done(row: int) -> str:
        if row in without:
            return "left out"
        if row not in chosen:
            return "not chosen"
        return "relabelled" if relabel and row not in spared else "kept"

    return {row: replace(doubt, done=done(row)) for row, doubt in doubts.items()}


def _settled(inputs: Inputs) -> LabelColumn:
    """Returns the column that reads the labels, of vectors of 0 and 1 where the data hold them."""
    reading = RowReader(inputs.config.data, inputs.config.head.column)
    if reading.column.reads_whole:
        reading.rows("train")
    return reading.column


def _chosen(inputs: Inputs, column: LabelColumn, selection: Selection, doubts: _Doubts) -> Iterator[dict[str, object]]:
    """Yields the record of each chosen row."""
    table, head, names = inputs.data.tables["train"], inputs.config.subset.tag, inputs.data.labels
    for row, reason in zip(selection.numbers.tolist(), selection.reasons, strict=True):
        labels, why = table.labels[row], f"{head}: {reason}"
        doubt = doubts.get(row)
        if doubt is not None and doubt.done == "relabelled":
            labels = (names[doubt.instead],)
            why += f"; relabelled from {table.labels[row][0]}, probability {doubt.confidence:.2g}"
        elif doubt is not None:
            why += f"; label doubted, probably {names[doubt.instead]}"
        yield _record(inputs, column, table, row, labels, why)


def _record(
    inputs: Inputs, column: LabelColumn, table: Table, row: int, labels: tuple[str, ...], reason: str
) -> dict[str, object]:
    """Returns a row in the columns of the config, so that the config reads it."""
    data = inputs.config.data
    text: object = table.texts[row]
    sides = table.texts[row].split("\0")
    if column.labels_per == "word":
        text = table.texts[row].split(" ")
    elif data.text_pair:
        text = sides[0]
    record = {
        data.text: text,
        **({data.text_pair: sides[1]} if data.text_pair else {}),
        data.label: column.cell(labels, data),
        **({data.difficulty: table.difficulty[row]} if table.difficulty else {}),
    }
    for name, note in (("where", table.where[row]), ("reason", reason)):
        while name in record:
            name += "_"
        record[name] = note
    return record


def _result(
    inputs: Inputs, selection: Selection, doubts: _Doubts, output: Path, why_not: str, held_out: int
) -> Curated:
    table, subset, names = inputs.data.tables["train"], inputs.config.subset, inputs.data.labels
    settings = {name: getattr(subset, name) for name in ("share", "balance", "near", "seed")}
    words = [f"--set subset.method={subset.tag}", *(f"--set subset.{k}={v}" for k, v in settings.items())]
    return Curated(
        output=str(output),
        method=subset.tag,
        rows=len(inputs.train),
        chosen=len(selection.numbers),
        held_out=held_out,
        labels=_counts(inputs, selection, doubts),
        near=tuple(
            NearDuplicate(table.where[one.row], table.where[one.of], round(one.cosine, 4), table.texts[one.row])
            for one in selection.near
        ),
        doubted=tuple(
            Doubted(table.where[row], table.labels[row][0], names[doubt.instead], doubt.confidence, doubt.done)
            for row, doubt in doubts.items()
        ),
        settings="" if why_not else " ".join(words),
        no_settings=why_not,
    )


def _counts(inputs: Inputs, selection: Selection, doubts: _Doubts) -> dict[str, tuple[int, int]]:
    """Returns the rows in the output and those in the data by label; nothing where labels are no names."""
    before = inputs.config.head.classes(inputs.train.labels)
    if before is None:
        return {}
    after = np.array(before)
    for row, doubt in doubts.items():
        if doubt.done == "relabelled":
            after[row] = doubt.instead
    chosen = after[selection.numbers]
    return {name: (int((chosen == i).sum()), int((before == i).sum())) for i, name in enumerate(inputs.data.labels)}
