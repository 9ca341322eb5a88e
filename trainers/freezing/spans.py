"""From a freeze plan to boundaries: which block is the first live one at each step of a run.

A stage is static: blocks from `boundary` on are live, those below run forward only or come from the
cache. Boundary L means that only the head is live. Stages end on optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.specs import block_range
from backbone.errors import InputError
from trainers.config import Plan, Stage


@dataclass(frozen=True)
class Span:
    """A stage in micro-batches."""

    boundary: int | None  # first live block; None: decided when the stage begins (gradient_ratio)
    until: int  # micro-batches done when it ends


def spans(plan: Plan, blocks: int, epoch_ends: Sequence[int], epochs: float, accumulate: int) -> tuple[Span, ...]:
    """The stages of a run of `epoch_ends[-1]` micro-batches; raises InputError for a plan that fits no run."""
    total = epoch_ends[-1]
    name, value = plan.schedule
    if not isinstance(plan.stages, str):
        return _explicit(plan.stages, blocks, epoch_ends, epochs, accumulate)
    if name in ("all", "auto"):
        return (Span(0, total),)
    if name == "top":
        if value != int(value) or not 1 <= value <= blocks:
            raise InputError(f"plan.stages: top({value:g}) of {blocks} blocks; k must be a whole number in 1..{blocks}")
        return (Span(blocks - int(value), total),)
    ends = [_rounded(end, accumulate, total) for end in epoch_ends]
    if name == "gradient_ratio":
        return (Span(0, ends[0]), *(Span(None, end) for end in ends[1:]))
    found: list[Span] = []
    for epoch, end in enumerate(ends):
        frozen = min(blocks - 1, math.ceil(blocks * (1 - (1 - value) ** epoch) - 1e-9))
        if found and found[-1].boundary == frozen:
            found[-1] = Span(frozen, end)
        else:
            found.append(Span(frozen, end))
    return tuple(found)


def _rounded(step: float, accumulate: int, total: int) -> int:
    """Micro-batches up to the end of the optimiser step that holds `step`."""
    return min(total, math.ceil(step / accumulate - 1e-9) * accumulate)


def _explicit(
    stages: Sequence[Stage], blocks: int, epoch_ends: Sequence[int], epochs: float, accumulate: int
) -> tuple[Span, ...]:
    total, last = epoch_ends[-1], len(stages) - 1
    found: list[Span] = []
    begins: float = 0  # of a run that is long enough
    for number, stage in enumerate(stages):
        what = f"plan.stages[{number}]"
        end = math.inf
        if stage.until_step:
            end = stage.until_step * accumulate
        elif stage.until_epoch:
            end = _at_epoch(stage.until_epoch, epoch_ends, epochs)
        elif number < last:
            raise InputError(f"{what}: has no end, but a stage follows; give until_epoch or until_step")
        until = total if number == last else _rounded(min(end, total), accumulate, total)
        begun = found[-1].until if found else 0
        if end <= begins or (until <= begun < total):
            raise InputError(f"{what}: ends at micro-batch {end:g}, before it begins ({max(begins, begun):g})")
        begins = end
        try:
            boundary = blocks if stage.blocks == "none" else block_range(stage.blocks, blocks).start
        except InputError as error:
            raise InputError(f"{what}.{error}") from error
        if begun < total:
            found.append(Span(boundary, until))
    return tuple(found)


def _at_epoch(epoch: float, epoch_ends: Sequence[int], epochs: float) -> float:
    """Micro-batches of a run of `epochs`, of which the last may be a part, up to `epoch`."""
    whole = min(len(epoch_ends) - 1, int(epoch))
    before = epoch_ends[whole - 1] if whole else 0
    length = (epoch_ends[whole] - before) / min(1.0, epochs - whole)
    return before + (epoch - whole) * length


def next_boundary(before: Sequence[float], after: Sequence[float], boundary: int) -> int:
    """AutoFreeze's rule (Liu et al. 2021, section 4): the first block whose gradient still changes.

    `before` and `after` are norms of the gradients accumulated over the last two intervals, one for each
    block from `boundary` on. A block's ratio is |before - after| / before; blocks from the bottom up whose
    ratio lies below the median are frozen, and at least the top block stays live.
    """
    old, new = np.asarray(before, float), np.asarray(after, float)
    ratio = np.abs(old - new) / np.maximum(old, 1e-30)
    threshold = np.median(ratio)
    still = np.flatnonzero(ratio >= threshold)
    return boundary + min(int(still[0]), len(ratio) - 1)
