"""What can answer a task beside its whole graft, and what that costs: parts that a runtime and its endpoints share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.residency import Served

PRUNED = "pruned"  # submodel of a task for which its pruned graft answers


@dataclass(frozen=True)
class Standin:
    """A graft that was pruned from a task's live one, and is served as a task of its own."""

    served: Served  # the pruned graft
    lost: float  # share of the rows that it answers worse, by the metrics of both


@dataclass(frozen=True)
class ScopeCost:
    """The out-of-scope score of a graft, and what it costs here."""

    boundary: int  # boundary of the bare backbone where it is measured
    false_alarms: float  # largest share of rows in scope that lie above its threshold
    abstains: bool  # a text above the threshold gets no label
    extra_blocks: int  # blocks of the bare backbone that run for the score alone, for each distinct input of a batch
    blocks: int  # blocks of the backbone


@dataclass(frozen=True)
class Submodels:
    """The cheaper submodels that can serve a graft."""

    exits: dict[str, Any] | None  # boundaries, threshold and certified extra error of its early exits; None: not usable
