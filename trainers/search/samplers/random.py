"""The points in an order drawn by the config's seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.search.pieces import Piece
from trainers.search.samplers.sampler import Sampler
from trainers.search.space import Point


@dataclass(frozen=True)
class RandomOrder(Sampler, tag="random"):
    """A random order, the same for the same points and seed."""

    def choose(
        self, points: Sequence[Point], pieces: Sequence[Piece], objectives: Sequence[str], seed: int, count: int
    ) -> list[str]:
        known = {piece.point for piece in pieces}
        order = np.random.default_rng(seed).permutation(len(points))
        return [points[i].id for i in order if points[i].id not in known]
