"""A version's figures against its budget. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from registry.budgets.budget import Budget, BudgetLimit
from registry.budgets.figures import Figure
from registry.budgets.limits import FLOORS, is_floor, keeps, of_answers, of_load, unit_of
from registry.budgets.usage import PerThousand
from registry.entries import RegistryError

Verdict = Literal["PASS", "FAIL", "NO_EVIDENCE", "EXCEPTED"]
NOBODY = Figure(None, "unavailable", "nobody measured it")


@dataclass(frozen=True)
class Finding:
    """One limit of a task beside the figure of a version."""

    task: str
    version: int
    limit: str  # name of the limit
    verdict: Verdict
    value: float | None
    bound: float | None  # None: waived
    quality: str
    source: str  # file and line of the limit, and of an exception
    reason: str

    def __str__(self) -> str:
        bound = (
            "waived" if self.bound is None else f"{'at least' if is_floor(self.limit) else 'at most'} {self.bound:g}"
        )
        unit = unit_of(self.limit)
        figure = "no figure" if self.value is None else f"{self.value:.4g} {unit}".strip()
        return f"{self.task} {self.version}: {self.source}: {figure}, {bound} ({self.reason})"


class OverBudget(RegistryError):
    """A version that breaks its budget, so it does not go live."""

    exit_status = 10


class NoFigure(RegistryError):
    """A version of which a figure that the budget bounds is not known."""

    exit_status = 11


def judged(budget: Budget, version: int, figures: Mapping[str, Figure]) -> Iterator[Finding]:
    """Yields a finding for every limit of the task, but those on what servers spend.

    Joules of another quality than the stated one are no figure; then `max_cpu_seconds` decides, where it is set. Nor
    are latencies of a load on another platform.
    """
    for limit in budget.limits:
        if of_answers(limit.name):
            continue
        figure = figures.get(limit.name, NOBODY)
        if limit.name == "max_joules" and figure.quality != budget.joules_quality:
            if limit.value is not None and budget.limit("max_cpu_seconds") is not None:
                continue
            reason = f"{budget.joules_quality} is asked for, the figure is {figure.quality}"
            figure = Figure(None, "unavailable", reason)
        if of_load(limit.name):
            figure = _of_load(budget, figure)
        yield Finding(
            budget.task,
            version,
            limit.name,
            _verdict(limit, figure),
            figure.value,
            limit.value,
            figure.quality,
            str(limit),
            figure.origin,
        )


def _of_load(budget: Budget, figure: Figure) -> Figure:
    """Returns a percentile of a load with what its run proved; no figure where the budget names another platform."""
    if figure.value is None:
        return figure
    if budget.platform not in ("", figure.platform):
        measured = f"the figure is of {figure.platform}" if figure.platform else "nobody recorded that of the figure"
        return Figure(None, "unavailable", f"platform is {budget.platform}, {measured}")
    if figure.bound is None:
        return figure
    few = math.isinf(figure.bound)
    proven = "its run had too few answers for a bound" if few else f"with confidence at most {figure.bound:.4g} ms"
    return replace(figure, origin=f"{figure.origin}; {proven}")


def judged_answers(budget: Budget, version: int, spent: PerThousand) -> Iterator[Finding]:
    """Yields a finding for every limit of the task on what servers spent on 1,000 answers in a period."""
    if spent.answers:
        reason = f"of {spent.answers} answers in the period"
    else:
        reason = "no server noted answers of it in the period: serve --usage FILE, audit --usage FILE"
    joules = spent.joules.get(budget.joules_quality)
    cpu = Figure(spent.cpu_seconds, "measured_counter" if spent.answers else "unavailable", reason)
    named = f"{reason}; joules are {', '.join(spent.joules) or 'unavailable'}, asked for: {budget.joules_quality}"
    energy = Figure(joules, budget.joules_quality if joules is not None else "unavailable", named)
    figures = {"answers.max_cpu_seconds_per_1000": cpu, "answers.max_joules_per_1000": energy}
    for limit in budget.limits:
        if figure := figures.get(limit.name):
            verdict = _verdict(limit, figure)
            name, source = limit.name, str(limit)
            yield Finding(
                budget.task, version, name, verdict, figure.value, limit.value, figure.quality, source, figure.origin
            )


def _verdict(limit: BudgetLimit, figure: Figure) -> Verdict:
    """Returns the verdict; a percentile within its limit passes where its run proved that it is."""
    if limit.value is None:
        return "EXCEPTED"
    if figure.value is None:
        return "NO_EVIDENCE"
    if not keeps(limit.name, figure.value, limit.value):
        return "FAIL"
    proven = figure.bound is None or keeps(limit.name, figure.bound, limit.value)
    return "PASS" if proven else "NO_EVIDENCE"


def require_within(budget: Budget, version: int, figures: Mapping[str, Figure]) -> None:
    """Raises OverBudget, or NoFigure, for a version that may not go live; the message gives file and line."""
    findings = list(judged(budget, version, figures))
    over = [str(one) for one in findings if one.verdict == "FAIL"]
    over += [f"the exception at {one.source} ended on {one.until}" for one in budget.expired if over]
    if over:
        raise OverBudget("; ".join(over) + "; make it cheaper, or write an [[exception]] with owner, reason and until")
    missing = [one for one in findings if one.verdict == "NO_EVIDENCE"]
    if missing:
        raise NoFigure("; ".join(map(str, missing)) + f"; {_remedy(missing)}")


def _remedy(missing: list[Finding]) -> str:
    """Returns how the first missing figure comes to be known."""
    name = missing[0].limit
    if name.startswith((FLOORS, "min_score")):
        return "score it on held-out rows, or write an [[exception]]"
    if of_load(name):
        measure = f"`topgraft profile GRAFT --scenario {name.partition('.')[0]} --record TASK:VERSION`"
        return f"measure it with {measure}, long enough for a bound, or write an [[exception]]"
    return "let `topgraft retrain` measure it under this budget, or write an [[exception]]"
