"""The out-of-scope score of a run: the rows that fit it and those that calibrate it.

The pooled states of the bare backbone come from the boundary cache, which every task of that backbone shares. Without
a cache they cost one forward pass over the train and development rows.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from adapters.artefact.scope import Scope, reference_of, scope_of
from adapters.model import GraftModel
from trainers.config import OutOfScope
from trainers.data.examples import TaskData
from trainers.fitting.features import features
from trainers.inputs import Inputs
from trainers.runs.run import Run

log = logging.getLogger(__name__)


def scope_of_run(inputs: Inputs, run: Run, dev_logits: np.ndarray) -> Scope:
    """Returns the out-of-scope score of a run; `dev_logits` float32 [N,C] are the trained graft's."""
    assert inputs.bare is not None
    splits = [inputs.data.splits[name] for name in ("train", "dev")]
    with run.phase("out_of_scope"):
        x = features(inputs.config.plan, inputs.bare, inputs.backbone, {}, splits, run)
        return fitted_scope(inputs.config.out_of_scope, inputs.bare, x, inputs.data, dev_logits)


def fitted_scope(
    settings: OutOfScope, bare: GraftModel, x: list[np.ndarray], data: TaskData, logits: np.ndarray
) -> Scope:
    """Returns the scope from features of the train and development rows, and the graft's logits of the latter.

    Beside the score it holds statistics of the development rows, for the server to compare its traffic with.
    """
    train, dev = x
    shares = bare.head.column.shares(data.splits["train"].labels, len(bare.labels))
    scope = scope_of(train, shares, dev, bare.taps[0], settings.false_alarms, settings.abstain)
    log.info("out of scope: differences above %.4g, %d classes", scope.threshold, len(scope.means))
    lengths = np.array([len(row) for row in data.splits["dev"].rows])
    reference = reference_of(lengths, scope.scores(dev), logits.argmax(axis=-1), len(bare.labels))
    return replace(scope, reference=reference)
