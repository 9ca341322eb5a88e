"""From prepared rows to tokenised examples, split by split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.specs import HeadSpec, MultiLabel
from backbone.errors import InputError
from backbone.home import home
from backbone.images import ImagePreprocessing
from backbone.storage import Backbone
from trainers.batches import Examples
from trainers.config import Data
from trainers.prepare import Prepared, Table, encode_labels, label_names, prepare

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """The splits of a task, tokenised."""

    splits: dict[str, Examples]  # train, and dev, test, gate where there are rows
    labels: tuple[str, ...]
    fingerprint: dict[str, str]  # by split
    cut: dict[str, int]  # rows cut at max_tokens, by split


def load_data(
    data: Data,
    head: HeadSpec,
    backbone: Backbone,
    *,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] = ("train", "dev", "gate", "test"),
    show: bool = False,
) -> TaskData:
    """Prepares, reads and tokenises; `labels` are those of an existing graft, else the train rows decide."""
    multi_label = isinstance(head, MultiLabel)
    prepared = prepare(data, multi_label=multi_label, cache=home() / "data", progress=show)
    tables = {name: prepared.table(name) for name in prepared.splits if name in splits}
    if not tables:
        raise InputError(f"data: none of the splits {', '.join(splits)} has rows")
    names = tuple(labels) if labels is not None else label_names(tables["train"], data, multi_label)
    examples, cut = {}, {}
    for name, table in tables.items():
        if len(table):
            examples[name], cut[name] = tokenise(table, names, multi_label, backbone, data.max_tokens)
            if cut[name]:
                log.warning("%s: %d of %d rows were cut at %d tokens", name, cut[name], len(table), data.max_tokens)
    return TaskData(examples, names, prepared.fingerprint, cut)


def tokenise(
    table: Table, names: Sequence[str], multi_label: bool, backbone: Backbone, max_tokens: int
) -> tuple[Examples, int]:
    """Examples of a table, and the number of rows that were cut."""
    preprocessing = backbone.preprocessing
    if bool(table.images) != isinstance(preprocessing, ImagePreprocessing):
        have, takes = ("images", "text") if table.images else ("text", "images")
        raise InputError(f"data: the rows hold {have}, but the backbone {backbone.path} takes {takes}")
    if isinstance(preprocessing, ImagePreprocessing):
        rows, cut = preprocessing.encode(table.images, table.where), 0
    else:
        rows, cut = preprocessing.encode_counting(table.texts, max_tokens)
    labels = encode_labels(table, tuple(names), multi_label)
    difficulty = np.array(table.difficulty) if table.difficulty else None
    return Examples(rows, labels, backbone.ladder, preprocessing.fill, difficulty), cut


__all__ = ["Prepared", "TaskData", "load_data", "tokenise"]
