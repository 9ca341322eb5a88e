"""Labelled images as rows of patches, for training a backbone.

The images come through the one reader of tasks (`trainers.data.prepare`).
Shapes: N images, T tokens, P values of a patch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from adapters.heads.columns import OneLabel
from backbone.errors import InputError
from backbone.home import home
from backbone.images import ImagePreprocessing
from backbone.records import digest
from trainers.config import Data
from trainers.data.prepare import Table, prepare
from trainers.pretraining.material import Split

COLUMN = OneLabel()


@dataclass(frozen=True)
class LabelledImages:
    """Every image of a run."""

    splits: dict[Split, dict[str, np.ndarray]]  # "ids" uint8 [N,T,P] and "labels" int32 [N] of train and held_out
    labels: tuple[str, ...]  # names of the labels
    fingerprint: str  # `sha256:<hex>` of the images and labels of both splits


def read_labelled(data: Data, preprocessing: ImagePreprocessing, *, show: bool = False) -> LabelledImages:
    """Reads the images, decoded and cut into patches. Held out are the test rows, or without them the development rows.

    `show` draws progress. Raises InputError for images or labels that are missing or bad.
    """
    prepared = prepare(data, COLUMN, cache=home() / "data", progress=show)
    held_out = require_sides(prepared.splits)
    sources: dict[Split, str] = {"train": "train", "held_out": held_out}
    tables = {split: prepared.table(name) for split, name in sources.items()}
    names = COLUMN.names(tables["train"].labels, data)
    splits = {split: _arrays(table, names, preprocessing) for split, table in tables.items()}
    identity = {split: prepared.fingerprint[name] for split, name in sources.items()}
    return LabelledImages(splits, names, digest(identity))


def require_sides(splits: Collection[str]) -> str:
    """Returns the split that is held out, of those with rows; raises InputError where one side has none."""
    held_out = "test" if "test" in splits else "dev"
    if held_out not in splits:
        raise InputError("data.test: names no file, and data.dev_fraction leaves no row to score; set one of them")
    if "train" not in splits:
        raise InputError("data.train: every row is held out; lower data.dev_fraction or data.gate_fraction")
    return held_out


def _arrays(table: Table, names: tuple[str, ...], preprocessing: ImagePreprocessing) -> dict[str, np.ndarray]:
    rows = np.stack(preprocessing.encode(table.images, table.where))
    return {"ids": rows, "labels": COLUMN.encode(table.labels, names, table.where)}
