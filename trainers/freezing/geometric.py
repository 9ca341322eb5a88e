"""`geometric(a)`: in epoch e the lowest ceil(L (1 - (1-a)^e)) blocks are frozen.

Source: PipeTransformer (He et al. 2021, arXiv 2102.03161), as its code computes it. The top block stays live.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from backbone.errors import InputError
from trainers.freezing.schedule import RunShape, Schedule, Span


@dataclass(frozen=True)
class Geometric(Schedule, tag="geometric"):
    """A share `a` of the live blocks freezes after each epoch."""

    a: float  # share of the live blocks, between 0 and 1

    def __post_init__(self) -> None:
        if not 0 < self.a < 1:
            raise InputError("a must lie between 0 and 1")

    @classmethod
    def example(cls) -> Self:
        return cls(0.5)

    def spans(self, shape: RunShape) -> tuple[Span, ...]:
        spans: list[Span] = []
        for epoch, end in enumerate(map(shape.rounded, shape.epoch_ends)):
            frozen = min(shape.blocks - 1, math.ceil(shape.blocks * (1 - (1 - self.a) ** epoch) - 1e-9))
            if spans and spans[-1].boundary == frozen:
                spans.pop()
            spans.append(Span(frozen, end))
        return tuple(spans)
