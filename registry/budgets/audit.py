"""The audit of a registry against its team's budgets: every version, from the database. Imports no jax.

The costs of versions that no retraining made are in their manifests, in the store. A live version over budget is
status 10, one without a bounded figure status 11. Versions that are not live break no budget any more; they are
counted, and their figures make the trends.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import select

from adapters.artefact.manifest import Manifest
from backbone.errors import counted
from metering.energy import Quality
from registry import tables
from registry.budgets.budget import Budgets, Exemption
from registry.budgets.figures import Figure, figures_of, unrecorded
from registry.budgets.judge import Finding, judged, judged_answers
from registry.budgets.limits import utc_today
from registry.budgets.usage import PerThousand, Served, UsageLine, per_thousand, summed
from registry.database import Registry
from registry.entries import MANUAL, ROLLBACK, Live, Measurement, Promotion, Version, iso_time
from registry.store import Store

log = logging.getLogger(__name__)

DAY = 24 * 3600.0
MAX_POINTS = 60  # versions of a task in a trend, the newest ones
MAX_NAMED = 10  # unknown tasks that a warning names


@dataclass(frozen=True)
class Approval:
    """A live version, and who made it live."""

    task: str
    version: int
    owner: str  # owner by the budget; "" without one
    actor: str  # person or program
    verdict: str  # verdict of the gate, MANUAL or ROLLBACK
    reason: str
    at: str  # ISO 8601 in UTC

    @property
    def by(self) -> str:
        """Returns who approved, for people: a run is named as one, since no person decided."""
        if self.verdict in (MANUAL, ROLLBACK):
            return self.actor
        return f"retrain on {self.actor.split(':')[0]}"


@dataclass(frozen=True)
class Trend:
    """One bounded figure of a task, from version to version."""

    task: str
    limit: str
    bound: float | None  # None: waived
    versions: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def change(self) -> float | None:
        """Returns the last value over the first one, less 1; None where there is one alone."""
        return self.values[-1] / self.values[0] - 1 if len(self.values) > 1 and self.values[0] else None


@dataclass(frozen=True)
class ExceptionRow:
    """An exception, and whether it still holds."""

    task: str
    limit: str
    value: float | None  # None: waived
    owner: str
    reason: str
    until: str  # last day
    holds: bool
    source: str


@dataclass(frozen=True)
class OwnerRow:
    """What an owner's tasks spent on trainings in this period and the one before."""

    owner: str
    tasks: int
    live: int  # tasks with a live version
    over: int  # limits that live versions break
    missing: int  # limits of live versions without a figure
    cpu_seconds: float  # CPU seconds of trainings published in the period
    cpu_seconds_before: float  # the same of the period before
    joules: dict[str, float]  # energy of trainings in the period, by quality: qualities are never added
    answers: PerThousand  # answers of servers in the period, and what 1,000 of them took
    answers_before: PerThousand  # the same of the period before


@dataclass(frozen=True)
class BudgetAudit:
    """The result of `audit`; `--json` prints it."""

    registry: str
    budgets: str  # file; "" without one
    tasks: int
    versions: int
    days: float  # length of a period
    over: tuple[Finding, ...]  # limits that live versions break
    missing: tuple[Finding, ...]  # limits of live versions without a figure
    excepted: tuple[Finding, ...]  # limits of live versions that are waived
    former_over: dict[str, int]  # versions that are not live and break what holds now, by task
    approvals: tuple[Approval, ...]
    exceptions: tuple[ExceptionRow, ...]
    trends: tuple[Trend, ...]
    owners: tuple[OwnerRow, ...]
    seconds: float  # wall time of the audit

    @property
    def exit_status(self) -> int:
        """Returns the exit status of the command."""
        return 10 if self.over else 11 if self.missing else 0

    @property
    def counts(self) -> str:
        """Returns what the registry holds, in words."""
        return f"{counted(self.tasks, 'task')}, {counted(self.versions, 'version')}, {len(self.approvals)} live"

    def table(self) -> str:
        """Returns what needs attention, as text."""
        expired = [one for one in self.exceptions if not one.holds]
        lines = [f"{self.counts}; budgets: {self.budgets or 'none'}"]
        lines += [f"over budget: {one}" for one in self.over]
        lines += [f"no figure: {one}" for one in self.missing]
        lines += [f"waived: {one}" for one in self.excepted]
        lines += [f"exception ended {one.until}: {one.task} {one.limit} ({one.source}, {one.owner})" for one in expired]
        lines += [
            f"{one.owner or 'nobody'}: {counted(one.tasks, 'task')}, {one.over} over, {one.missing} without a figure; "
            f"trainings {one.cpu_seconds:.4g} CPU s in {self.days:g} days, {one.cpu_seconds_before:.4g} in those "
            f"before; {_answers(one.answers)}, {_answers(one.answers_before)} before"
            for one in self.owners
        ]
        return "\n".join(lines)


def _answers(spent: PerThousand) -> str:
    """Returns what answers took, for people."""
    if spent.cpu_seconds is None:
        return "no answers noted"
    joules = "".join(f", {value:.4g} J {quality}" for quality, value in spent.joules.items())
    return f"{counted(spent.answers, 'answer')} at {spent.cpu_seconds:.4g} CPU s{joules} for 1,000"


@dataclass(frozen=True)
class Records:
    """Everything that an audit reads, from one instant."""

    versions: dict[str, list[Version]]  # by task, oldest first
    lives: dict[str, Live]
    promotions: dict[str, Promotion]  # last entry of each task's log
    measurements: dict[tuple[str, int], list[Measurement]]


def read_records(registry: Registry) -> Records:
    """Reads versions, live ones, promotions and measurements in one transaction."""
    columns = [column for column in tables.measurements.c if column.name != "id"]
    with registry.database.reading() as connection:
        versions: dict[str, list[Version]] = defaultdict(list)
        for row in connection.execute(select(tables.versions).order_by(*tables.versions.primary_key)):
            versions[row.task].append(Version(**row._mapping))
        lives = {row.task: Live(**row._mapping) for row in connection.execute(select(tables.live))}
        log = connection.execute(select(tables.promotions).order_by(*tables.promotions.primary_key))
        promotions = {row.task: Promotion(**row._mapping) for row in log}
        measurements: dict[tuple[str, int], list[Measurement]] = defaultdict(list)
        for row in connection.execute(select(*columns).order_by(tables.measurements.c.id)):
            measurements[row.task, row.version].append(Measurement(**row._mapping))
    return Records(dict(versions), lives, promotions, measurements)


def audit_budgets(
    registry: Registry,
    budgets: Budgets,
    store: Store | None = None,
    *,
    days: float = 30.0,
    now: float | None = None,
    today: date | None = None,
    usage: Sequence[UsageLine] = (),
) -> BudgetAudit:
    """Judges every version of a registry by the budgets that hold today.

    Of versions that no retraining made, `store` gives the costs in their manifests. `days` is the length of a period.
    `now`, seconds since 1970, ends the last one. `usage` is what servers noted; a line that ends after `now` is of the
    last period. Raises InputError for a task in two groups.
    """
    started, day = time.monotonic(), today or utc_today()
    records = read_records(registry)
    figures = {
        (task, one.number): figures_of(
            one, records.measurements.get((task, one.number), ()), manifest_of(one, records.lives.get(task), store)
        )
        for task, versions in records.versions.items()
        for one in versions
    }
    limits = {task: budgets.of(task, day) for task in records.versions}
    live: list[Finding] = []
    former: dict[str, int] = {}
    for task, versions in records.versions.items():
        number = records.lives[task].version if task in records.lives else None
        for one in versions:
            findings = list(judged(limits[task], one.number, figures[task, one.number]))
            if one.number == number:
                live += findings
            elif any(finding.verdict == "FAIL" for finding in findings):
                former[task] = former.get(task, 0) + 1
    owners = {task: budget.owner for task, budget in limits.items()}
    _warn_of_unknown(usage, records.versions)
    since = (time.time() if now is None else now) - days * DAY
    spent, spent_before = summed(usage, since, math.inf), summed(usage, since - days * DAY, since)
    for task, entry in records.lives.items():
        live += judged_answers(limits[task], entry.version, per_thousand([spent.get(task, {})]))
    return BudgetAudit(
        registry=registry.database.where,
        budgets=budgets.file,
        tasks=len(records.versions),
        versions=sum(map(len, records.versions.values())),
        days=days,
        over=_of(live, "FAIL"),
        missing=_of(live, "NO_EVIDENCE"),
        excepted=_of(live, "EXCEPTED"),
        former_over=former,
        approvals=tuple(_approvals(records, owners)),
        exceptions=tuple(_row(one, day) for one in budgets.exemptions),
        trends=tuple(_trends(records.versions, figures, budgets, day)),
        owners=tuple(_owners(records, owners, figures, live, since, days, (spent, spent_before))),
        seconds=round(time.monotonic() - started, 3),
    )


def _warn_of_unknown(usage: Sequence[UsageLine], known: Mapping[str, object]) -> None:
    """Warns of tasks in files of servers that the registry lacks: what they took is in no row."""
    unknown = sorted({task for line in usage for task in line.tasks} - known.keys())
    if unknown:
        some = ", ".join(map(repr, unknown[:MAX_NAMED])) + (", ..." if len(unknown) > MAX_NAMED else "")
        log.warning("--usage: the registry has no %s: answers of them count for nobody", some)


def manifest_of(version: Version, live: Live | None, store: Store | None) -> Manifest | None:
    """Returns the manifest of a version that no retraining made; None for others, and where it cannot be read.

    Of an object store, manifests of live versions are read, and of others those that were used here.
    """
    if store is None or version.state == "collected":
        return None
    is_live = live is not None and live.version == version.number
    return unrecorded(version, store if is_live else Store(store.root))


def _of(findings: Iterable[Finding], verdict: str) -> tuple[Finding, ...]:
    return tuple(one for one in findings if one.verdict == verdict)


def _approvals(records: Records, owners: Mapping[str, str]) -> Iterator[Approval]:
    for task, live in sorted(records.lives.items()):
        entry = records.promotions[task]
        at = iso_time(entry.at)
        yield Approval(task, live.version, owners.get(task, ""), entry.actor, entry.verdict, entry.reason, at)


def _row(one: Exemption, day: date) -> ExceptionRow:
    until = one.until.isoformat()
    return ExceptionRow(one.task, one.limit, one.value, one.owner, one.reason, until, one.holds(day), one.source)


def _trends(
    versions: Mapping[str, Sequence[Version]],
    figures: Mapping[tuple[str, int], Mapping[str, Figure]],
    budgets: Budgets,
    day: date,
) -> Iterator[Trend]:
    """Yields a trend for each limit of a task of which some version has a figure."""
    for task, ofs in versions.items():
        newest = ofs[-MAX_POINTS:]
        for limit in budgets.of(task, day).limits:
            known = [(one.number, figures[task, one.number].get(limit.name)) for one in newest]
            points = [(number, figure.value) for number, figure in known if figure and figure.value is not None]
            if points:
                numbers, values = zip(*points, strict=True)
                yield Trend(task, limit.name, limit.value, numbers, values)


def _owners(
    records: Records,
    owners: Mapping[str, str],
    figures: Mapping[tuple[str, int], Mapping[str, Figure]],
    live: Sequence[Finding],
    since: float,
    days: float,
    served: tuple[Mapping[str, Mapping[Quality, Served]], Mapping[str, Mapping[Quality, Served]]],
) -> Iterator[OwnerRow]:
    """Yields a row for each owner, in alphabetical order; tasks without one come first."""
    for owner in sorted(set(owners.values())):
        tasks = {task for task, name in owners.items() if name == owner}
        spent, joules = [0.0, 0.0], defaultdict[str, float](float)
        for version in (one for task in tasks for one in records.versions[task]):
            of: Mapping[str, Any] = figures[version.task, version.number]
            is_now = version.created_at >= since
            if is_now or version.created_at >= since - days * DAY:
                cpu, energy = of.get("max_cpu_seconds"), of.get("max_joules")
                spent[0 if is_now else 1] += (cpu.value or 0.0) if cpu else 0.0
                if is_now and energy and energy.value is not None:
                    joules[energy.quality] += energy.value
        mine = [one for one in live if one.task in tasks]
        answers, before = (per_thousand(period[task] for task in tasks & period.keys()) for period in served)
        yield OwnerRow(
            owner=owner,
            tasks=len(tasks),
            live=len(tasks & set(records.lives)),
            over=len(_of(mine, "FAIL")),
            missing=len(_of(mine, "NO_EVIDENCE")),
            cpu_seconds=round(spent[0], 3),
            cpu_seconds_before=round(spent[1], 3),
            joules={quality: round(value, 3) for quality, value in joules.items()},
            answers=answers,
            answers_before=before,
        )
