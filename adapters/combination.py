"""The combination of grafts: the settings of `adapters.mixing.combine`, and options of the verb. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from backbone.console.options import check, option
from backbone.errors import InputError

How: TypeAlias = Literal["linear", "cat", "svd", "ties"]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A way to make one graft of several; `adapters.mixing` has the formulas."""

    how: How = option("cat", "way to combine; adapters/mixing.py has the formulas")
    weights: tuple[float, ...] = option((), "weight of each graft, commas between (default: all 1/N)")
    rank: int = option(0, "svd, ties: rank at each site; 0 is the largest rank among the grafts", min=0)
    density: float = option(0.2, "ties: share of the entries that are kept", above=0, max=1)
    head_from: str | None = option(None, "graft whose head and labels are kept (default: the first)")

    def __post_init__(self) -> None:
        check(self)
        if not all(self.weights):
            raise InputError(f"--weights: none may be zero, got {', '.join(map(str, self.weights))}")
        if self.rank and self.how not in ("svd", "ties"):
            raise InputError(f"--rank: a positive number, for svd and ties only; got {self.rank} with {self.how}")
        if self.density != type(self).density and self.how != "ties":
            raise InputError(f"--density: for ties only; got {self.density:g} with {self.how}")
