"""What a search stores as plain records. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from backbone.errors import InputError
from backbone.records import decode
from backbone.texts import load_json

T = TypeVar("T")
TRIALS, STATES, PLAN = "trials", "states", "search.json"


@dataclass(frozen=True)
class Piece:
    """A trial at the end of a rung."""

    point: str  # id of the point
    rung: int  # 0, 1, ...
    steps: int  # micro-batches so far
    total: int  # micro-batches of the whole plan
    score: float  # the config's metric on the development rows
    draws: tuple[float, ...]  # the same on resampled rows, the same draws for every trial
    measures: dict[str, float]  # value of each objective
    slices: dict[str, float]  # the metric on slices of the development rows
    cpu_seconds: float  # CPU seconds of this piece
    spent: float  # CPU seconds of the search so far, in all of its processes
    prediction_cpu_seconds: float | None = None  # CPU seconds of one prediction; None: not measured

    @property
    def done(self) -> bool:
        """Returns whether the whole plan was trained."""
        return self.steps == self.total


@dataclass(frozen=True)
class SearchPlan:
    """What a search is going to try; a resumed search reads it."""

    objectives: tuple[str, ...]
    metric: str
    tried: tuple[str, ...]  # ids of the points, in order
    rungs: tuple[float, ...]  # shares of the training after which points are compared
    rows: dict[str, str]  # fingerprint of each split's rows
    predicted_cpu_seconds: float  # price of the search
    spent: float  # CPU seconds until the first trial
    budget: float = 0.0  # CPU seconds allowed; 0 = no limit
    seconds: dict[str, float] = field(default_factory=dict)  # predicted CPU seconds of a whole training, by point
    count: int = 0  # points that a sampler that learns chooses one by one; 0: `tried` names all of them


def read_pieces(workdir: Path) -> tuple[Piece, ...]:
    """Returns the pieces that a search has stored, by rung and point."""
    return tuple(read(Piece, path) for path in sorted((workdir / TRIALS).glob("*.json")))


def read(kind: type[T], path: Path) -> T:
    """Returns a record of a search; raises InputError where it is damaged."""
    try:
        return decode(kind, load_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); start in another --workdir") from error
