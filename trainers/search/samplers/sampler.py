"""The base of samplers: which point of a space a search tries next. Imports no jax.

A sampler chooses from stored pieces alone, so a search that was killed goes on to the same points. Halving stays the
search's: a sampler learns from the first rung, where every point was trained as far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from backbone.variants.registered import Registered
from trainers.search.pieces import Piece
from trainers.search.space import Point


class Sampler(Registered, by="sampler", folder="trainers.search.samplers", needs=("choose",)):
    """The order of the points."""

    learns: ClassVar[bool] = False  # the choice depends on the pieces of the points before it

    def require(self) -> None:
        """Raises InputError where a package of the sampler is missing."""

    def choose(
        self, points: Sequence[Point], pieces: Sequence[Piece], objectives: Sequence[str], seed: int, count: int
    ) -> list[str]:
        """Returns the ids of the next points among those that no piece has, the first one first.

        `pieces` are those of the first rung, in the order in which they were trained. `count` points are tried in all.
        A sampler that learns returns one id.
        """
        raise NotImplementedError


def untried(points: Sequence[Point], pieces: Sequence[Piece]) -> list[Point]:
    """Returns the points that no piece has, in their order."""
    known = {piece.point for piece in pieces}
    return [point for point in points if point.id not in known]
