"""What a run may add to its graft: an out-of-scope score, early exits. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.errors import InputError


@dataclass(frozen=True)
class OutOfScope:
    """A score of how unlike the train rows an input is (see `adapters.artefact.scope`); needs development rows.

    It is measured on the bare backbone: blocks between the lowest adapted one and `boundary` run twice in a
    prediction, with the adapter and without.
    """

    false_alarms: float = 0.0  # most of the inputs in scope that may be flagged; 0 = no score
    boundary: int = -1  # whose pooled states are measured, 0..blocks or from the end; -1 the last
    abstain: bool = False  # give no label to what is flagged

    def __post_init__(self) -> None:
        if not 0 <= self.false_alarms < 1:
            raise InputError(f"false_alarms: must be at least 0 and below 1, got {self.false_alarms}")
        if self.abstain and not self.false_alarms:
            raise InputError("abstain: needs false_alarms above 0, the share of inputs that may be flagged in error")


@dataclass(frozen=True)
class EarlyExits:
    """Heads at lower blocks that answer single inputs where they are sure (see `adapters.artefact.exits`).

    The threshold is the loosest that keeps the share of rows that are right in full and wrong early at `extra_error`
    or below, with probability `confidence` over draws of the calibration rows.
    """

    boundaries: tuple[int, ...] = ()  # blocks below each exit, ascending; empty: no exits
    extra_error: float = 0.01  # share of rows, of all that are asked
    confidence: float = 0.9  # of the promise
    share: float = 0.2  # of the train rows, by hash and seed, held out of all that is fitted, to calibrate on

    def __post_init__(self) -> None:
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise InputError(f"boundaries: must ascend, got {self.boundaries}")
        for name in ("extra_error", "confidence", "share"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name}: must lie between 0 and 1, got {getattr(self, name)}")
