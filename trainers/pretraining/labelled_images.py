"""Labelled images as rows of patches, for training a backbone, and how they are moved on the device.

The images come through the one reader of tasks (`trainers.data.prepare`). Shapes: B images, T tokens, P values
of a patch, S pixels a side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from adapters.heads.columns import OneLabel
from backbone.errors import InputError
from backbone.home import home
from backbone.images import ImagePreprocessing
from backbone.records import digest
from backbone.spec import ImageSpec
from trainers.config import Data
from trainers.data.prepare import Table, prepare

COLUMN = OneLabel()


@dataclass(frozen=True)
class Labelled:
    """The images of a split."""

    rows: np.ndarray  # uint8 [N,T,P]
    labels: np.ndarray  # int32 [N]


@dataclass(frozen=True)
class LabelledImages:
    """Every image of a run."""

    splits: dict[str, Labelled]  # train and held_out
    labels: tuple[str, ...]
    fingerprint: str  # `sha256:<hex>` of the images and labels of both splits


def read_labelled(data: Data, preprocessing: ImagePreprocessing, *, show: bool = False) -> LabelledImages:
    """PreparedRows, decoded and cut into patches; held out are the test rows, or without them the development rows.

    Raises InputError for images or labels that are missing or bad.
    """
    prepared = prepare(data, COLUMN, cache=home() / "data", progress=show)
    held_out = "test" if "test" in prepared.splits else "dev"
    if held_out not in prepared.splits:
        raise InputError("data.test: names no file, and data.dev_fraction leaves no row to score; set one of them")
    if "train" not in prepared.splits:
        raise InputError("data.train: every row is held out; lower data.dev_fraction or data.gate_fraction")
    tables = {"train": prepared.table("train"), "held_out": prepared.table(held_out)}
    names = COLUMN.names(tables["train"].labels, data)
    found = {split: prepared.fingerprint[name] for split, name in (("train", "train"), ("held_out", held_out))}
    return LabelledImages({k: _labelled(t, names, preprocessing) for k, t in tables.items()}, names, digest(found))


def _labelled(table: Table, names: tuple[str, ...], preprocessing: ImagePreprocessing) -> Labelled:
    rows = np.stack(preprocessing.encode(table.images, table.where))
    return Labelled(rows, COLUMN.encode(table.labels, names, table.where))


def moved(rows: jax.Array, offsets: jax.Array, most: int, image: ImageSpec) -> jax.Array:
    """Patches [B,T,P] of images moved down and right by `offsets` int [B,2] within -most..most; edges are repeated."""
    side, patch, special = image.size // image.patch, image.patch, image.special
    grid = rows[:, special:].reshape(-1, side, side, patch, patch, image.channels)
    pixels = grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, image.size, image.size, image.channels)
    wide = jnp.pad(pixels, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")

    def cut(one: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(one, (at[0], at[1], 0), pixels.shape[1:])

    grid = jax.vmap(cut)(wide, most - offsets).reshape(-1, side, patch, side, patch, image.channels)
    patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(len(rows), side**2, image.patch_width)
    return jnp.concatenate([rows[:, :special], patches], axis=1)
