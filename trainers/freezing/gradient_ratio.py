"""`gradient_ratio`: after each epoch, the blocks below the first whose gradient still changes are frozen.

Source: AutoFreeze (Liu et al. 2021, arXiv 2102.01386), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from trainers.freezing.schedule import RunShape, Schedule, Span


@dataclass(frozen=True)
class GradientRatio(Schedule, tag="gradient_ratio"):
    """Every block in the first epoch; then each stage is one epoch, and its boundary follows the gradients."""

    signal: ClassVar[Literal["", "gradient"]] = "gradient"

    def spans(self, shape: RunShape) -> tuple[Span, ...]:
        first, *others = map(shape.rounded, shape.epoch_ends)
        return (Span(0, first), *(Span(None, end) for end in others))

    def decide(self, before: Sequence[float], after: Sequence[float], boundary: int) -> int:
        """Returns the first block from `boundary` on whose ratio |before - after| / before reaches the median.

        `before` and `after` are norms of the gradients accumulated over two epochs. The top block stays live.
        """
        old, new = np.asarray(before, float), np.asarray(after, float)
        ratio = np.abs(old - new) / np.maximum(old, 1e-30)
        still_changing = np.flatnonzero(ratio >= np.median(ratio))
        return boundary + min(int(still_changing[0]), len(ratio) - 1)
