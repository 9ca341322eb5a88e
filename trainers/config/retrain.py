"""The policy of a task's retraining: frozen dataclasses of a config. Imports no jax.

    TrainConfig(..., retrain=Retrain(gate=Gate(tolerance=0.01), schema=Schema(labels=("yes", "no"))))

It says when a task is retrained and what its candidate must show. No field changes the graft that is trained, so no
field is part of the fingerprint of what was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbone.errors import InputError
from backbone.records import newer


@dataclass(frozen=True)
class Bound:
    """A threshold on one metric, for the slices whose name matches a pattern.

    The slices are `all rows`, `old rows`, `new rows`, lengths such as `1 to 16 tokens`, and `label NAME`. Old rows are
    held-out rows that the champion's data held. `*` in a pattern matches anything.
    """

    metric: str = "accuracy"  # one of the head's metrics
    slices: str = "all rows"  # pattern over slice names; NO_EVIDENCE if it matches none
    at_least: float = 0.0  # lowest metric of the candidate; 0 = no such threshold
    max_drop: float | None = None  # greatest distance of the candidate below the champion; None = not compared

    def __post_init__(self) -> None:
        if self.at_least < 0 or (self.max_drop is not None and self.max_drop < 0):
            raise InputError("at_least: neither this nor max_drop may be negative")
        if not self.at_least and self.max_drop is None:
            raise InputError("at_least: a bound needs this, or max_drop")


@dataclass(frozen=True)
class Gate:
    """The comparison of candidate and champion on held-out rows: those of `data.gate_fraction`, else development rows.

    A paired bootstrap gives an interval for the difference. The verdict is PASS if the whole interval lies above minus
    the tolerance, FAIL if its middle lies below, and NO_EVIDENCE otherwise. A slice with too few rows is NO_EVIDENCE,
    never a pass.
    """

    metric: str = "accuracy"  # metric of the head by which candidate and champion are compared
    tolerance: float = 0.02  # greatest distance of the candidate below the champion, over all rows
    forgetting: float = 0.02  # the same distance over held-out rows that the champion's data held already
    bounds: tuple[Bound, ...] = ()  # further thresholds
    label_drop: float = 0.3  # greatest distance of a label's metric below the champion's, beyond doubt; 1 = any
    min_rows: int = 50  # held-out rows of a slice below which the verdict is NO_EVIDENCE
    confidence: float = 0.9  # coverage of the paired bootstrap's interval
    # rule for the first version. beats_majority: the interval of its gain over the most frequent label lies above
    # zero; bounds: it meets `bounds` and `target`, of which at least one is set
    first: Literal["beats_majority", "bounds"] = "beats_majority"

    def __post_init__(self) -> None:
        if self.tolerance < 0 or self.forgetting < 0:
            raise InputError("tolerance: neither this nor forgetting may be negative")
        if not 0 <= self.label_drop <= 1:
            raise InputError(f"label_drop: must lie in [0, 1], got {self.label_drop}")
        if self.min_rows < 2:
            raise InputError(f"min_rows: must be at least 2, got {self.min_rows}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence: must lie in [0.5, 1), got {self.confidence}")


@dataclass(frozen=True)
class Column:
    """A column of the data files, and the values it may hold."""

    name: str = "text"
    kind: Literal["text", "integer", "number"] = "text"
    min: float | None = None  # smallest number, or fewest characters of a text; None = no limit
    max: float | None = None  # greatest number, or most characters of a text; None = no limit
    values: tuple[str, ...] = ()  # allowed values; empty = any
    optional: bool = False  # the column may be empty in a row

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("name: a column needs one")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise InputError(f"min: {self.min:g} lies above max, {self.max:g}")


@dataclass(frozen=True)
class Schema:
    """The data that a task accepts; a violation stops a retraining before anything is spent."""

    columns: tuple[Column, ...] = ()  # columns of every file
    labels: tuple[str, ...] = ()  # allowed labels; empty = any
    min_rows: int = 0  # fewest train rows
    min_rows_per_label: int = 0  # fewest train rows of each label that occurs or is named in `labels`

    def __post_init__(self) -> None:
        if self.min_rows < 0 or self.min_rows_per_label < 0:
            raise InputError("min_rows: neither this nor min_rows_per_label may be negative")


@dataclass(frozen=True)
class RowChecks:
    """Checks of changed rows before anything is trained; a violation is a verdict of FAIL that names rows.

    They look for what nobody means: a join that lost a label, a file that was cut off or came again, labels that were
    shuffled, shifted or swapped. Each bound may be raised for a task that has a reason; 1 switches it off.
    """

    max_lost: float = 0.3  # greatest share by which the rows may become fewer
    max_label_lost: float = 0.5  # greatest share of a live label's rows that may be gone, beyond that of all rows
    max_copies: float = 0.15  # greatest share of copies of former rows among added rows, beyond the usual one
    max_relabelled: float = 0.07  # greatest share of unchanged inputs that may have another label
    max_disagreement: float = (
        0.05  # greatest drop of the live version's score on added inputs that are like former ones
    )
    max_unlearnable: float = 0.2  # greatest drop of an out-of-fold probe's score on added inputs that are unlike them
    min_rows: int = 50  # rows of a kind below which it is not checked
    # new labels that are meant, although they are spelt nearly as a live one
    new_labels: tuple[str, ...] = field(default=(), metadata=newer())

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("min_rows", "new_labels") and not 0 <= value <= 1:
                raise InputError(f"{name}: must lie in [0, 1], got {value}")
        if self.min_rows < 2:
            raise InputError(f"min_rows: must be at least 2, got {self.min_rows}")


@dataclass(frozen=True)
class Retrain:
    """The policy of a task's retraining."""

    schema: Schema = field(default_factory=Schema)
    rows: RowChecks = field(default_factory=RowChecks)
    gate: Gate = field(default_factory=Gate)
    min_changed: int = 1  # changed rows (added, removed or relabelled) below which a retraining is refused
    max_per_day: int = 0  # trainings started in 24 hours after which one is refused; 0 = no limit
    head_share: float = 0.1  # greatest share of changed rows for which only the head is fitted anew
    warm_share: float = 0.5  # greatest share of changed rows for which training starts from the champion
    warm_epochs: float = 1.0  # epochs of a training that starts from the champion
    # decided: nothing is trained or goes live before a person has chosen the settings of a search
    search: Literal["any", "decided"] = field(default="any", metadata=newer())

    def __post_init__(self) -> None:
        if self.min_changed < 0 or self.max_per_day < 0:
            raise InputError("min_changed: neither this nor max_per_day may be negative")
        if not 0 <= self.head_share <= self.warm_share:
            raise InputError("head_share: must be at least 0 and at most warm_share")
        if not self.warm_epochs > 0:
            raise InputError(f"warm_epochs: must be positive, got {self.warm_epochs}")
