"""The out-of-scope score of a run: what `adapters.artefact.scope` is fitted to and calibrated on.

The pooled states of the bare backbone come from the boundary cache, which every task of that backbone shares. Without
a cache they cost one forward pass over the train and development rows.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from adapters.artefact.scope import Scope, min_rows, reference_of, scope_of
from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.errors import InputError
from backbone.storage import Backbone
from trainers.config import OutOfScope, TrainConfig
from trainers.data.examples import TaskData

log = logging.getLogger(__name__)


def bare_model(config: TrainConfig, backbone: Backbone, data: TaskData) -> GraftModel:
    """Returns the model whose features are measured; raises InputError, before any training, where none can be."""
    settings, blocks = config.out_of_scope, backbone.spec.blocks
    if not -blocks - 1 <= settings.boundary <= blocks:
        raise InputError(f"out_of_scope.boundary: {settings.boundary} is not in 0..{blocks} (or negative from the end)")
    rows, least = len(data.splits["dev"]) if "dev" in data.splits else 0, min_rows(settings.false_alarms)
    if rows < least:
        raise InputError(
            f"out_of_scope.false_alarms: {settings.false_alarms:g} needs at least {least} development rows, got "
            f"{rows}; set data.dev or data.dev_fraction, or allow more false alarms"
        )
    at = settings.boundary % (blocks + 1)
    return GraftModel(backbone.network, (Probe(boundaries=(at,)),), config.head, data.labels)


def fitted_scope(
    settings: OutOfScope, bare: GraftModel, features: list[np.ndarray], data: TaskData, logits: np.ndarray
) -> Scope:
    """Returns the scope from features of the train and development rows, and the graft's logits of the latter.

    Beside the score it holds statistics of the development rows, for the server to compare its traffic with.
    """
    train, held = features
    shares = bare.head.column.shares(data.splits["train"].labels, len(bare.labels))
    scope = scope_of(train, shares, held, bare.taps[0], settings.false_alarms, settings.abstain)
    log.info("out of scope: differences above %.4g, %d classes", scope.threshold, len(scope.means))
    lengths = np.array([len(row) for row in data.splits["dev"].rows])
    reference = reference_of(lengths, scope.scores(held), logits.argmax(axis=-1), len(bare.labels))
    return replace(scope, reference=reference)
