"""The trial of candidate and champion on the same rows: both are loaded, run and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adapters.artefact.manifest import read_manifest
from adapters.effects import cohens_d
from adapters.graft import Graft, load_graft
from adapters.heads.columns import numbered, unknown_labels
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from adapters.specs import Head, Probe
from backbone.errors import InputError
from backbone.storage import Backbone
from metering.window import Cost
from registry.budgets.budget import Budget
from trainers.config import TrainConfig
from trainers.data.batches import Examples, part_of
from trainers.data.examples import load_data
from trainers.fitting.features import logits_of_rows, open_cache
from trainers.inputs import only_rows, prepare
from trainers.retrain.budgeted import budgeted
from trainers.retrain.diagnose import MIN_ROWS, NOTABLE, added
from trainers.retrain.gate import PairedLogits, in_labels, judge, majority_logits
from trainers.retrain.lineage import Check, GateReport, RowDrift
from trainers.retrain.rows import Rows, SplitRows
from trainers.runs.run import Run
from trainers.scoring.predicting import latencies, latency, peak_bytes

MAX_EMBEDDED = 2000  # rows of a side whose embeddings are compared


@dataclass(frozen=True)
class Contestant:
    """A candidate or a champion."""

    folder: Path  # folder of the graft
    version: int | None  # None: not published yet


def trial(
    config: TrainConfig,
    candidate: Contestant,
    champion: Contestant | None,
    rows: Rows,
    before: Rows | None,
    train_cost: Cost | None,
    budget: Budget,
) -> tuple[GateReport, RowDrift]:
    """Returns the gate's report, and the drift of the frozen backbone's embeddings where they are cached.

    `rows` are the present ones, `before` those of the champion. The narrowest of the config's target and the task's
    `budget` holds.
    """
    ready_to_compute()
    split = "gate" if "gate" in rows else "dev"
    if split not in rows:
        return _no_evidence(
            "held-out rows", "no row is held out; set data.gate_fraction or data.dev_fraction", champion
        )
    known = read_manifest(candidate.folder).labels
    unseen = _unseen(config.head, rows[split], known)
    labels = (*known, *unseen)
    inputs = prepare(only_rows(config), Run(candidate.folder), labels=labels, splits=("train", split))
    graft = load_graft(candidate.folder, inputs.backbone)
    train, examples = inputs.train, inputs.data.splits[split]
    try:
        other = None if champion is None else champion_graft(champion, graft.backbone)
    except InputError as error:
        reason = f"it cannot be run: {error}; promote the candidate by hand (topgraft registry promote) if it is right"
        return _no_evidence("the live version", reason, champion)
    if other is not None and (reason := incomparable(graft.model.head, other.model.head)):
        return _no_evidence("the champion", reason, champion)
    logits = logits_of_rows(config.plan, graft, examples, again=True)
    model = graft.model
    if unseen:
        model = replace(model, labels=labels)
        logits = in_labels(logits, known, labels)
    sides = PairedLogits(model, examples, logits, _other_logits(config, graft, other, train, examples, split, model))
    majority = majority_logits(model, train, len(examples))
    first = champion is None or config.retrain.gate.first != "beats_majority"
    narrowed = budget.narrowed(config.target)
    report = judge(
        config.retrain.gate,
        narrowed.target,
        config.metric,
        sides,
        champion=champion.version if champion else None,
        split=split,
        old=None if before is None or split not in before else ~added(before[split], rows[split]),
        train=train_cost,
        peak_bytes=lambda: peak_bytes(graft, examples.rows),
        latency_ms=lambda: latency(graft, examples.rows),
        majority=None if first else PairedLogits(model, examples, logits, majority),
        budgeted=budgeted(budget, narrowed.names, train_cost, lambda: latencies(graft, examples.rows)),
        unseen={name: other is not None and name in numbered(other.model.labels) for name in unseen},
    )
    return report, _embedding_drift(config, graft, train, before, rows)


def _unseen(head: Head, rows: SplitRows, known: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the labels of held-out rows that a graft with the labels `known` does not know."""
    if not head.column.closed:
        return ()
    return tuple(unknown_labels([(label,) for label in rows.label_counts], known))


def _no_evidence(name: str, reason: str, champion: Contestant | None) -> tuple[GateReport, RowDrift]:
    """Returns the report and the drift where nothing can be compared at all."""
    check = Check(name, "NO_EVIDENCE", None, 1.0, 0, reason)
    report = GateReport("NO_EVIDENCE", "", champion.version if champion else None, {}, {}, {}, (check,))
    return report, RowDrift("embeddings", None, False, (0, 0), reason)


def incomparable(candidate: Head, live: Head) -> str:
    """Returns why two grafts cannot answer the same rows in the same terms; "" if they can."""
    by_hand = "; promote the candidate by hand (topgraft registry promote) if it is to replace it"
    if candidate.kind != live.kind:
        return f"the live version's head.kind is {live.kind}, the candidate's {candidate.kind}{by_hand}"
    if (candidate.pair == "none") != (live.pair == "none"):
        return f"the live version reads head.pair={live.pair}, the candidate head.pair={candidate.pair}{by_hand}"
    return ""


def champion_graft(champion: Contestant, backbone: Backbone) -> Graft:
    """Loads the champion, on `backbone` where that is its own; raises InputError if its own is gone."""
    same = read_manifest(champion.folder).weights_id == backbone.weights_id
    return load_graft(champion.folder, backbone if same else None)


def read_alike(champion: Graft, config: TrainConfig) -> bool:
    """Returns whether the champion reads rows as the config does."""
    return champion.max_tokens == config.data.max_tokens and champion.model.head.pair == config.head.pair


def _other_logits(
    config: TrainConfig,
    graft: Graft,
    other: Graft | None,
    train: Examples,
    examples: Examples,
    split: str,
    model: GraftModel,
) -> np.ndarray | None:
    """Returns the logits that the candidate is compared with, in the labels of `model`.

    None for a first version that only has bounds.
    """
    if other is None:
        beats = config.retrain.gate.first == "beats_majority"
        return majority_logits(model, train, len(examples)) if beats else None
    if other.backbone is not graft.backbone or not read_alike(other, config):
        data, head = replace(config.data, max_tokens=other.max_tokens), other.model.head
        examples = load_data(data, head, other.backbone, labels=model.labels, splits=(split,)).splits[split]
    return in_labels(logits_of_rows(config.plan, other, examples, again=True), other.model.labels, model.labels)


def _embedding_drift(config: TrainConfig, graft: Graft, train: Examples, before: Rows | None, rows: Rows) -> RowDrift:
    """Returns the distance of new train rows' embeddings from old ones', on the bare backbone; of cached rows only."""
    if before is None or "train" not in before:
        return RowDrift("embeddings", None, False, (0, len(train)), "nothing to compare with")
    fresh = added(before["train"], rows["train"])
    counts = int((~fresh).sum()), int(fresh.sum())
    if min(counts) < MIN_ROWS:
        return RowDrift("embeddings", None, False, counts, f"needs {MIN_ROWS} rows on each side")
    plain = GraftModel(graft.backbone.network, (Probe(),), config.head, graft.model.labels)
    store = open_cache(config.plan, plain, graft.backbone, {})
    sides = [part_of(train, np.flatnonzero(side)[:MAX_EMBEDDED]) for side in (~fresh, fresh)]
    if store is None or not all(store.has_pooled(side) for side in sides):
        return RowDrift("embeddings", None, False, counts, "their states are not in the boundary cache")
    effect = cohens_d(*(store.pooled(side)[:, -1] for side in sides))
    return RowDrift("embeddings", effect, effect >= NOTABLE, counts)
