"""The verb `audit-labels`: rows whose label is probably wrong, and rows that are there twice.

All rows of data.train are audited, those that a run holds out for development too. A probe on the cached pooled
states is fitted five times, each time without a fifth of the rows, and asked about the rows it has not seen; copies
of a row are left out together. A row is suspect when the label that the probe gives it instead is
more probable than rows of that label are given on average (confident learning, Northcutt et al. 2021,
section 3.1); suspects are listed from the least probable label on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.cache import row_key
from backbone.errors import InputError
from backbone.home import home, resolve_backbone, use_compilation_cache
from backbone.storage import Backbone, load_backbone
from trainers.config import TrainConfig
from trainers.data.batches import Examples
from trainers.data.examples import tokenise
from trainers.data.prepare import prepare
from trainers.data.splits import normalise
from trainers.fitting.linear_head import cross_fitted_logits, pooled_features
from trainers.fitting.warm_start import head_features
from trainers.fitting.ways import cache_maker
from trainers.runs.logs import bar


@dataclass(frozen=True)
class Suspect:
    """A row whose label the probe does not believe."""

    where: str  # file and line
    text: str
    label: str
    instead: str  # what the probe says
    confidence: float  # its probability of `label`


@dataclass(frozen=True)
class LabelAudit:
    """What `audit-labels` returns; `--json` prints it."""

    rows: int
    suspects: list[Suspect]  # most suspect first
    duplicates: list[dict[str, Any]]  # groups of rows with one normalised text: where, labels, conflict


def audit_labels(config: TrainConfig, *, most: int = 0, show: bool = False) -> LabelAudit:
    """Audits the rows of data.train; `most` suspects at most, 0 = all. Raises InputError for multi-label data."""
    if "audit" not in config.head.supports:
        raise InputError(f"head.kind: audit-labels reads one label per row; {config.head.kind} has another target")
    use_compilation_cache()
    backbone = load_backbone(resolve_backbone(config.backbone), dtype=config.compute_dtype)
    data = replace(config.data, dev=(), test=(), dev_fraction=0.0, gate_fraction=0.0)  # every row of data.train
    prepared = prepare(data, config.head.column, cache=home() / "data", progress=show)
    if "train" not in prepared.splits:
        raise InputError("data.train: names no row to audit; name a file, or raise data.train_fraction")
    table = prepared.table("train")
    names = config.head.column.names(table.labels, config.data)
    examples, _ = tokenise(table, names, config.head, backbone, config.data.max_tokens)
    logits = held_out_logits(config, backbone, names, examples, show)
    model = GraftModel(backbone.network, (Probe(),), config.head, names)
    probabilities = np.asarray(model.head.probabilities(logits))
    suspects = [
        Suspect(
            where=table.where[i],
            text=table.texts[i].replace("\0", " | "),
            label=names[examples.labels[i]],
            instead=names[instead],
            confidence=float(probabilities[i, examples.labels[i]]),
        )
        for i, instead in suspect_rows(probabilities, examples.labels)
    ]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(table.texts):
        groups[normalise(text)].append(i)
    duplicates = []
    for rows in groups.values():
        labels = [table.labels[i][0] for i in rows]
        if len(rows) > 1:
            where = [table.where[i] for i in rows]
            duplicates.append({"where": where, "labels": labels, "conflict": len(set(labels)) > 1})
    duplicates.sort(key=lambda group: not group["conflict"])
    return LabelAudit(len(table), suspects[:most] if most else suspects, duplicates)


def held_out_logits(
    config: TrainConfig, backbone: Backbone, names: tuple[str, ...], examples: Examples, show: bool
) -> np.ndarray:
    """Logits float32 [N,C] of each row by a probe that has not seen it, from cached pooled states."""
    model = GraftModel(backbone.network, (Probe(),), config.head, names)
    features = pooled_last(config, model, backbone, examples, show)
    keys = [row_key(row) for row in examples.rows]
    return cross_fitted_logits(model, features, examples.labels, keys, config.metric)


def pooled_last(
    config: TrainConfig, model: GraftModel, backbone: Backbone, examples: Examples, show: bool
) -> np.ndarray:
    """Pooled last states [N,P], from the cache where the plan has one and they fit."""
    make = cache_maker(config, model, backbone)
    if found := head_features(model, [examples], make({}) if make else None, show):
        return found[0]
    with bar(len(examples), "features", "row", show=show) as shown:
        return pooled_features(model, backbone, {}, examples, shown.update)


def suspect_rows(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[int, int]]:
    """(row, label instead) of the suspects among probabilities [N,C] and labels int [N], most suspect first."""
    count = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    usual = np.array([own[labels == c].mean() if (labels == c).any() else 1.0 for c in range(count)])
    confident = np.where(probabilities >= usual, probabilities, 0.0)
    instead = confident.argmax(axis=1)
    suspect = np.flatnonzero((confident.max(axis=1) > 0) & (instead != labels))
    return [(int(i), int(instead[i])) for i in suspect[np.argsort(own[suspect], kind="stable")]]
