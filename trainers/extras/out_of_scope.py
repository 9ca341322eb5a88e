"""The out-of-scope score of a run: what `adapters.artefact.scope` is fitted to and calibrated on.

The pooled states of the bare backbone come from the boundary cache, which every task of that backbone shares; where
none is kept they cost one forward pass over the train and development rows.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from adapters.artefact.scope import Scope, min_rows, reference_of, scope_of
from adapters.model import GraftModel
from adapters.specs import MultiLabel, Probe
from backbone.errors import InputError
from backbone.storage import Backbone
from trainers.config import OutOfScope, TrainConfig
from trainers.data.examples import TaskData

log = logging.getLogger(__name__)


def bare_model(config: TrainConfig, backbone: Backbone, data: TaskData) -> GraftModel:
    """The model whose features are measured; raises InputError, before anything is trained, where none can be."""
    asked, blocks = config.out_of_scope, backbone.spec.blocks
    if not -blocks - 1 <= asked.boundary <= blocks:
        raise InputError(f"out_of_scope.boundary: {asked.boundary} is not in 0..{blocks} (or negative from the end)")
    rows, least = len(data.splits["dev"]) if "dev" in data.splits else 0, min_rows(asked.false_alarms)
    if rows < least:
        raise InputError(
            f"out_of_scope.false_alarms: {asked.false_alarms:g} needs at least {least} development rows, got "
            f"{rows}; set data.dev or data.dev_fraction, or allow more false alarms"
        )
    at = asked.boundary % (blocks + 1)
    return GraftModel(backbone.network, (Probe(boundaries=(at,)),), config.head, data.labels)


def fitted_scope(
    asked: OutOfScope, bare: GraftModel, features: list[np.ndarray], data: TaskData, logits: np.ndarray
) -> Scope:
    """The scope from features of the train and the development rows, and the graft's logits of the latter.

    Beside the score it holds what the development rows were like, for the server to compare its traffic with.
    """
    train, held = features
    shares = shares_of(bare, data.splits["train"].labels)
    scope = scope_of(train, shares, held, bare.taps[0], asked.false_alarms, asked.abstain)
    log.info("out of scope: differences above %.4g, %d classes", scope.threshold, len(scope.means))
    lengths = np.array([len(row) for row in data.splits["dev"].rows])
    reference = reference_of(lengths, scope.scores(held), logits.argmax(axis=-1), len(bare.labels))
    return replace(scope, reference=reference)


def shares_of(model: GraftModel, labels: np.ndarray) -> np.ndarray:
    """How much of each row belongs to each class, float [N,C+1]; the last class is that of rows without a label."""
    if not isinstance(model.head, MultiLabel):
        return np.asarray(np.eye(len(model.labels) + 1)[labels])
    without = ~labels.any(axis=1, keepdims=True)
    found = np.concatenate([labels, without], axis=1).astype(float)
    return np.asarray(found / found.sum(axis=1, keepdims=True))
