"""The limits of a team's budget in the gate of a retraining, each with its file and line.

A budget judges and never trains: no limit of it changes what a training does, so a change of the file retrains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from metering.window import Cost, platform
from registry.budgets.budget import Budget, BudgetLimit
from trainers.runs.targets import Limit

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Floor:
    """A floor of the budget on one metric."""

    name: str  # shown name, with file and line
    metric: str
    value: float


@dataclass(frozen=True)
class Budgeted:
    """The part of a budget that a gate checks beside the target."""

    names: dict[str, str] = field(default_factory=dict)  # shown names of the target's fields that a budget narrowed
    floors: tuple[Floor, ...] = ()
    further: Callable[[], tuple[Limit, ...]] = tuple  # limits that no target has; measures what they need

    def shown(self, name: str) -> str:
        """Returns the name of a target's limit as the report shows it."""
        return self.names.get(name, f"target.{name}")

    def sourced(self, limit: Limit) -> Limit:
        """Returns a limit of the target under its shown name."""
        return replace(limit, name=self.shown(limit.name.removeprefix("target.")))


def budgeted(
    budget: Budget, names: dict[str, str], train: Cost | None, latencies_ms: Callable[[], np.ndarray]
) -> Budgeted:
    """Returns what a gate checks for a budget.

    `names` are the target's fields that it narrowed, `latencies_ms` measures queries one after another, float [N].
    """
    floors = tuple(Floor(str(one), metric, one.value or 0.0) for metric, one in budget.floors().items())
    return Budgeted(names, floors, lambda: tuple(_further(budget, train, latencies_ms)))


def _further(budget: Budget, train: Cost | None, latencies_ms: Callable[[], np.ndarray]) -> Iterator[Limit]:
    figures = {
        "max_flops": (train.flops if train else None, "counted operations of the training"),
        "max_bytes": (train.bytes_moved if train else None, "counted bytes of the training"),
    }
    for name, (value, reason) in figures.items():
        if limit := budget.limit(name):
            yield _limit(limit, value, reason if value is not None else "nobody counted the training")
    if (limit := budget.limit("max_joules")) and budget.joules_quality == "modelled":
        yield from _modelled(budget, limit, train)
    asked_for = [(q, limit) for q in PERCENTILES if (limit := budget.limit(f"single_stream.max_p{q}_ms"))]
    if asked_for and budget.platform not in ("", here := platform()):
        for _, limit in asked_for:
            yield _limit(limit, None, f"platform is {budget.platform}, this is {here}")
    elif asked_for:
        latencies = latencies_ms()
        for q, limit in asked_for:
            yield _limit(limit, float(np.percentile(latencies, q)), f"ms, of {len(latencies)} queries one by one")
    for name in (f"server.max_p{q}_ms" for q in PERCENTILES):
        if limit := budget.limit(name):
            yield _limit(limit, None, "no retraining measures a load; `profile --scenario server --record` does")


def _modelled(budget: Budget, limit: BudgetLimit, train: Cost | None) -> Iterator[Limit]:
    """Yields the limit on modelled joules; where a counter counted, `max_cpu_seconds` decides if it is set."""
    if train is not None and train.joules.quality == "modelled":
        yield _limit(limit, train.joules.value, train.joules.source)
    elif budget.limit("max_cpu_seconds") is None:
        quality = train.joules.quality if train else "unavailable"
        yield _limit(limit, None, f"modelled joules are asked for, the figure is {quality}; set max_cpu_seconds too")


def _limit(limit: BudgetLimit, value: float | None, reason: str) -> Limit:
    return Limit(str(limit), value, limit.value or 0.0, reason)
