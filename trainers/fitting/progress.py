"""The figures that a loop decides by, and its record of each stage; saved with every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backbone.errors import InputError
from backbone.records import decode
from trainers.runs.result import StageRecord


@dataclass
class Progress:
    """The figures that decide how a run goes on."""

    best_score: float | None = None  # best held-out score so far
    best_step: int = 0  # micro-batch of that score
    epochs_without_gain: int = 0  # evaluations since the best score
    stopped: bool = False  # the run ends before its last step
    skipped: int = 0  # micro-batches whose loss or gradient was not finite
    boundary: int = 0  # first live block of the stage that ran last
    stage_until: int = 0  # micro-batches at which that stage ends
    norms: tuple[float, ...] = ()  # norm of each live block's accumulated gradient, for schedules that read it
    stages: tuple[StageRecord, ...] = ()  # every stage, the open one too
    history: tuple[dict[str, float], ...] = ()  # step and held-out scores of each evaluation

    def note(self, step: int, scores: Mapping[str, float], metric: str) -> bool:
        """Adds an evaluation; returns whether its `metric` is the best so far (never without a metric)."""
        self.history = (*self.history, {"step": float(step), **scores})
        if not metric:
            return False
        if self.best_score is None or scores[metric] > self.best_score:
            self.best_score, self.best_step, self.epochs_without_gain = scores[metric], step, 0
            return True
        self.epochs_without_gain += 1
        return False


def progress_of(notes: Mapping[str, Any]) -> Progress:
    """Rebuilds `Progress` from a checkpoint's notes. Raises InputError if they are damaged or of another version."""
    values = dict(notes)
    if values.get("best_score") == -math.inf:  # how a former version wrote "none yet"
        values["best_score"] = None
    try:
        return decode(Progress, values)
    except InputError as error:
        raise InputError(
            f"--resume: the checkpoint's notes are damaged, or of another version of Topgraft ({error}); "
            "start in another --workdir"
        ) from None


def rows_of_steps(stages: Sequence[StageRecord], batch_size: int) -> int:
    """Returns how many rows went through the backbone in training steps instead of coming from a cache."""
    return sum(stage.steps * batch_size for stage in stages if not stage.cached)
