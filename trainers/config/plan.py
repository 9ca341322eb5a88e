"""Which blocks train when, and what is cached below them. Imports no jax."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from backbone.errors import InputError
from backbone.records import newer
from trainers.freezing.all import All
from trainers.freezing.explicit import Explicit, Stage
from trainers.freezing.schedule import Schedule, parse

ClimbStep = Literal["probe", "probe_all", "top", "all"]  # what a climb tries, cheapest first
AUTO = "auto"  # spelling of a climb in `stages`
OPEN = ""  # `stages` that nobody named: a climb where the config allows one, else `all`


@dataclass(frozen=True)
class Plan:
    """Which blocks are live when, and what is cached below them.

    `stages` is a tuple of `Stage`, or a schedule by name: `all`, `top(k)`, `geometric(a)`, `gradient_ratio`, or one
    of your own (one file each in `trainers/freezing`). `auto` is no schedule: it climbs from the cheapest step to one
    that is good enough (see `trainers.fitting.climb`). `climb=true` says the same. Stages that nobody names are a climb
    where the rest of the config allows one (`TrainConfig.climbs`), else every block is live.
    """

    stages: str | tuple[Stage, ...] = OPEN
    cache: Literal["none", "float32", "bfloat16", "int8"] = "float32"  # storage of states at a boundary
    highest: ClimbStep = "all"  # last step that a climb may try
    cache_gib: float = 8.0  # disk space that all boundary caches may take, GiB
    trials: Literal["promising", "all"] = field(default="promising", metadata=newer())
    # trained steps that a climb tries: those whose expected gain the development rows could show, or all of them
    max_memory_mb: float = field(default=0.0, metadata=newer())
    # largest memory of the training steps, above the level after imports, 10^6 bytes; 0 = no limit
    climb: bool = False  # another way to write stages=auto, which it becomes

    def __post_init__(self) -> None:
        if self.climb:
            if self.stages not in (OPEN, AUTO):
                raise InputError(f"climb: chooses the blocks itself; leave it out, or leave out stages={self.stages}")
            object.__setattr__(self, "stages", AUTO)
            object.__setattr__(self, "climb", False)
        if self.stages == ():
            raise InputError("stages: at least one stage is needed")
        try:
            _ = self.schedule
        except InputError as error:
            raise InputError(f"stages: {error}") from None
        if not 0 <= self.max_memory_mb < math.inf:
            raise InputError(f"max_memory_mb: must be positive, or 0 for no limit, got {self.max_memory_mb:g}")
        if not 0 < self.cache_gib < 2**32:
            raise InputError(f"cache_gib: must be positive and below 2^32, got {self.cache_gib:g}")

    @property
    def is_open(self) -> bool:
        """Returns whether nobody named the stages."""
        return self.stages == OPEN

    @property
    def schedule(self) -> Schedule:
        """Returns the freezing schedule; of a climb and of open stages, every block live."""
        if not isinstance(self.stages, str):
            return Explicit(self.stages)
        return All() if self.stages in (OPEN, AUTO) else parse(self.stages)
