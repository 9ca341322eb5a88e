"""The curriculum of an experiment. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbone.errors import InputError


@dataclass(frozen=True)
class Curriculum:
    """Which train rows are eligible when. An epoch is as many drawn examples as there are train rows.

    Competence c(t), the share of rows by difficulty that is open at time t of `duration`, is
    linear: c0 + (1-c0) t, or root: sqrt(t (1-c0^2) + c0^2) (Platanios et al. 2019, equations 6 and 7).
    """

    difficulty: Literal["none", "length", "rarity", "probe_loss", "column"] = "none"  # none: all rows, always
    pacing: Literal["linear", "root"] = "root"
    start: float = 0.2  # c0, the share that is open at first
    duration: float = 0.5  # share of the run until every row is open
    control: bool = False  # rows in random order of difficulty, same pacing: what any gain must beat
    subset: float = 1.0  # share of the rows drawn in an epoch, another random subset each time (RS2)

    def __post_init__(self) -> None:
        for name in ("start", "duration", "subset"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}: must lie in (0, 1], got {getattr(self, name)}")
