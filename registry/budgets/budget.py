"""Budgets as data: levels of a team's file, exceptions, and what holds for one task. Imports no jax.

A task inherits from its group, a group from its line, all of them from `default`. A lower level only narrows what it
inherits. A wider limit needs an exception, which has an owner, a reason and a last day.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from adapters.target import Target
from backbone.errors import InputError
from backbone.records import digest
from registry.budgets.limits import FLOORS, narrower, utc_today
from registry.budgets.signers import Signers

LevelKind = Literal["default", "line", "group", "task"]
JoulesQuality = Literal["", "measured_counter", "modelled"]
Platform = Literal["", "cpu", "gpu", "tpu"]


@dataclass(frozen=True)
class Exemption:
    """A limit that is wider for one task, or waived, until a day."""

    task: str
    limit: str  # name of the limit
    value: float | None  # bound in its place; None: waived
    owner: str  # person or team that answers for it
    reason: str
    until: date  # last day, in UTC
    source: str  # file and line

    def holds(self, today: date) -> bool:
        """Returns whether the last day is not over."""
        return today <= self.until


@dataclass(frozen=True)
class BudgetLimit:
    """One limit as it holds for a task."""

    name: str
    value: float | None  # bound; None: waived by an exception
    source: str  # file and line
    exemption: Exemption | None = None  # exception that widened it

    def __str__(self) -> str:
        if self.exemption is None:
            return f"{self.source} {self.name}"
        return f"{self.source} {self.name}, exception at {self.exemption.source} until {self.exemption.until}"


@dataclass(frozen=True)
class Level:
    """A table of the file: the default, a line of products, a group of tasks, or a task."""

    kind: LevelKind
    name: str
    source: str  # file and line
    limits: tuple[BudgetLimit, ...] = ()
    owner: str = ""
    members: tuple[str, ...] = ()  # groups of a line; patterns over the tasks of a group
    joules_quality: JoulesQuality = ""  # quality that a figure of joules must have
    platform: Platform = ""  # platform on which latency and memory hold

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True)
class Narrowed:
    """A target under a budget: of each limit the narrowest, with its source."""

    target: Target
    names: dict[str, str]  # shown name of each limit that comes from the budget, by field of the target


@dataclass(frozen=True)
class Budget:
    """Everything that holds for one task on one day."""

    task: str
    owner: str = ""
    group: str = ""
    line: str = ""
    limits: tuple[BudgetLimit, ...] = ()
    joules_quality: JoulesQuality = ""
    platform: Platform = ""
    expired: tuple[Exemption, ...] = ()  # exceptions of the task that hold no more

    def __bool__(self) -> bool:
        return bool(self.limits)

    def limit(self, name: str) -> BudgetLimit | None:
        """Returns a limit that bounds something; None where there is none, or an exception waives it."""
        return next((one for one in self.limits if one.name == name and one.value is not None), None)

    def floors(self) -> dict[str, BudgetLimit]:
        """Returns the floors by metric."""
        return {one.name.removeprefix(FLOORS): one for one in self.limits if one.name.startswith(FLOORS) and one.value}

    def require_metrics(self, known: tuple[str, ...]) -> None:
        """Raises InputError for a floor on a metric that the task's head does not have."""
        for metric, limit in self.floors().items():
            if metric not in known:
                raise InputError(
                    f"{limit.source}: {limit.name}: the head of {self.task} has no such metric; known: "
                    f"{', '.join(known)}; bound one of them, or name other tasks in the group"
                )

    @property
    def key(self) -> str:
        """Returns a digest of what the budget asks for; "" where it asks for nothing. Lines of the file are no part."""
        if not self.limits:
            return ""
        return digest([sorted((one.name, one.value) for one in self.limits), self.joules_quality, self.platform])

    def narrowed(self, target: Target) -> Narrowed:
        """Returns the narrowest of a config's target and this budget; the config's where both are equal.

        Joules of another quality than a counter's are no part of a target (`trainers.retrain.budgeted`). Raises
        InputError where config and budget name two platforms.
        """
        if self.platform and target.platform not in ("", self.platform):
            raise InputError(
                f"target.platform: the config says {target.platform}, the budget of {self.task} {self.platform}; "
                "change one of them"
            )
        values, names = {}, {}
        for name in ("min_score", "max_cpu_seconds", "max_joules", "max_latency_ms", "max_memory_mb"):
            limit, stated = self.limit(name), getattr(target, name)
            if name == "max_joules" and self.joules_quality == "modelled":
                continue
            if limit is not None and limit.value and (not stated or narrower(name, limit.value, stated)):
                values[name], names[name] = limit.value, str(limit)
        platform = {"platform": self.platform} if self.platform else {}
        return Narrowed(replace(target, **values, **platform), names)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Budgets:
    """A file of budgets; without a file nothing is bounded."""

    file: str = ""
    levels: tuple[Level, ...] = ()
    exemptions: tuple[Exemption, ...] = ()
    signers: Signers = field(default_factory=Signers)

    def chain(self, task: str) -> tuple[Level, ...]:
        """Returns the levels of a task, from the task up; raises InputError if it lies in two groups."""
        named = {(level.kind, level.name): level for level in self.levels}
        groups = [one for one in self.levels if one.kind == "group" and _is_member(task, one)]
        if len(groups) > 1:
            places = " and ".join(f"{one} ({one.source})" for one in groups)
            raise InputError(f"{task}: lies in {places}; a task has one group: narrow the patterns of `tasks`")
        chain = [named.get(("task", task)), *groups]
        if groups:
            chain += [one for one in self.levels if one.kind == "line" and groups[0].name in one.members]
        chain.append(named.get(("default", "")))
        return tuple(level for level in chain if level is not None)

    def tasks(self) -> tuple[str, ...]:
        """Returns the tasks that the file writes out; a pattern of a group stands for itself."""
        named = [one.name for one in self.levels if one.kind == "task"]
        return (*named, *(name for one in self.levels if one.kind == "group" for name in one.members))

    def names(self, task: str) -> bool:
        """Returns whether a table is about a task: one of its own, or a group's."""
        return any(level.kind in ("task", "group") for level in self.chain(task))

    def bounds(self, limit: str) -> bool:
        """Returns whether some level has a limit of this name."""
        return any(one.name == limit for level in self.levels for one in level.limits)

    def of(self, task: str, today: date | None = None) -> Budget:
        """Returns what holds for a task on a day, by default today in UTC."""
        day = today or utc_today()
        chain = self.chain(task)
        limits: dict[str, BudgetLimit] = {}
        for level in chain:
            for limit in level.limits:
                limits.setdefault(limit.name, limit)
        mine = [one for one in self.exemptions if one.task == task]
        for one in mine:
            if one.holds(day):
                limits[one.limit] = replace(limits[one.limit], value=one.value, exemption=one)
        return Budget(
            task=task,
            owner=next((level.owner for level in chain if level.owner), ""),
            group=next((level.name for level in chain if level.kind == "group"), ""),
            line=next((level.name for level in chain if level.kind == "line"), ""),
            limits=tuple(limits.values()),
            joules_quality=next((level.joules_quality for level in chain if level.joules_quality), ""),
            platform=next((level.platform for level in chain if level.platform), ""),
            expired=tuple(one for one in mine if not one.holds(day)),
        )


def _is_member(task: str, group: Level) -> bool:
    return any(fnmatch.fnmatchcase(task, pattern) for pattern in group.members)
