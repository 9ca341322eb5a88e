"""The result of a scenario: latencies with their bounds, throughput, scores, conditions, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainers.scenarios.conditions import Conditions
from trainers.scenarios.early_stopping import CONFIDENCE, is_proven, needed_queries, upper_bound
from trainers.scenarios.load import PERCENTILES, Trace, percentile
from trainers.scenarios.request import Load, Scenario

Verdict = Literal["PASS", "FAIL", "NO_EVIDENCE"]
STATUS = {"PASS": 0, "FAIL": 10, "NO_EVIDENCE": 11}


@dataclass(frozen=True)
class Latency:
    """One percentile of a run's latencies."""

    percentile: float  # share of the queries, 0 to 1
    ms: float  # empirical percentile of the answered queries, milliseconds
    bound_ms: float | None  # with `CONFIDENCE` that of all queries is no larger; None: too few answers


@dataclass(frozen=True)
class Check:
    """One requirement of a run."""

    name: str
    verdict: Verdict
    value: float | None
    limit: float
    reason: str

    def __str__(self) -> str:
        value = "no figure" if self.value is None else f"{self.value:.4g}"
        return f"{self.verdict}: {self.name}: {value}, limit {self.limit:g} ({self.reason})"


@dataclass(frozen=True)
class ScenarioResult:
    """The result of `profile --scenario`; `--json` prints it."""

    system: str  # folder of a graft, or URL of a server
    scenario: Scenario
    seed: int
    rate: float | None  # arrivals a second; None: the scenario has no rate
    queries: int  # queries sent
    failures: int  # queries without an answer
    failure: str  # reason of the first of them; "" without any
    seconds: float  # from the first query to the last answer
    rows_per_second: float  # rows answered a second
    latencies: tuple[Latency, ...]  # () for offline
    confidence: float  # probability with which `bound_ms` and the verdict on latency hold
    late_ms: float  # largest delay of the generator itself, milliseconds
    metrics: dict[str, float]  # scores of the answers
    rows: int  # rows with an answer
    conditions: Conditions
    joules_per_1000: float | None  # energy of 1,000 answers, of the quality of the joules
    checks: tuple[Check, ...]

    @property
    def exit_status(self) -> int:
        """Returns 0, 10 where a requirement was not kept, or 11 where the run does not show it."""
        statuses = {STATUS[check.verdict] for check in self.checks}
        return 10 if 10 in statuses else max(statuses, default=0)

    def table(self) -> str:
        """Returns the result for people."""
        conditions = self.conditions
        lines = [
            f"{self.scenario} of {self.system}: {self.queries} queries in {self.seconds:.1f} s, "
            f"{self.rows_per_second:.1f} rows a second, {self.failures} without an answer {self.failure}".rstrip(),
        ]
        for one in self.latencies:
            bound = "too few answers for a bound" if one.bound_ms is None else f"at most {one.bound_ms:.2f} ms"
            lines.append(f"p{100 * one.percentile:<4g} {one.ms:9.2f} ms; {bound} with confidence {self.confidence:g}")
        lines.append(", ".join(f"{n} {v:.4f}" for n, v in self.metrics.items()) + f" on {self.rows} rows")
        for name, reading in (("W", conditions.watts), ("degrees C", conditions.celsius)):
            figures = (f"{part:.1f}" if part is not None else "-" for part in (reading.average, reading.peak))
            lines.append(f"{name}: {' average, '.join(figures)} peak ({reading.reason})")
        throttling = conditions.throttling
        quota = "-" if throttling.quota_seconds is None else f"{throttling.quota_seconds:g} s"
        heat = "-" if throttling.hot_events is None else f"{throttling.hot_events} times"
        lines.append(f"throttling: {quota} by quota, {heat} for heat ({throttling.reason})")
        return "\n".join([*lines, *map(str, self.checks)])


def latencies_of(trace: Trace) -> tuple[Latency, ...]:
    """Returns the percentiles of a run with their bounds; queries without an answer lie beyond every bound."""
    if not trace.latencies:
        return ()
    ordered = [*sorted(trace.latencies), *[math.inf] * len(trace.failures)]
    rows = []
    for share in PERCENTILES:
        bound = upper_bound(ordered, share)
        proven = None if bound is None or math.isinf(bound) else 1e3 * bound
        rows.append(Latency(share, 1e3 * percentile(trace.latencies, share), proven))
    return tuple(rows)


def checked(trace: Trace, load: Load, metrics: dict[str, float], conditions: Conditions) -> tuple[Check, ...]:
    """Returns the verdict on each requirement."""
    checks = []
    if load.max_latency_ms is not None:
        checks.append(_latency(trace, load.max_latency_ms, load.percentile / 100))
    if load.min_score is not None:
        name, value = next(iter(metrics.items()))
        verdict: Verdict = "PASS" if value >= load.min_score else "FAIL"
        checks.append(Check(name, verdict, value, load.min_score, "on the rows of this run"))
    for name, limit, reading in (
        ("watts", load.max_watts, conditions.watts),
        ("celsius", load.max_celsius, conditions.celsius),
    ):
        if limit is not None:
            highest = reading.peak if reading.peak is not None else reading.average
            kept: Verdict = "NO_EVIDENCE" if highest is None else "PASS" if highest <= limit else "FAIL"
            checks.append(Check(name, kept, highest, limit, reading.reason))
    return tuple(checks)


def _latency(trace: Trace, limit_ms: float, share: float) -> Check:
    """Returns the verdict on a bound: queries without an answer lie beyond it."""
    beyond = sum(1e3 * one > limit_ms for one in trace.latencies) + len(trace.failures)
    total = len(trace.latencies) + len(trace.failures)
    name = f"p{100 * share:g} ms"
    value = 1e3 * percentile(trace.latencies, share) if trace.latencies else None
    reason = f"{beyond} of {total} queries beyond it"
    if is_proven(total, beyond, share):
        return Check(name, "PASS", value, limit_ms, f"{reason}, with confidence {CONFIDENCE:g}")
    if beyond > (1 - share) * total:
        return Check(name, "FAIL", value, limit_ms, reason)
    more = needed_queries(beyond, share) - total
    return Check(name, "NO_EVIDENCE", value, limit_ms, f"{reason}; {more} more within it would show it")
