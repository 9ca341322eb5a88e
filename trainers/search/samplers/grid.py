"""The points in the order of the space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.search.pieces import Piece
from trainers.search.samplers.sampler import Sampler, untried
from trainers.search.space import Point


@dataclass(frozen=True)
class Grid(Sampler, tag="grid"):
    """The order of the space."""

    def choose(
        self, points: Sequence[Point], pieces: Sequence[Piece], objectives: Sequence[str], seed: int, count: int
    ) -> list[str]:
        return [point.id for point in untried(points, pieces)]
