"""The verb `evaluate`: a stored graft on labelled rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from adapters.graft import Graft, load_graft
from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.meshes.mesh import Mesh
from backbone.storage import on_mesh
from trainers.config.load import override_part
from trainers.data.examples import load_data
from trainers.inputs import data_of
from trainers.runs.logs import bar
from trainers.runs.result import UNSEEN_SPLITS
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a graft on the requested splits; `--json` prints them."""

    graft: str  # folder of the graft
    content_id: str
    metrics: dict[str, dict[str, float]]  # score by split and metric
    rows: dict[str, int]  # number of rows by split
    confusion: dict[str, list[list[int]]]  # counts by split; rows true, columns predicted; classification only
    labels: tuple[str, ...]
    answered: dict[str, dict[str, int]]  # rows answered at each boundary, by split; only for `exits`


def evaluate(
    path: str | Path,
    *,
    backbone: str | Path | None = None,
    overrides: tuple[str, ...] = (),
    files: tuple[str, ...] = (),
    precision: str = "",
    submodel: Literal["full", "exits"],
    show: bool = False,
) -> Evaluation:
    """Scores the graft at `path` on the dev and test splits of its own config, or on `files` as test.

    `overrides` are `data.x=y` settings, for other columns or formats, and `mesh.x=y`, for several devices. `submodel`
    is the part of the graft that answers. Raises InputError for a damaged graft, bad data, a label that the graft does
    not know, or exits that it does not have.
    """
    ready_to_compute()
    of_mesh = tuple(text for text in overrides if text.startswith("mesh."))
    mesh = override_part(Mesh(), "mesh", of_mesh)
    graft = load_graft(path, backbone, precision=precision)
    graft = replace(graft, backbone=on_mesh(graft.backbone, mesh))
    data = data_of(graft, tuple(text for text in overrides if text not in of_mesh))
    splits: tuple[str, ...] = ("dev", "test")
    left_out: tuple[str, ...] = ()
    if not files and data.dev == () and _fitted_to_dev(graft):
        left_out = ("the head was fitted to the development rows, once they had been scored (`inspect` shows how)",)
        log.info("dev is left out: %s", *left_out)
        splits = ("test",)
    if files:
        data, splits = replace(data, train=(), dev=(), test=files), ("test",)
    if splits == ("test",) and not data.test:
        raise InputError(f"data.test: no file{'; '.join(('', *left_out))}; pass one to evaluate (--file FILE)")
    rows = load_data(data, graft.model.head, graft.backbone, labels=graft.model.labels, splits=splits, show=show)
    metrics, confusion, answered = {}, {}, {}
    for name, examples in rows.splits.items():
        if submodel == "exits":
            logits, place = graft.early_logits_of_rows(examples.rows)
            answered[name] = {str(boundary): int((place == boundary).sum()) for boundary in np.unique(place)}
        else:
            with bar(len(examples), name, "row", show=show) as shown:
                logits = graft.logits_of_rows(examples.rows, shown.update)
        counts = gather(graft.model, logits, examples.labels)
        metrics[name] = counts.compute()
        if counts.confusion is not None:
            confusion[name] = counts.confusion
    assert graft.manifest is not None
    return Evaluation(
        graft=str(path),
        content_id=graft.manifest.content_id,
        metrics=metrics,
        rows={name: len(examples) for name, examples in rows.splits.items()},
        confusion=confusion,
        labels=graft.model.labels,
        answered=answered,
    )


def _fitted_to_dev(graft: Graft) -> bool:
    """Returns whether the graft was fitted to its development rows, once they had been scored."""
    assert graft.manifest is not None
    return not graft.manifest.training.metrics.keys().isdisjoint(UNSEEN_SPLITS.values())
