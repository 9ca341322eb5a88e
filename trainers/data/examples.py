"""From prepared rows to tokenised examples, split by split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adapters.heads.columns import Layout, unknown_labels
from adapters.inputs import Encoded, encode_inputs
from adapters.labels.cells import stripped
from adapters.specs import Head
from backbone.buckets import bucket_of
from backbone.cache import row_key
from backbone.errors import InputError, counted
from backbone.home import home
from backbone.images import ImagePreprocessing
from backbone.storage import Backbone
from trainers.config import Data, require_pair
from trainers.data.batches import Examples
from trainers.data.prepare import PreparedRows, Table, prepare
from trainers.runs.reading import ReadReport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """The splits of a task, tokenised."""

    splits: dict[str, Examples]  # train, and dev, test, gate where there are rows
    labels: tuple[str, ...]  # names, in the order of the logits
    fingerprint: dict[str, str]  # fingerprint of each split's rows
    cut: dict[str, int]  # rows cut at max_tokens, by split
    head: Head  # head with the settings that the train rows decide
    tables: dict[str, Table]  # prepared rows of each split, in the order of its examples
    report: ReadReport = field(default_factory=ReadReport)  # what was merged, moved, empty or left out
    nothing: dict[str, int] = field(default_factory=dict)  # rows without a token of their own, by split


def load_data(
    data: Data,
    head: Head,
    backbone: Backbone,
    *,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] = ("train", "dev", "gate", "test"),
    show: bool = False,
) -> TaskData:
    """Prepares, reads and tokenises the rows of `splits`; raises InputError for bad data.

    `labels` are those of an existing graft; without them the train rows decide.
    """
    require_pair(data, head)
    prepared = prepare(data, head.column, cache=home() / "data", progress=show)
    tables = {name: prepared.table(name) for name in prepared.splits if name in splits}
    if not tables:
        raise InputError(f"data: none of the splits {', '.join(splits)} has rows")
    if labels is None and "train" not in tables:
        raise InputError("data.train: names no row to train on; name a file, or raise data.train_fraction")
    names = tuple(labels) if labels is not None else head.column.names(tables["train"].labels, data)
    head = head.with_statistics_of(tables["train"].labels if "train" in tables else None)
    if "gate" in tables and head.column.closed:
        tables["gate"] = _with_known_labels(tables["gate"], names)
    examples, cut, nothing = {}, {}, {}
    for name, table in tables.items():
        if len(table):
            examples[name], cut[name] = tokenise(table, names, head, backbone, data.max_tokens)
            if cut[name]:
                log.warning("%s: %d of %d rows were cut at %d tokens", name, cut[name], len(table), data.max_tokens)
            if nothing_left := _rows_of_nothing(table, head, backbone, examples[name], data.max_tokens):
                nothing[name] = len(nothing_left)
                first = table.where[nothing_left[0]]
                log.warning("%s: nothing is left of %s as tokens, first %s", name, counted(nothing[name], "row"), first)
    return TaskData(examples, names, prepared.fingerprint, cut, head, tables, prepared.report, nothing)


def _with_known_labels(gate: Table, names: Sequence[str]) -> Table:
    """Returns the gate rows whose labels are all in `names`.

    Gate rows never move to training, so a label may live among them alone. A trial names such labels itself.
    """
    if not (unknown := unknown_labels(gate.labels, names)):
        return gate
    shown = ", ".join(f"{label!r} ({counted(rows, 'row')})" for label, rows in list(unknown.items())[:5])
    log.warning("gate: no train row has the labels %s; the gate has no evidence of them", shown)
    return gate.part([i for i, labels in enumerate(gate.labels) if not unknown.keys() & set(labels)])


def _rows_of_nothing(table: Table, head: Head, backbone: Backbone, examples: Examples, max_tokens: int) -> list[int]:
    """Returns the numbers of the rows whose tokens are those of an empty text, though their text is not empty."""
    if table.images or head.pair != "none" or head.one_answer_per == "word":
        return []
    bare = encode_inputs(head, backbone, [""], max_tokens).rows[0]
    short = [i for i, row in enumerate(examples.rows) if len(row) == len(bare) and stripped(table.texts[i])]
    return [i for i in short if row_key(examples.rows[i]) == row_key(bare)]


def texts_of(table: Table, head: Head) -> list[Any]:
    """Returns what the head is asked about in each row: a text, a pair of texts, or words."""
    if head.one_answer_per == "word":
        return [text.split(" ") for text in table.texts]
    return table.texts if head.pair == "none" else [tuple(text.split("\0")) for text in table.texts]


def tokenise(
    table: Table, names: Sequence[str], head: Head, backbone: Backbone, max_tokens: int
) -> tuple[Examples, int]:
    """Returns examples of a table for a head with outputs `names`, and the number of rows that were cut."""
    preprocessing = backbone.preprocessing
    if bool(table.images) != isinstance(preprocessing, ImagePreprocessing):
        have, takes = ("images", "text") if table.images else ("text", "images")
        raise InputError(f"data: the rows hold {have}, but the backbone {backbone.path} takes {takes}")
    if isinstance(preprocessing, ImagePreprocessing):
        if head.one_answer_per != "row" or head.pair != "none":
            raise InputError(f"head: kind={head.kind} with pair={head.pair} reads text, the backbone takes images")
        encoded = Encoded(list(preprocessing.encode(table.images, table.where)), [], 0)
    else:
        encoded = encode_inputs(head, backbone, texts_of(table, head), max_tokens)
    labels = head.encode(table.labels, names, table.where, _layout(encoded, backbone.lengths))
    difficulty = np.array(table.difficulty) if table.difficulty else None
    of_tokens = head.one_answer_per != "row"
    examples = Examples(encoded.rows, labels, backbone.lengths, preprocessing.fill, difficulty, of_tokens)
    return examples, encoded.cut


def _layout(encoded: Encoded, lengths: Sequence[int]) -> Layout | None:
    """Returns where the words of the rows lie; None where rows are no sentences of words."""
    if not encoded.places:
        return None
    return Layout(encoded.places, bucket_of(max(len(row) for row in encoded.rows), lengths))


__all__ = ["PreparedRows", "TaskData", "load_data", "tokenise"]
