"""Which blocks train when, and what is cached below them. Imports no jax."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from backbone.errors import InputError

LadderRung = Literal["probe", "probe_all", "top", "all"]  # of the plan auto, cheapest first


@dataclass(frozen=True)
class Stage:
    """One stage of a freeze plan: which blocks are live, and until when."""

    blocks: str = ""  # live blocks, slice notation without an end: "" all, "4:" from block 4, "none" the head only
    until_epoch: float = 0.0  # the stage ends here, counted from the start of the run; 0 = at the end of the run
    until_step: int = 0  # the same in optimiser steps; 0 = not used

    def __post_init__(self) -> None:
        if self.blocks not in ("", "none") and not re.fullmatch(r"-?\d+:", self.blocks):
            raise InputError(
                f"blocks: {self.blocks!r} must be '' (all), 'none' or a slice without an end such as '4:'; a gap "
                "below a live block saves nothing, since gradients pass through it"
            )
        if self.until_epoch < 0 or self.until_step < 0 or (self.until_epoch and self.until_step):
            raise InputError("until_epoch: one of until_epoch and until_step, neither negative")


SCHEDULE = re.compile(r"(all|gradient_ratio|auto|top|geometric)(?:\((\d+\.?\d*|\.\d+)\))?")


@dataclass(frozen=True)
class Plan:
    """Which blocks are live when, and what is cached below them.

    `stages` is a tuple of `Stage`, or a schedule by name: `all`; `top(k)`, the top k blocks on a cached
    boundary; `geometric(a)`, ceil(L (1 - (1-a)^e)) blocks frozen in epoch e (PipeTransformer, He et al.
    2021); `gradient_ratio`, at each epoch's end the blocks below the first whose gradient still changes
    more than the median block's (AutoFreeze, Liu et al. 2021); `auto`, the cheapest rung that is good
    enough (see `trainers.fitting.climb`; a probe or a ladder, which never differentiates the backbone, is one rung).
    """

    stages: str | tuple[Stage, ...] = "all"
    cache: Literal["none", "float32", "bfloat16", "int8"] = "float32"  # how states at a boundary are kept
    highest: LadderRung = "all"  # the last rung that auto may try
    cache_gib: float = 8.0  # most that all boundary caches may take on disk

    def __post_init__(self) -> None:
        if isinstance(self.stages, str):
            match = SCHEDULE.fullmatch(self.stages)
            needs = self.stages.startswith(("top", "geometric"))
            if not match or (match[2] is not None) != needs:
                raise InputError(
                    f"stages: {self.stages!r} is none of all, top(k), geometric(a), gradient_ratio, auto; or a list"
                )
            if self.schedule[0] == "geometric" and not 0 < self.schedule[1] < 1:
                raise InputError(f"stages: {self.stages}: a must lie between 0 and 1")
        elif not self.stages:
            raise InputError("stages: at least one stage is needed")
        if not 0 < self.cache_gib < 2**32:
            raise InputError(f"cache_gib: must be positive and below 2^32, got {self.cache_gib:g}")

    @property
    def schedule(self) -> tuple[str, float]:
        """(name, argument) of a schedule by name; ("stages", 0) for explicit ones."""
        if not isinstance(self.stages, str):
            return "stages", 0.0
        match = SCHEDULE.fullmatch(self.stages)
        assert match is not None
        return match[1], float(match[2] or 0)
