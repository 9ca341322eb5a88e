"""Which tokens a graft drops, and what is promised: settings of `trainers.drop_tokens`, and options of the verb.

Imports no jax.
"""

from __future__ import annotations

from dataclasses import dataclass

from backbone.console.options import check, option, required
from backbone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Dropping:
    """Where tokens are dropped, how many may stay, and the bound; the options of the verb."""

    rows: tuple[str, ...] = required(
        "file of labelled rows that the graft was not trained on, in the layout of its train rows; may be repeated",
        repeat=True,
    )
    at: tuple[int, ...] = option((), "boundaries, commas between; at each but the first, half as many stay "
        "(default: a third of the blocks)", min=1)  # fmt: skip
    keep: tuple[int, ...] = option((), "numbers of tokens that may stay at the first, from many to few, commas "
        "between (default: 3/4, 1/2 and 3/8 of the longest input)", min=4)  # fmt: skip
    extra_error: float = option(0.02, "bound on what the share of rows with a mistake grows by")
    confidence: float = option(0.9, "probability that the bound holds, over draws of the rows")

    def __post_init__(self) -> None:
        check(self)
        if list(self.at) != sorted(set(self.at)):
            raise InputError(f"--at: must ascend, got {self.at}")
        if list(self.keep) != sorted(set(self.keep), reverse=True):
            raise InputError(f"--keep: must descend, from many tokens to few, got {self.keep}")
        for name in ("extra_error", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')}: must lie between 0 and 1, got {getattr(self, name)}")
