"""Whether a graft may be served in a cheaper precision: scored there, on the development rows, before it is stored."""

from __future__ import annotations

import logging
from pathlib import Path

from adapters.graft import Graft
from backbone.errors import InputError
from backbone.storage import load_backbone
from trainers.config import TrainConfig
from trainers.data.examples import TaskData
from trainers.scoring.metrics import gather

log = logging.getLogger(__name__)

MAX_LOST = 0.005  # of the config's metric on the development rows


def require_dev(config: TrainConfig, data: TaskData) -> None:
    """Raises InputError, before anything is trained, where there is nothing to validate on."""
    if config.validate and "dev" not in data.splits:
        raise InputError("validate: scored on development rows; set data.dev, or data.dev_fraction above 0")


def validated(
    config: TrainConfig, folder: Path, graft: Graft, data: TaskData, metrics: dict[str, dict[str, float]]
) -> tuple[str, ...]:
    """The variants of `config.validate` that lose at most MAX_LOST; adds their scores to `metrics`: `dev_VARIANT`."""
    found = []
    for dtype in config.validate:
        lower = Graft(graft.model, graft.params, load_backbone(folder, dtype=dtype), graft.max_tokens)
        dev = data.splits["dev"]
        scores = gather(graft.model, lower.logits_of_rows(dev.rows), dev.labels).compute()
        metrics[f"dev_{dtype}"] = scores
        before, after = metrics["dev"][config.metric], scores[config.metric]
        if after >= before - MAX_LOST:
            found.append(dtype)
        else:
            log.warning("validate: %s: %s falls from %.4f to %.4f: not a variant", dtype, config.metric, before, after)
    return tuple(found)
