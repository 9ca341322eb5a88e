"""Stages that a user names one by one: `plan.stages=(Stage("", until_epoch=1), Stage("4:"))`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from adapters.specs import block_range
from backbone.errors import InputError
from trainers.freezing.schedule import RunShape, Schedule, Span


@dataclass(frozen=True)
class Stage:
    """One stage of a freeze plan: which blocks are live, and until when."""

    blocks: str = ""  # live blocks, slice notation without an end: "" all, "4:" from block 4, "none" the head only
    until_epoch: float = 0.0  # end of the stage in epochs from the start of the run; 0 = the end of the run
    until_step: int = 0  # end of the stage in optimiser steps; 0 = not used

    def __post_init__(self) -> None:
        if self.blocks not in ("", "none") and not re.fullmatch(r"-?\d+:", self.blocks):
            raise InputError(
                f"blocks: {self.blocks!r} must be '' (all), 'none' or a slice without an end such as '4:'; a gap "
                "below a live block saves nothing, since gradients pass through it"
            )
        if self.until_epoch < 0 or self.until_step < 0 or (self.until_epoch and self.until_step):
            raise InputError("until_epoch: one of until_epoch and until_step, neither negative")


@dataclass(frozen=True)
class Explicit(Schedule, tag="explicit"):
    """The stages of a list, each with its own boundary and end."""

    spelled: ClassVar[bool] = False
    stages: tuple[Stage, ...]  # in order; the last ends with the run

    @classmethod
    def example(cls) -> Self:
        return cls((Stage("", until_epoch=1), Stage("1:", until_epoch=1.5), Stage("none")))

    def spans(self, shape: RunShape) -> tuple[Span, ...]:
        last = len(self.stages) - 1
        spans: list[Span] = []
        begins: float = 0  # micro-batch at which the stage begins in a run that is long enough
        for number, stage in enumerate(self.stages):
            end = self._end(number, shape)
            until = shape.total if number == last else shape.rounded(min(end, shape.total))
            done = spans[-1].until if spans else 0
            if end <= begins or (until <= done < shape.total):
                raise InputError(
                    f"plan.stages[{number}]: ends at micro-batch {end:g}, before it begins ({max(begins, done):g})"
                )
            begins = end
            try:
                boundary = shape.blocks if stage.blocks == "none" else block_range(stage.blocks, shape.blocks).start
            except InputError as error:
                raise InputError(f"plan.stages[{number}].{error}") from error
            if done < shape.total:
                spans.append(Span(boundary, until))
        return tuple(spans)

    def _end(self, number: int, shape: RunShape) -> float:
        """Returns the micro-batch at which a stage ends; infinity for the end of the run."""
        stage = self.stages[number]
        if stage.until_step:
            return stage.until_step * shape.accumulate
        if stage.until_epoch:
            return shape.at_epoch(stage.until_epoch)
        if number < len(self.stages) - 1:
            raise InputError(f"plan.stages[{number}]: has no end, but a stage follows; give until_epoch or until_step")
        return math.inf
