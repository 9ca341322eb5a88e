"""The curriculum of an experiment. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbone.errors import InputError


@dataclass(frozen=True)
class Curriculum:
    """The train rows that are eligible at each time. An epoch draws as many examples as there are train rows.

    Competence c(t) is the share of rows, ordered by difficulty, that is open at time t of `duration`. It is
    linear: c0 + (1-c0) t, or root: sqrt(t (1-c0^2) + c0^2) (Platanios et al. 2019, equations 6 and 7).
    """

    difficulty: Literal["none", "length", "rarity", "probe_loss", "column"] = "none"  # order of rows; none: all, always
    pacing: Literal["linear", "root"] = "root"  # shape of the competence
    start: float = 0.2  # c0, the share of rows that is open at first
    duration: float = 0.5  # share of the run until every row is open
    control: bool = False  # random difficulties with the same pacing, the baseline for any gain
    subset: float = 1.0  # share of the rows drawn in an epoch, another random subset each time (RS2)

    def __post_init__(self) -> None:
        for name in ("start", "duration", "subset"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}: must lie in (0, 1], got {getattr(self, name)}")
