"""The difficulty by which the curriculum sorts the train rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adapters.model import GraftModel
from adapters.specs import Probe
from backbone.cache import row_key
from backbone.storage import Backbone
from trainers.config import TrainConfig
from trainers.data.batches import Examples
from trainers.data.order import BY_TOKENS
from trainers.fitting.linear_head import cross_fitted_loss, pooled_features

Features = Callable[[GraftModel], np.ndarray]  # gives the features of the train rows, [N,F]


def difficulty_of(
    config: TrainConfig, model: GraftModel, backbone: Backbone, rows: Examples, features: Features | None = None
) -> np.ndarray | None:
    """Returns the difficulty of each train row, float [N]; None without a curriculum.

    `features` gives those of the bare backbone, for probe_loss; without it a forward pass computes them.
    """
    kind = config.curriculum.difficulty
    if kind == "none":
        return None
    if kind == "column":
        return rows.difficulty
    if kind == "probe_loss":
        return probe_loss(config, backbone, model, rows, features)
    return BY_TOKENS[kind](rows.rows)


def probe_loss(
    config: TrainConfig, backbone: Backbone, model: GraftModel, rows: Examples, features: Features | None
) -> np.ndarray:
    """Computes the loss of each train row under a probe that never saw it, float [N].

    The rows fall into five folds, copies of a row into one.
    """
    plain = GraftModel(backbone.network, (Probe(boundaries=(-1,)),), config.head, model.labels)
    known = features(plain) if features else pooled_features(plain, backbone, {}, rows, lambda count: None)
    keys = [row_key(row) for row in rows.rows]
    return cross_fitted_loss(plain, known, rows.labels, keys, config.metric)
