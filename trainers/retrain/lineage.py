"""The records of a retraining, which a version's lineage keeps and `--json` prints. Imports no jax.

A step that a run did not reach has `NotReached` in the place of its record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbone.records import newer, stored_as
from metering.energy import Joules

Verdict = Literal["PASS", "FAIL", "NO_EVIDENCE"]


@dataclass(frozen=True)
class NotReached:
    """A step that a run did not reach; `{}` in JSON."""


@dataclass(frozen=True)
class Changes:
    """A difference between two data sets, in rows."""

    added: int
    removed: int
    relabelled: int

    @property
    def total(self) -> int:
        """Returns the number of rows that differ."""
        return self.added + self.removed + self.relabelled


@dataclass(frozen=True)
class RowDrift:
    """An effect size between the added rows and the former ones."""

    what: str  # property that is compared: labels, lengths or embeddings
    effect: float | None  # effect size; None: not measured
    notable: bool  # the effect is at least `trainers.retrain.diagnose.NOTABLE`
    rows: tuple[int, int]  # number of former rows and of added ones
    reason: str = ""  # why it was not measured


@dataclass(frozen=True)
class ChangeReport:
    """The changes of a task's data since its live version."""

    changes: dict[str, Changes]  # changed rows of each split
    rows: dict[str, int]  # number of rows of each split now
    labels_added: tuple[str, ...]  # labels of the train rows that are new
    labels_removed: tuple[str, ...]  # labels that no train row has any more
    drift: tuple[RowDrift, ...]  # drift of the train rows
    changed: int  # number of rows that differ in the splits that decide what is trained
    share: float  # these as a share of the present rows


@dataclass(frozen=True)
class PriceEstimate:
    """The predicted cost of a decision."""

    cpu_seconds: float | None  # None: not predicted
    joules: Joules  # modelled from the CPU seconds
    source: str  # where the figure comes from, or why there is none


@dataclass(frozen=True)
class Check:
    """One check of the gate."""

    name: str
    verdict: Verdict
    value: float | None = field(metadata=stored_as("found"))  # measured value; None: not measured
    threshold: float = field(metadata=stored_as("asked"))  # limit for the value
    rows: int  # held-out rows behind it; 0 where it needs none
    reason: str = ""
    interval: tuple[float, float] | None = None  # interval of a difference
    decides: bool = True  # it is part of the verdict; a label that nobody could learn is only told
    where: tuple[str, ...] = ()  # file and line of rows to look at


@dataclass(frozen=True)
class GateReport:
    """The verdict of the gate, and the checks behind it."""

    verdict: Verdict
    split: str  # gate or dev; train for checks of changed rows, before anything is trained
    champion: int | None  # version of the other side; None: the majority label, or nothing
    rows: dict[str, int]  # number of rows, by slice
    candidate: dict[str, float]  # metrics of the candidate on all rows
    champion_metrics: dict[str, float]  # metrics of the champion on all rows
    checks: tuple[Check, ...] = field(default=())
    platform: str = field(default="", metadata=newer())  # platform of what was measured; "" in former reports

    def failures(self) -> str:
        """Returns the reasons of the checks that decided against a pass, in words."""
        against = [c for c in self.checks if c.decides and c.verdict == self.verdict != "PASS"]
        return "; ".join(f"{c.name}: {c.reason}{_rows_of(c)}" for c in against)


def _rows_of(check: Check) -> str:
    """Returns the rows to look at, in words; "" where the check names none."""
    return f"; look at {', '.join(check.where)}" if check.where else ""
