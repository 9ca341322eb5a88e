"""Cheaper precisions that a graft may be served in: each is scored on the development rows before it is stored."""

from __future__ import annotations

import logging
from pathlib import Path

from adapters.graft import Graft
from backbone.storage import load_backbone
from trainers.config import TrainConfig
from trainers.data.examples import TaskData
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

MAX_LOST = 0.005  # score that a precision may lose on the development rows, of the config's metric


def validated(
    config: TrainConfig, folder: Path, graft: Graft, data: TaskData, metrics: dict[str, dict[str, float]]
) -> tuple[str, ...]:
    """Returns the precisions of `config.validate` that lose at most MAX_LOST; adds `dev_PRECISION` to `metrics`."""
    kept, dev = [], data.splits["dev"]
    # of the graft itself: metrics["dev"] may be those of heads that had not seen the rows
    exact = gather(graft.model, graft.logits_of_rows(dev.rows), dev.labels).compute() if config.validate else {}
    for dtype in config.validate:
        cheaper = Graft(graft.model, graft.params, load_backbone(folder, dtype=dtype), graft.max_tokens)
        scores = gather(graft.model, cheaper.logits_of_rows(dev.rows), dev.labels).compute()
        metrics[f"dev_{dtype}"] = scores
        before, after = exact[config.metric], scores[config.metric]
        if after >= before - MAX_LOST:
            kept.append(dtype)
        else:
            log.warning("validate: %s: %s falls from %.4f to %.4f: not a variant", dtype, config.metric, before, after)
    return tuple(kept)
