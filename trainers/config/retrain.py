"""When a task is retrained, and what its candidate must show: frozen dataclasses of a config. Imports no jax.

    TrainConfig(..., retrain=Retrain(gate=Gate(tolerance=0.01), schema=Schema(labels=("yes", "no"))))

None of it changes a graft that is trained, so none of it is part of the fingerprint of what was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbone.errors import InputError

Metric = Literal["accuracy", "macro_f1", "matthews"]


@dataclass(frozen=True)
class Bound:
    """A threshold on one metric, for the slices whose name matches a pattern.

    Slices: `all rows`, `old rows` (held out, and known to the champion's data), `new rows`, `1 to 16 tokens`
    and the like, `label NAME`. `*` in a pattern matches anything.
    """

    metric: Metric = "accuracy"
    slices: str = "all rows"  # pattern over slice names; one that matches nothing is NO_EVIDENCE
    at_least: float = 0.0  # of the candidate; 0 = no such threshold
    max_drop: float | None = None  # candidate may lie at most this far below the champion; None = not compared

    def __post_init__(self) -> None:
        if self.at_least < 0 or (self.max_drop is not None and self.max_drop < 0):
            raise InputError("at_least: neither this nor max_drop may be negative")
        if not self.at_least and self.max_drop is None:
            raise InputError("at_least: a bound needs this, or max_drop")


@dataclass(frozen=True)
class Gate:
    """Candidate against champion on the same held-out rows: those of `data.gate_fraction`, else the development rows.

    A difference is judged by the interval that a paired bootstrap gives it: PASS if all of it lies above
    minus the tolerance, FAIL if its middle lies below, NO_EVIDENCE between. A slice with too few rows is
    NO_EVIDENCE, never a pass.
    """

    metric: Metric = "accuracy"  # that candidate and champion are compared by
    tolerance: float = 0.02  # most that the candidate may lie below the champion, all rows
    forgetting: float = 0.02  # the same on held-out rows that the champion's data held already
    bounds: tuple[Bound, ...] = ()  # further thresholds
    min_rows: int = 50  # held-out rows of a slice below which nothing is said
    confidence: float = 0.9  # of the paired bootstrap's interval
    first: Literal["beats_majority", "bounds"] = "beats_majority"
    # rule for the first version: beats_majority: its gain over always naming the most frequent label is
    # above zero, with all of its interval; bounds: what `bounds` and `target` ask, of which there must be one

    def __post_init__(self) -> None:
        if self.tolerance < 0 or self.forgetting < 0:
            raise InputError("tolerance: neither this nor forgetting may be negative")
        if self.min_rows < 2:
            raise InputError(f"min_rows: must be at least 2, got {self.min_rows}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence: must lie in [0.5, 1), got {self.confidence}")


@dataclass(frozen=True)
class Column:
    """What a column of the data files must hold."""

    name: str = "text"
    kind: Literal["text", "integer", "number"] = "text"
    least: float | None = None  # of numbers; of text, characters; None = no such limit
    most: float | None = None
    values: tuple[str, ...] = ()  # the only ones allowed; empty = any
    optional: bool = False  # may be empty

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("name: a column needs one")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise InputError(f"least: {self.least:g} lies above most, {self.most:g}")


@dataclass(frozen=True)
class Schema:
    """What the data must be; a violation stops a retraining before anything is spent."""

    columns: tuple[Column, ...] = ()  # of every file
    labels: tuple[str, ...] = ()  # the only ones allowed; empty = any
    min_rows: int = 0  # train rows
    min_rows_per_label: int = 0  # train rows of each label that occurs

    def __post_init__(self) -> None:
        if self.min_rows < 0 or self.min_rows_per_label < 0:
            raise InputError("min_rows: neither this nor min_rows_per_label may be negative")


@dataclass(frozen=True)
class Retrain:
    """The policy of a task's retraining."""

    schema: Schema = field(default_factory=Schema)
    gate: Gate = field(default_factory=Gate)
    min_changed: int = 1  # rows added, removed or relabelled below which a retraining is refused
    max_per_day: int = 0  # trainings begun in 24 hours after which one is refused; 0 = no limit
    head_share: float = 0.1  # most changed rows, of all, for which only the head is fitted anew
    warm_share: float = 0.5  # most changed rows, of all, for which training starts from the champion
    warm_epochs: float = 1.0  # of a training that starts from the champion

    def __post_init__(self) -> None:
        if self.min_changed < 0 or self.max_per_day < 0:
            raise InputError("min_changed: neither this nor max_per_day may be negative")
        if not 0 <= self.head_share <= self.warm_share:
            raise InputError("head_share: must be at least 0 and at most warm_share")
        if not self.warm_epochs > 0:
            raise InputError(f"warm_epochs: must be positive, got {self.warm_epochs}")
