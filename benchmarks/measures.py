"""What a benchmark report holds: parts with their settings and data, and the figures of each. Imports no jax."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["time", "rate", "joules", "ratio", "score", "bytes"]

MEANINGS: dict[Kind, str] = {
    "time": "seconds of this processor; compared on one machine alone",
    "rate": "per second of this processor; compared on one machine alone",
    "joules": "energy; compared on one machine alone, where one counter or one model gives both",
    "ratio": "both sides were measured in turn on one machine; compared between machines",
    "score": "share of right answers, or a cosine; compared between machines",
    "bytes": "size; compared between machines",
}


@dataclass(frozen=True)
class Measure:
    """One figure of a report."""

    name: str
    kind: Kind
    unit: str
    value: float | None  # median of the runs; None: nobody could measure it
    low: float | None = None  # smallest run, or lower end of the interval; None: one run
    high: float | None = None  # largest run, or upper end
    source: str = ""  # of joules: quality and counter; of a missing value: the reason


@dataclass(frozen=True)
class Part:
    """The figures of one program with fixed settings."""

    name: str
    settings: dict[str, Any]  # everything that was fixed, as JSON
    data: dict[str, str] = field(default_factory=dict)  # sha256 by file
    measures: tuple[Measure, ...] = ()
    seconds: float = 0.0  # time that the part took


def runs(name: str, kind: Kind, unit: str, values: Sequence[float]) -> Measure:
    """Returns the median of some runs with their range."""
    return Measure(name, kind, unit, statistics.median(values), min(values), max(values))
