"""Early exits of a run: their heads, and the threshold under which they may answer.

A share of the train rows, chosen by hash, is put aside before anything is fitted. The adapter, early stopping, the
choice of a climb's step and the exits' heads never see it. These calibration rows are thus equally new to the full
answer and to the early ones, and the promise of `trainers.scoring.risk` holds as stated. Development rows would not do:
they choose the epoch.

The heads are fitted to pooled states of the other train rows. If all exits lie at or below the
lowest adapted block, these states come from the boundary cache, else from one pass of the trained graft.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapters.artefact.exits import Exits
from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Head, Probe
from backbone.errors import InputError
from trainers.config import EarlyExits, TrainConfig
from trainers.fitting.features import features
from trainers.fitting.linear_head import fit_linear
from trainers.inputs import Inputs
from trainers.runs.run import Run
from trainers.scoring.risk import Control, control, p_value, taken

log = logging.getLogger(__name__)


def require_unseen(config: TrainConfig, parent: Mapping[str, Any]) -> None:
    """Raises InputError where the graft to start from, of config `parent`, was fitted to rows that calibrate now."""
    had = parent.get("exits", {})
    same = bool(had.get("boundaries")) and parent.get("seed") == config.seed
    if not (same and had.get("share", 0.0) >= config.exits.share):
        raise InputError(
            "exits: the graft to start from was fitted to rows that are to calibrate now; start from one with exits, "
            "the same seed and no smaller exits.share, or train from scratch"
        )


def exits_of(inputs: Inputs, run: Run, graft: Graft) -> Exits | None:
    """Returns the exits of a trained graft; None, with a warning that says why, where none may answer."""
    assert inputs.calibration is not None
    settings, model, train, calibration = inputs.config.exits, graft.model, inputs.train, inputs.calibration
    boundaries = tuple(b for b in settings.boundaries if b < max(model.taps))
    if not boundaries:
        log.warning("exits: the graft reads nothing above boundary %d: it has no exit", max(model.taps))
        return None
    with run.phase("exits"):
        if max(boundaries) <= min(model.adapted_blocks, default=max(model.taps)):
            bare = GraftModel(model.network, (Probe(boundaries=boundaries),), Classification(), model.labels)
            x, calibration_x = features(inputs.config.plan, bare, inputs.backbone, {}, [train, calibration], run)
            full = graft.logits_of_rows(calibration.rows)
        else:
            _, x = graft.logits_and_pooled(train.rows, boundaries)
            full, calibration_x = graft.logits_and_pooled(calibration.rows, boundaries)
            run.computed.rows += len(train)
        run.computed.rows += len(calibration)
        kernels, biases = _heads(model, np.split(x, len(boundaries), axis=1), train.labels)
        by_exit = calibration_x.reshape(len(calibration_x), len(boundaries), -1)
        logits = np.einsum("ned,edc->nec", by_exit, kernels) + biases
        return calibrated(settings, boundaries, kernels, biases, logits, full, calibration.labels, model.head)


def _heads(model: GraftModel, features: Sequence[np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits kernels [E,D,C] and biases [E,C] to features [N,D] of each exit; these also choose the strength."""
    heads = [fit_linear(model, x, labels, None, model.head.metrics[0]).head for x in features]
    return np.stack([head["kernel"] for head in heads]), np.stack([head["bias"] for head in heads])


def calibrated(
    settings: EarlyExits,
    boundaries: tuple[int, ...],
    kernels: np.ndarray,
    biases: np.ndarray,
    logits: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    head: Head,
) -> Exits | None:
    """Returns the exits with the threshold that logits [N,E,C] and full ones [N,C] of the calibration rows certify.

    A row is lost where an exit makes more mistakes than full depth: of one label, where only the exit is wrong.
    """
    by_exit = list(logits.swapaxes(0, 1))
    sure = np.stack([head.confidence(each) for each in by_exit], axis=1)
    worse = np.stack([head.mistakes(each, labels) for each in by_exit], axis=1) > head.mistakes(full, labels)[:, None]
    result = control(sure, worse, settings.extra_error, 1 - settings.confidence)
    if result.threshold is None:
        log.warning("%s", _why_none(settings, result))
        return None
    place = taken(sure, result.threshold)
    left = tuple(float((place == number).mean()) for number in range(len(boundaries)))
    log.info(
        "exits: from %.4f on; of %d calibration rows %.1f %% leave early, %d of them with more mistakes than in full",
        result.threshold,
        result.rows,
        100 * sum(left),
        result.losses,
    )
    promise = (result.threshold, settings.extra_error, settings.confidence)
    return Exits(boundaries, kernels, biases, *promise, result.rows, result.losses, left, head)


def _why_none(settings: EarlyExits, result: Control) -> str:
    """Returns, for the log, how many rows it would have taken at this rate of losses, if any number does."""
    rows, rate, delta = result.rows, result.losses / result.rows, 1 - settings.confidence
    while rows < 2**24 and p_value(int(np.ceil(rate * rows)), rows, settings.extra_error) > delta:
        rows *= 2
    needed = f"about {rows} rows like these would do" if rows < 2**24 else "no number of rows like these would do"
    return (
        f"exits: none is taken: of {result.rows} calibration rows {result.losses} have more mistakes early than in "
        f"full at the strictest threshold, which does not show an extra error of at most {settings.extra_error:g} at "
        f"confidence {settings.confidence:g}; {needed}"
    )
