"""One trial at a time: its price, and its training up to a rung."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from adapters.costs import train_step
from adapters.model import GraftModel
from metering.window import cpu_seconds
from trainers.fitting import ways
from trainers.fitting.features import logits_of_rows
from trainers.fitting.state import LoopState
from trainers.scoring.examine import Examined, examine
from trainers.scoring.intervals import resampled
from trainers.search.halving import RUNGS, rungs_of
from trainers.search.objectives import Prediction, bytes_of, flops_of, graft_of
from trainers.search.pieces import Piece
from trainers.search.records import Folder
from trainers.search.shared import Shared, Trial
from trainers.search.training import TrialTask, advance

TIMED_STEPS = 3  # steps of a bucket that are timed, after the one that compiles
FITTED_SECONDS = 2.0  # CPU seconds of a head that is fitted in closed form, on stored features


@dataclass(frozen=True, eq=False)
class Pricing:
    """The price of trials: seconds of the first group's steps, and for the others by their counted operations."""

    seconds_per_flop: float
    compiling: float  # CPU seconds of compiling one bucket's step
    evaluation: float  # CPU seconds of a comparison: a trial made ready, and scored on the development rows
    flops: dict[str, float]  # operations of a whole training, by point
    buckets: int  # lengths of the train rows
    timed: GraftModel | None  # group whose programs are compiled by now

    def seconds(self, trial: Trial) -> float:
        """Returns the CPU seconds of a trial's whole training."""
        return FITTED_SECONDS if trial.fitted else self.seconds_per_flop * self.flops[trial.point.id]

    def compile_of(self, groups: Collection[GraftModel]) -> float:
        """Returns the CPU seconds of the programs of some groups that are not compiled yet."""
        return self.compiling * self.buckets * len(set(groups) - {self.timed})

    def piece(self, trial: Trial, rung: int) -> float:
        """Returns the CPU seconds of a trial from the rung before to this one."""
        share = RUNGS[rung] - (RUNGS[rung - 1] if rung else 0.0)
        return (0.0 if trial.fitted and rung else share * self.seconds(trial)) + self.evaluation


def priced(trials: Sequence[Trial], shared: Shared) -> Pricing:
    """Times the steps of the group with the highest boundary; the programs that this compiles are used later."""
    stepped = [trial for trial in trials if not trial.fitted]
    flops = {trial.point.id: _flops(shared.task(trial)) for trial in stepped}
    if not stepped:
        return Pricing(0.0, 0.0, 0.5, flops, 0, None)
    trial = max(stepped, key=lambda trial: trial.boundary)
    task = shared.task(trial)
    state, compiling, seconds, counted = LoopState(task, shared.start(trial)), 0.0, 0.0, 0.0
    state.enter(task.span_at(0), False)
    buckets = sorted(set(task.train.buckets.tolist()))
    for bucket in buckets:
        rows = np.flatnonzero(task.train.buckets == bucket)[: task.config.batch_size]
        batch = jax.device_put(task.train.gather(bucket, rows, task.config.batch_size, state.states))
        new, before = task.programs.is_new(state.step, state.progress.boundary, batch), cpu_seconds()
        state.arrays = jax.block_until_ready(state.step(state.arrays, state.fixed, batch))  # type: ignore[no-untyped-call]
        compiling += cpu_seconds() - before if new else 0.0
        before = cpu_seconds()
        for _ in range(TIMED_STEPS):
            state.arrays = state.step(state.arrays, state.fixed, batch)
        jax.block_until_ready(state.arrays)  # type: ignore[no-untyped-call]
        seconds += cpu_seconds() - before
        counted += TIMED_STEPS * state.work(batch).flops
    task.logits(state)  # compiles what the next call is timed without
    before = cpu_seconds()
    scored(trial, shared.task(trial).logits(LoopState(task, shared.start(trial))))
    overhead = cpu_seconds() - before
    return Pricing(seconds / counted, compiling / len(buckets), overhead, flops, len(buckets), trial.group)


def _flops(task: TrialTask) -> float:
    """Returns the counted operations of a whole training."""
    config, total, first = task.config, 0.0, 0
    share = {b: float(np.mean(task.train.buckets == b)) for b in set(task.train.buckets.tolist())}
    for span in task.spans:
        steps, boundary = min(span.until, task.total_steps) - first, span.boundary or 0
        lowest = min(task.model.adapted_blocks, default=task.blocks)
        cached = task.bare(max(boundary, lowest)) is not None
        for bucket, part in share.items():
            work = train_step(task.model, config.batch_size, bucket, boundary=max(boundary, lowest), cached=cached)
            total += steps * part * work.flops
        first = min(span.until, task.total_steps)
    return total


def tried(trial: Trial, rung: int, shared: Shared, folder: Folder, expected: float) -> Piece:
    """Trains a trial from where it is up to a rung, and scores it on the development rows.

    Whoever stores the piece adds what the search has spent, and the cost of a prediction. `expected` are the predicted
    CPU seconds of the whole training.
    """
    before = cpu_seconds()
    if trial.fitted:
        logits, progress = _fitted(trial, shared)
    else:
        logits, progress = _stepped(trial, rung, shared, folder, expected)
    inputs, model, metric = trial.inputs, trial.model, trial.inputs.config.metric
    examined, draws = scored(trial, logits)
    measures = {
        "score": float(examined.metrics[metric]),
        "cpu_seconds": round(progress.predicted, 3),
        "bytes": float(bytes_of(model, inputs.backbone)),
        "flops": flops_of(model, inputs.train.rows),
    }
    slices = {name: values[metric] for name, values in examined.slices.items() if name != "all rows"}
    return Piece(
        trial.point.id,
        rung,
        progress.steps,
        progress.total,
        measures["score"],
        draws,
        measures,
        {name: float(value) for name, value in slices.items() if math.isfinite(value)},
        round(cpu_seconds() - before, 3),
        0.0,
    )


def with_prediction(piece: Piece, prediction: Prediction) -> Piece:
    """Returns a piece with the cost of one prediction."""
    measures = {**piece.measures, "latency": prediction.latency}
    if prediction.joules is not None:
        measures["joules"] = prediction.joules
    return replace(piece, measures=measures, prediction_cpu_seconds=prediction.cpu_seconds)


def scored(trial: Trial, logits: np.ndarray) -> tuple[Examined, tuple[float, ...]]:
    """Returns the scores of a trial's logits on the development rows, and the metric on resampled rows."""
    dev, metric = trial.inputs.dev, trial.inputs.config.metric
    assert dev is not None
    draws = resampled(trial.model, logits, dev.labels, metric)
    return examine(trial.model, dev, logits), tuple(np.round(draws, 5).tolist())


@dataclass(frozen=True)
class TrialProgress:
    """How far a trial is."""

    steps: int  # micro-batches so far
    total: int  # micro-batches of the whole plan
    predicted: float  # CPU seconds of all of its training steps


def _fitted(trial: Trial, shared: Shared) -> tuple[np.ndarray, TrialProgress]:
    """Fits a head to stored features; it is done at once."""
    before = cpu_seconds()
    fitted = ways.probe(trial.inputs, shared.run)
    graft, dev = graft_of(trial.model, fitted.params, trial.inputs.backbone, trial.inputs.config), trial.inputs.dev
    assert dev is not None
    logits = logits_of_rows(trial.inputs.config.plan, graft, dev)
    return logits, TrialProgress(1, 1, cpu_seconds() - before)


def _stepped(
    trial: Trial, rung: int, shared: Shared, folder: Folder, expected: float
) -> tuple[np.ndarray, TrialProgress]:
    """Trains a trial in steps, from its stored state if there is one; `expected` seconds stand in for none."""
    task, stored = shared.task(trial), folder.state(trial.point.id)
    state = LoopState(task, shared.start(trial))
    state.best = {}
    state.restore(stored)
    until = rungs_of(task.total_steps)[rung]
    part = advance(task, state, max(until, state.done))
    if part.steps:
        stored.save(state)
    total = task.total_steps
    return task.logits(state), TrialProgress(state.done, total, part.step_cpu_seconds * total or expected)
