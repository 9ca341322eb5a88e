"""The verb `curate`: writes the train rows that a subset chooses, each with its reason, as a file to train on.

    result = curate(config, Path("chosen.jsonl"), suspects="relabel")

Rows that a run holds out of data.train, for development or a gate, are in the file too. A row's place is decided by its
text, so a run on the file holds out the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from adapters.heads.head import kinds_for
from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.files import write_durable
from trainers.config import TrainConfig
from trainers.curation.facts import TrainFacts
from trainers.curation.select import Selection, select
from trainers.data.prepare import Table
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
    done: str  # what became of the row: "kept", "left out" or "relabelled"


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
    labels: Mapping[str, tuple[int, int]]  # chosen rows and all rows by label; empty where labels are no names
    near: tuple[NearDuplicate, ...]
    doubted: tuple[Doubted, ...]  # most suspect first; empty without --suspects
    settings: str  # settings that make a run train on the same rows without the file; "" where labels were repaired

    def table(self) -> str:
        """Returns the choice for people."""
        lines = [
            f"{self.chosen} of {self.rows} train rows by {self.method}, and {self.held_out} that a run holds out: "
            f"{self.output}"
        ]
        lines += [f"  {label}: {chosen} of {count}" for label, (chosen, count) in self.labels.items()]
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
        return "\n".join(lines)


def curate(config: TrainConfig, output: Path, *, suspects: Suspects = "", show: bool = False) -> Curated:
    """Chooses train rows by `config.subset` and writes them to `output`, JSON Lines.

    `suspects` says what becomes of rows whose label a probe doubts: nothing is audited, they stay, are left out, or get
    the probe's label. Raises InputError for images, and for a head whose labels cannot be audited.
    """
    _require_writable(config, output)
    if suspects and "audit" not in config.head.supports:
        raise InputError(f"--suspects: needs head.kind={kinds_for('audit')}, got {config.head.kind}; leave it out")
    ready_to_compute()
    run = Run(Path(), show)
    config = replace(only_rows(config), subset=config.subset)
    inputs = prepare(config, run)
    if inputs.data.tables["train"].images:
        raise InputError(
            "curate: writes rows of text; a run learns from a part of its images with --set subset.method=... and "
            "--set subset.share=..."
        )
    doubts = _doubts(inputs, run) if suspects else {}
    selection = select(inputs, run, config.subset, without=doubts if suspects == "leave" else ())
    instead = doubts if suspects == "relabel" else {}
    held_out = [name for name in HELD_OUT if name in inputs.data.tables and not (name == "dev" and config.data.dev)]
    lines = [*_chosen(inputs, selection, doubts, instead)]
    for name in held_out:
        table = inputs.data.tables[name]
        lines += [_record(inputs, table, i, table.labels[i], f"held out: {name}") for i in range(len(table))]
    write_durable(output, "".join(json.dumps(line) + "\n" for line in lines).encode())
    done = {"": "", "show": "kept", "leave": "left out", "relabel": "relabelled"}[suspects]
    return _result(inputs, selection, doubts, output, done, sum(len(inputs.data.tables[name]) for name in held_out))


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


def _doubts(inputs: Inputs, run: Run) -> dict[int, tuple[str, float]]:
    """Returns the label instead and the given label's probability by row, the most suspect first."""
    probabilities, labels = TrainFacts(inputs, run, 0).probabilities, inputs.train.labels
    names = inputs.data.labels
    return {
        row: (names[instead], float(probabilities[row, labels[row]]))
        for row, instead in suspect_rows(probabilities, labels)
    }


def _chosen(
    inputs: Inputs,
    selection: Selection,
    doubts: Mapping[int, tuple[str, float]],
    instead: Mapping[int, tuple[str, float]],
) -> Iterator[dict[str, object]]:
    """Yields the record of each chosen row."""
    table, head = inputs.data.tables["train"], inputs.config.subset.tag
    for row, reason in zip(selection.numbers.tolist(), selection.reasons, strict=True):
        labels, why = table.labels[row], f"{head}: {reason}"
        if row in instead:
            labels = (instead[row][0],)
            why += f"; relabelled from {table.labels[row][0]}, probability {instead[row][1]:.2g}"
        elif row in doubts:
            why += f"; label doubted, probably {doubts[row][0]}"
        yield _record(inputs, table, row, labels, why)


def _record(inputs: Inputs, table: Table, row: int, labels: tuple[str, ...], reason: str) -> dict[str, object]:
    """Returns a row in the columns of the config, so that the config reads it."""
    data, column = inputs.config.data, inputs.config.head.column
    cells: list[Any] = [data.label_names.index(label) if data.label_names else label for label in labels]
    text: object = table.texts[row]
    sides = table.texts[row].split("\0")
    if column.labels_per == "word":
        text = table.texts[row].split(" ")
    elif data.text_pair:
        text = sides[0]
    several = column.several or column.labels_per == "word"
    return {
        data.text: text,
        **({data.text_pair: sides[1]} if data.text_pair else {}),
        data.label: cells if several else cells[0],
        **({data.difficulty: table.difficulty[row]} if table.difficulty else {}),
        "where": table.where[row],
        "reason": reason,
    }


def _result(
    inputs: Inputs,
    selection: Selection,
    doubts: Mapping[int, tuple[str, float]],
    output: Path,
    done: str,
    held_out: int,
) -> Curated:
    table, subset = inputs.data.tables["train"], inputs.config.subset
    classes = inputs.config.head.classes(inputs.train.labels)
    labels = {}
    if classes is not None:
        chosen = classes[selection.numbers]
        labels = {
            name: (int((chosen == i).sum()), int((classes == i).sum())) for i, name in enumerate(inputs.data.labels)
        }
    settings = {name: getattr(subset, name) for name in ("share", "balance", "near", "seed")}
    return Curated(
        output=str(output),
        method=subset.tag,
        rows=len(inputs.train),
        chosen=len(selection.numbers),
        held_out=held_out,
        labels=labels,
        near=tuple(
            NearDuplicate(table.where[one.row], table.where[one.of], round(one.cosine, 4), table.texts[one.row])
            for one in selection.near
        ),
        doubted=tuple(
            Doubted(table.where[row], table.labels[row][0], instead, confidence, done)
            for row, (instead, confidence) in doubts.items()
        ),
        settings=""
        if done in ("left out", "relabelled")
        else " ".join([f"--set subset.method={subset.tag}", *(f"--set subset.{k}={v}" for k, v in settings.items())]),
    )
