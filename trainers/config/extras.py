"""Parts that a run may add to its graft: an out-of-scope score, early exits. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.errors import InputError


@dataclass(frozen=True)
class OutOfScope:
    """A score of how unlike the train rows an input is (see `adapters.artefact.scope`); it needs development rows.

    It is measured on the bare backbone. In a prediction the blocks from the lowest adapted one up to `boundary`
    therefore run twice, with the adapter and without.
    """

    false_alarms: float = 0.0  # greatest share of the inputs in scope that may be flagged; 0 = no score
    boundary: int = -1  # boundary whose pooled states are measured, 0..blocks or from the end; -1 = the last
    abstain: bool = False  # flagged inputs get no label

    def __post_init__(self) -> None:
        if not 0 <= self.false_alarms < 1:
            raise InputError(f"false_alarms: must be at least 0 and below 1, got {self.false_alarms}")
        if self.abstain and not self.false_alarms:
            raise InputError("abstain: needs false_alarms above 0, the share of inputs that may be flagged in error")


@dataclass(frozen=True)
class EarlyExits:
    """Heads at lower blocks that answer an input early if they are sure (see `adapters.artefact.exits`).

    The threshold is the loosest with at most `extra_error` rows that full depth answers correctly and an exit answers
    wrongly. That bound holds with probability `confidence` over draws of the calibration rows.
    """

    boundaries: tuple[int, ...] = ()  # blocks below each exit, ascending; empty = no exits
    extra_error: float = 0.01  # bound on the share of rows that only an exit answers wrongly
    confidence: float = 0.9  # probability that the bound holds
    share: float = 0.2  # share of the train rows, by hash and seed, that calibrates and is used for nothing else

    def __post_init__(self) -> None:
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise InputError(f"boundaries: must ascend, got {self.boundaries}")
        for name in ("extra_error", "confidence", "share"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name}: must lie between 0 and 1, got {getattr(self, name)}")
