"""`all`: every block is live to the end of the run."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.freezing.schedule import RunShape, Schedule, Span


@dataclass(frozen=True)
class All(Schedule, tag="all"):
    """Every block, always."""

    def spans(self, shape: RunShape) -> tuple[Span, ...]:
        return (Span(0, shape.total),)
