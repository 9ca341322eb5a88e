"""How a router is made: settings of `trainers.route`, and options of the verb. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.console.options import check, option
from backbone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The rows that a router is fitted to, what it reads, and what it promises; the options of the verb."""

    rows: tuple[str, ...] = option(
        (), "file of rows whose label names their graft, or none; may be repeated (default: each graft's own)",
        repeat=True,
    )  # fmt: skip
    boundaries: tuple[int, ...] = option(
        (), "boundaries whose pooled states are read, commas between (default: those that all grafts share)", min=0
    )
    max_rows: int = option(1000, "rows of each graft, chosen by hash", min=10)
    share: float = option(0.3, "share of these rows that certifies the threshold and is used for nothing else")
    max_wrong: float = option(
        0.05, "bound on the share of inputs that the wrong graft answers; 0: every input is answered", min=0
    )
    confidence: float = option(0.9, "probability that the bound holds, over draws of the certifying rows")

    def __post_init__(self) -> None:
        check(self)
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise InputError(f"--boundaries: must ascend, got {self.boundaries}")
        for name in ("share", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"--{name}: must lie between 0 and 1, got {getattr(self, name)}")
        if self.max_wrong >= 1:
            raise InputError(f"--max-wrong: must lie below 1, got {self.max_wrong}")
