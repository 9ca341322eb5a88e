"""Successive halving that knows noise: which points go on after a rung, and what a search will cost.

Source: Jamieson & Talwalkar 2016 (arXiv 1502.07943). After a rung a third of the points goes on. Points behind the cut
by no more than noise go on too, up to half as many again. With several objectives the layers of the front decide
before the score does, so that a cheap point is not given up for its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainers.search.front import layers, noise, vector
from trainers.search.pieces import Piece

ETA = 3  # points that begin a rung, for each that goes on
RUNGS = (1 / 9, 1 / 3, 1.0)  # shares of the training after which points are compared
NEAR = 0.5  # further points within noise of the cut, as a share of those kept


def rungs_of(total: int) -> tuple[int, ...]:
    """Returns the micro-batches at which a plan of `total` is compared; fewer where it is short."""
    return tuple(max(1, round(share * total)) for share in RUNGS)


def kept_of(count: int) -> int:
    """Returns how many of `count` points go on for certain."""
    return math.ceil(count / ETA)


def survivors(pieces: Sequence[Piece], objectives: Sequence[str]) -> tuple[str, ...]:
    """Returns the ids of the points that go on after a rung, best first; the same for the same pieces."""
    vectors = [vector(piece, objectives) for piece in pieces]
    order: list[Piece] = []
    for layer in layers(vectors):
        order += sorted((pieces[i] for i in layer), key=lambda piece: (-piece.score, piece.point))
    count = kept_of(len(pieces))
    kept, rest = order[:count], order[count:]
    cut = min(kept, key=lambda piece: (piece.score, piece.point))
    near = [piece for piece in rest if cut.score - piece.score <= noise(cut, piece)]
    kept += sorted(near, key=lambda piece: (-piece.score, piece.point))[: math.ceil(NEAR * count) if count > 1 else 0]
    return tuple(piece.point for piece in kept)


def expected_price(seconds: Sequence[float], evaluation: float) -> float:
    """Returns the CPU seconds of halving over points whose whole trainings take `seconds`.

    Every comparison costs `evaluation` more. Points within noise go on in half of the room that there is for them.
    """
    if not seconds:
        return 0.0
    mean, count, before, total = sum(seconds) / len(seconds), len(seconds), 0.0, 0.0
    for share in RUNGS:
        total += count * ((share - before) * mean + evaluation)
        before = share
        kept = kept_of(count)
        count = min(count, kept + (math.ceil(NEAR * kept) if kept > 1 else 0) // 2)
    return total
