"""What a search may look for beside the score: costs of training a trial and of one prediction with its graft.

    score        the config's metric on the development rows                                       higher is better
    cpu_seconds  CPU seconds of the training steps of the whole plan, from those that were run      lower
    latency      95th percentile of the milliseconds of one row's prediction in this process        lower
    bytes        bytes of the graft and of what it reads of the trunk                              lower
    flops        operations of one row's prediction, counted on paper                              lower
    joules       joules of one row's prediction, by a counter that moves                           lower

Latency, bytes, operations and joules belong to a model; trials of one model share them. The row has the middle length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from adapters.costs import forward
from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.buckets import TokenRow
from backbone.errors import InputError, nearest
from backbone.storage import Backbone
from backbone.trees import Params, flatten
from metering.energy import meter
from metering.window import cpu_seconds, on_accelerator, window
from trainers.config import TrainConfig

OBJECTIVES = ("score", "cpu_seconds", "latency", "bytes", "flops", "joules")
OF_PREDICTION = ("latency", "joules")  # objectives for which a graft has to predict
TIMED = 40  # predictions that are timed
METERED = 200  # predictions whose joules are read off the counter


def require_measurable(objectives: Sequence[str], config: TrainConfig) -> None:
    """Raises InputError for an objective that this machine cannot measure, and for a search without the score."""
    for name in objectives:
        if name not in OBJECTIVES:
            raise InputError(f"--objectives: no objective {name!r}; {nearest(name, OBJECTIVES)}")
    if "score" not in objectives:
        raise InputError("--objectives: score must be one of them, or the cheapest point wins whatever it answers")
    if len(set(objectives)) != len(objectives):
        raise InputError(f"--objectives: each one once, got {', '.join(objectives)}")
    if "joules" in objectives and meter(on_accelerator()) is None:
        raise InputError(
            "--objectives: joules cannot be measured here: no energy counter of this machine moves; leave it out, or "
            "use cpu_seconds or flops"
        )
    if config.target.max_joules and meter(on_accelerator()) is None:
        raise InputError("target.max_joules: cannot be checked here: no energy counter of this machine moves")


@dataclass(frozen=True)
class Prediction:
    """The cost of one row's prediction."""

    latency: float  # 95th percentile, ms
    cpu_seconds: float  # mean CPU seconds
    joules: float | None = None  # mean joules by a counter; None: nobody asked, or there is no counter


def predicted(graft: Graft, rows: Sequence[TokenRow], *, joules: bool) -> Prediction:
    """Measures the prediction of the row of middle length, compiled before."""
    row = sorted(rows, key=len)[len(rows) // 2]
    graft.logits_of_rows([row])
    seconds, before = [], cpu_seconds()
    for _ in range(TIMED):
        start = time.perf_counter()
        graft.logits_of_rows([row])
        seconds.append(time.perf_counter() - start)
    spent, energy = (cpu_seconds() - before) / TIMED, None
    if joules:
        with window("predict") as cost:
            for _ in range(METERED):
                graft.logits_of_rows([row])
        energy = (
            cost.joules.value / METERED if cost.joules.quality == "measured_counter" and cost.joules.value else None
        )
        if energy is None:
            raise InputError(f"--objectives: joules cannot be measured here: {cost.joules.source}")
    return Prediction(1e3 * float(np.quantile(seconds, 0.95)), spent, energy)


def bytes_of(model: GraftModel, backbone: Backbone) -> int:
    """Returns the bytes of a float32 graft, and of the parts of the trunk below the highest boundary that it reads."""
    graft = sum(4 * int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model.abstract()))
    highest = max(model.taps)
    trunk = {
        path: leaf
        for path, leaf in flatten(backbone.params).items()
        if not path.startswith("blocks.") or int(path.split(".")[1]) < highest
    }
    return graft + sum(int(leaf.nbytes) for leaf in jax.tree.leaves(trunk))


def flops_of(model: GraftModel, rows: Sequence[TokenRow]) -> float:
    """Returns the operations of one prediction of the row of middle length, without padding."""
    return forward(model, 1, len(sorted(rows, key=len)[len(rows) // 2])).flops


def graft_of(model: GraftModel, params: Params, backbone: Backbone, config: TrainConfig) -> Graft:
    """Returns the graft of a trial, to predict with."""
    return Graft(model, params, backbone, config.data.max_tokens)
