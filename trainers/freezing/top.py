"""`top(k)`: the top k blocks are live, on states that are cached at the boundary below them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from backbone.errors import InputError
from trainers.freezing.schedule import RunShape, Schedule, Span


@dataclass(frozen=True)
class Top(Schedule, tag="top"):
    """The top `k` blocks, always; the blocks below get no adapter."""

    k: int  # number of live blocks, 1..L

    @classmethod
    def example(cls) -> Self:
        return cls(1)

    def spans(self, shape: RunShape) -> tuple[Span, ...]:
        return (Span(self.first_adapted(shape.blocks), shape.total),)

    def first_adapted(self, blocks: int) -> int:
        if not 1 <= self.k <= blocks:
            raise InputError(f"plan.stages: top({self.k}) of {blocks} blocks; k must be a whole number in 1..{blocks}")
        return blocks - self.k

    def warm_blocks(self, default: int) -> int:
        return self.k
