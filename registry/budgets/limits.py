"""The limits that a budget may set, by name. Imports no jax.

The names are those of `adapters.target.Target`, and further ones. A floor `floors.METRIC` bounds one metric of a head.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from adapters.heads.head import Head
from backbone.errors import InputError, nearest
from backbone.variants.registered import variants

FLOORS = "floors."


@dataclass(frozen=True)
class LimitKind:
    """One limit that a budget may set."""

    unit: str
    meaning: str  # figure that the limit bounds
    of_answers: bool = False  # bounds what servers spend on answers, which only an audit of their usage knows


LIMITS = {
    "min_score": LimitKind("", "the config's metric on held-out rows"),
    "max_cpu_seconds": LimitKind("CPU s", "CPU seconds of a training"),
    "max_joules": LimitKind("J", "energy of a training, of the stated quality"),
    "max_flops": LimitKind("FLOP", "counted operations of a training"),
    "max_bytes": LimitKind("B", "counted bytes that a training reads and writes"),
    "max_latency_ms": LimitKind("ms", "median time of one text's prediction"),
    "max_memory_mb": LimitKind("MB", "largest resident memory while predicting"),
    "single_stream.max_p50_ms": LimitKind("ms", "median latency of queries one after another"),
    "single_stream.max_p95_ms": LimitKind("ms", "95th percentile of latency of queries one after another"),
    "single_stream.max_p99_ms": LimitKind("ms", "99th percentile of latency of queries one after another"),
    "server.max_p50_ms": LimitKind("ms", "median latency of queries at random instants"),
    "server.max_p95_ms": LimitKind("ms", "95th percentile of latency of queries at random instants"),
    "server.max_p99_ms": LimitKind("ms", "99th percentile of latency of queries at random instants"),
    "answers.max_cpu_seconds_per_1000": LimitKind("CPU s", "CPU seconds of 1,000 answers", of_answers=True),
    "answers.max_joules_per_1000": LimitKind("J", "energy of 1,000 answers, of the stated quality", of_answers=True),
}
LOADS = ("single_stream", "server")  # scenarios whose latencies a budget may bound
LOAD_PERCENTILES = (50, 95, 99)
NAME_SHOWN = re.compile(r"(?:^target\.|:\d+ )([\w.]+)(?:,|$)")  # a limit in the name of a check on it


def measured_latency(scenario: str, percentile: int) -> str:
    """Returns the name under which a registry keeps a percentile of a scenario's latency."""
    return f"{scenario} p{percentile}, ms"


def limit_of(shown: str) -> str:
    """Returns the limit that a message names: as a field of a config, or with file and line; "" for none."""
    match = NAME_SHOWN.search(shown)
    return match[1] if match else ""


def is_floor(name: str) -> bool:
    """Returns whether a limit is a lower bound."""
    return name == "min_score" or name.startswith(FLOORS)


def narrower(name: str, value: float, other: float) -> bool:
    """Returns whether `value` allows less than `other`."""
    return value > other if is_floor(name) else value < other


def keeps(name: str, value: float, bound: float) -> bool:
    """Returns whether a figure keeps to a bound."""
    return value >= bound if is_floor(name) else value <= bound


def unit_of(name: str) -> str:
    """Returns the unit of a limit; "" for a score."""
    return "" if name.startswith(FLOORS) else LIMITS[name].unit


def of_answers(name: str) -> bool:
    """Returns whether a limit bounds what servers spend; it says nothing of a single version."""
    return name in LIMITS and LIMITS[name].of_answers


def of_load(name: str) -> bool:
    """Returns whether a limit bounds a percentile of a scenario's latency."""
    return name.startswith(tuple(f"{load}." for load in LOADS))


def all_metrics() -> tuple[str, ...]:
    """Returns the names of every metric of every head."""
    return tuple(sorted({metric for head in variants(Head).values() for metric in head.metrics}))


def require_limit(name: str) -> str:
    """Returns the name; raises InputError with the nearest ones if nothing has a figure of it."""
    if name.startswith(FLOORS):
        metric = name.removeprefix(FLOORS)
        if metric not in (known := all_metrics()):
            raise InputError(f"{name}: no head has a metric {metric!r}; {nearest(metric, known)}")
    elif name not in LIMITS:
        raise InputError(f"{name}: no such limit; {nearest(name, [*LIMITS, 'floors.accuracy'])}")
    return name


def utc_today() -> date:
    """Returns the day of the clock, in UTC."""
    return datetime.now(UTC).date()
