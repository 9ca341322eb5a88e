"""From prepared rows to tokenised examples, split by split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adapters.inputs import Encoded, encode_inputs
from adapters.specs import Classification, HeadSpec, MultiLabel, Regression, TokenTagging
from backbone.errors import InputError
from backbone.home import home
from backbone.images import ImagePreprocessing
from backbone.storage import Backbone
from trainers.config import Data, require_pair
from trainers.data.batches import Examples
from trainers.data.prepare import PreparedRows, Table, encode_labels, label_names, prepare
from trainers.data.rows import Kind
from trainers.data.tags import tag_names, token_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """The splits of a task, tokenised."""

    splits: dict[str, Examples]  # train, and dev, test, gate where there are rows
    labels: tuple[str, ...]
    fingerprint: dict[str, str]  # by split
    cut: dict[str, int]  # rows cut at max_tokens, by split
    head: HeadSpec  # with what it takes from the data: center and spread of a regression
    tables: dict[str, Table]  # the prepared rows of each split, in the order of its examples


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
    require_pair(data, head)
    multi_label = isinstance(head, MultiLabel)
    prepared = prepare(data, multi_label=multi_label, cache=home() / "data", progress=show, kind=kind_of(head))
    tables = {name: prepared.table(name) for name in prepared.splits if name in splits}
    if not tables:
        raise InputError(f"data: none of the splits {', '.join(splits)} has rows")
    if labels is None and "train" not in tables:
        raise InputError("data.train: names no row to train on; name a file, or raise data.train_fraction")
    names = tuple(labels) if labels is not None else _names(tables["train"], data, head)
    if isinstance(head, Regression):
        head = standardised(head, tables.get("train"))
    examples, cut = {}, {}
    for name, table in tables.items():
        if len(table):
            examples[name], cut[name] = tokenise(table, names, multi_label, backbone, data.max_tokens, head)
            if cut[name]:
                log.warning("%s: %d of %d rows were cut at %d tokens", name, cut[name], len(table), data.max_tokens)
    return TaskData(examples, names, prepared.fingerprint, cut, head, tables)


def kind_of(head: HeadSpec) -> Kind:
    """What the head's label column holds."""
    return "number" if isinstance(head, Regression) else "tags" if isinstance(head, TokenTagging) else "label"


def _names(train: Table, data: Data, head: HeadSpec) -> tuple[str, ...]:
    """The names of the head's outputs: labels, tags, or the column of a number."""
    if isinstance(head, Regression):
        return (data.label,)
    if isinstance(head, TokenTagging):
        return tag_names(train.labels, data.label_names)
    return label_names(train, data, isinstance(head, MultiLabel))


def standardised(head: Regression, train: Table | None) -> Regression:
    """The head with center and spread, from the train rows where it does not name them."""
    if head.center is not None and head.spread is not None:
        return head
    if train is None:
        raise InputError("head.center: without train rows both this and head.spread must be named")
    targets = _targets(train)
    center = float(targets.mean()) if head.center is None else head.center
    spread = float(targets.std()) if head.spread is None else head.spread
    if not spread > 0:
        raise InputError(f"data.label: every train row has the same target, {targets[0]:g}: there is nothing to learn")
    return replace(head, center=center, spread=spread)


def _targets(table: Table) -> np.ndarray:
    return np.array([float(labels[0]) for labels in table.labels])


def texts_of(table: Table, head: HeadSpec) -> list[Any]:
    """What the head is asked about in each row: a text, a pair of texts, or words."""
    if isinstance(head, TokenTagging):
        return [text.split(" ") for text in table.texts]
    return table.texts if head.pair == "none" else [tuple(text.split("\0")) for text in table.texts]


def tokenise(
    table: Table,
    names: Sequence[str],
    multi_label: bool,
    backbone: Backbone,
    max_tokens: int,
    head: HeadSpec | None = None,
) -> tuple[Examples, int]:
    """Examples of a table for a head (default: of single texts), and the number of rows that were cut."""
    head, preprocessing = head or Classification(), backbone.preprocessing
    if bool(table.images) != isinstance(preprocessing, ImagePreprocessing):
        have, takes = ("images", "text") if table.images else ("text", "images")
        raise InputError(f"data: the rows hold {have}, but the backbone {backbone.path} takes {takes}")
    if isinstance(preprocessing, ImagePreprocessing):
        if isinstance(head, TokenTagging) or head.pair != "none":
            raise InputError(f"head: kind={head.kind} with pair={head.pair} reads text, the backbone takes images")
        encoded = Encoded(list(preprocessing.encode(table.images, table.where)), [], 0)
    else:
        encoded = encode_inputs(head, backbone, texts_of(table, head), max_tokens)
    if isinstance(head, Regression):
        assert head.center is not None
        assert head.spread is not None
        labels = ((_targets(table) - head.center) / head.spread).astype(np.float32)
    elif isinstance(head, TokenTagging):
        labels = token_labels(table.labels, encoded.places, encoded.rows, names, table.where, backbone.lengths)
    else:
        labels = encode_labels(table, tuple(names), multi_label)
    difficulty = np.array(table.difficulty) if table.difficulty else None
    return Examples(encoded.rows, labels, backbone.lengths, preprocessing.fill, difficulty), encoded.cut


__all__ = ["PreparedRows", "TaskData", "kind_of", "load_data", "tokenise"]
