"""The audit of labels by a probe (`check --audit`): rows whose label is probably wrong, and rows that are there twice.

All rows of data.train are audited, also those that a run holds out for development. A probe on the cached pooled
states is fitted five times, each time without a fifth of the rows, and predicts those. Copies of a row are left out
together. A row is suspect if the probe finds another label more probable than it finds it on average in the rows that
carry it (confident learning, Northcutt et al. 2021, section 3.1). Suspects are listed from the
least probable label on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adapters.heads.head import kinds_for
from adapters.machine import ready_to_compute
from backbone.cache import row_key
from backbone.errors import InputError
from trainers.config import TrainConfig
from trainers.data.copies import Copies, Placed, copies_in
from trainers.fitting.features import features
from trainers.fitting.linear_head import cross_fitted_logits
from trainers.inputs import Inputs, only_rows, prepare
from trainers.runs.run import Run

SHOWN = 110  # characters of a text that are shown to people


@dataclass(frozen=True)
class Suspect:
    """A row whose label is probably wrong."""

    where: str  # file and line
    text: str  # text of the row; both texts of a pair
    label: str  # label in the file
    instead: str  # label that the probe gives
    confidence: float  # probability that the probe gives to `label`


@dataclass(frozen=True)
class LabelAudit:
    """The result of `check --audit`; `--json` prints it."""

    rows: int  # rows audited
    suspects: tuple[Suspect, ...]  # rows whose label is probably wrong, most suspect first
    duplicates: tuple[Copies, ...]  # groups of equal rows

    def table(self) -> str:
        """Returns the audit for people."""
        lines = [f"{self.rows} rows audited", ""]
        lines.append(f"rows whose label is probably wrong, the most suspect first: {len(self.suspects)}")
        for row in self.suspects:
            text = row.text if len(row.text) <= SHOWN else f"{row.text[: SHOWN - 3]}..."
            lines.append(f"  {row.where}: {row.label}, probably {row.instead} ({row.label}: {row.confidence:.2g})")
            lines.append(f"      {text}")
        lines += ["", f"texts that are there more than once: {len(self.duplicates)}"]
        for group in self.duplicates:
            lines.append(f"  {'labels differ' if group.conflict else 'same label'}: {group}")
        return "\n".join(lines)


def audit_labels(config: TrainConfig, *, max_suspects: int = 0, show: bool = False) -> LabelAudit:
    """Audits the rows of data.train; lists at most `max_suspects`, 0 = all. Raises InputError for other targets."""
    if "audit" not in config.head.supports:
        raise InputError(
            f"head.kind: {config.head.kind} does not state that it supports audit; "
            f"check --audit needs a head that does: {kinds_for('audit')}"
        )
    ready_to_compute()
    data = replace(config.data, dev=(), test=(), dev_fraction=0.0, gate_fraction=0.0)  # every row of data.train
    run = Run(Path(), show)
    inputs = prepare(only_rows(replace(config, data=data)), run)
    table, labels, names = inputs.data.tables["train"], inputs.train.labels, inputs.data.labels
    probabilities = np.asarray(config.head.probabilities(held_out_logits(inputs, run)))
    suspects = tuple(
        Suspect(
            where=table.where[i],
            text=table.texts[i].replace("\0", " | "),
            label=names[labels[i]],
            instead=names[instead],
            confidence=float(probabilities[i, labels[i]]),
        )
        for i, instead in suspect_rows(probabilities, labels)
    )
    placed = zip(table.texts, table.labels, table.where, strict=True)
    duplicates = copies_in(Placed("train", *row) for row in placed)
    return LabelAudit(len(table), suspects[:max_suspects] if max_suspects else suspects, duplicates)


def held_out_logits(inputs: Inputs, run: Run) -> np.ndarray:
    """Computes logits float32 [N,C] of each train row by a probe that has not seen it, from pooled last states."""
    model, rows = inputs.probe(), inputs.train
    x = features(inputs.config.plan, model, inputs.backbone, {}, [rows], run)[0]
    return cross_fitted_logits(model, x, rows.labels, [row_key(row) for row in rows.rows], inputs.config.metric)


def suspect_rows(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
    """Returns (row, label instead) of the suspects among probabilities [N,C] and labels int [N], most suspect first."""
    count = probabilities.shape[1]
    given = probabilities[np.arange(len(labels)), labels]
    usual = np.array([given[labels == c].mean() if (labels == c).any() else 1.0 for c in range(count)])
    confident = np.where(probabilities >= usual, probabilities, 0.0)
    instead = confident.argmax(axis=1)
    suspect = np.flatnonzero((confident.max(axis=1) > 0) & (instead != labels))
    return [(int(i), int(instead[i])) for i in suspect[np.argsort(given[suspect], kind="stable")]]
