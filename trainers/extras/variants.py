"""Precisions in which a graft may be served beside its own: each is scored on development rows before it is stored.

A graft of a trunk in a cheaper precision is compared with itself on the float32 weights. A fleet can then go back to
float32 without training anything.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from adapters.graft import Graft
from backbone.precisions.precision import FLOAT32
from backbone.storage import load_backbone
from trainers.config import TrainConfig
from trainers.data.batches import part_of
from trainers.data.examples import TaskData
from trainers.fitting.features import logits_of_rows
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

Metrics = dict[str, float]

MAX_LOST = 0.005  # score that float32 may lose on the development rows, of the config's metric
ROWS = 256  # development rows that are scored


def validated(config: TrainConfig, folder: Path, graft: Graft, data: TaskData) -> tuple[tuple[str, ...], Metrics]:
    """Returns ("float32",) if the graft loses at most MAX_LOST there, and its metrics on float32 weights.

    Without development rows nothing is known. States of the bare trunk come from the cache where it holds them, so that
    a retraining computes those of new rows alone.
    """
    if "dev" not in data.splits:
        return (), {}
    dev = data.splits["dev"]
    some = part_of(dev, np.arange(min(ROWS, len(dev))))
    other = Graft(graft.model, graft.params, load_backbone(folder, precision=FLOAT32), graft.max_tokens)
    logits = (logits_of_rows(config.plan, one, some) for one in (graft, other))
    before, after = (gather(graft.model, of_one, some.labels).compute() for of_one in logits)
    lost = before[config.metric] - after[config.metric]
    if lost <= MAX_LOST:
        return (FLOAT32,), after
    log.warning("precision: %s falls by %.4f in float32: the graft is not validated there", config.metric, lost)
    return (), after
