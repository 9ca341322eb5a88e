"""Decisions of people about searches: which point was chosen, by whom, why, and against what advice.

A config with `retrain.search=decided` is retrained and promoted only if the last decision about its task chose its
settings. A decision is never changed. Another search may be decided on later, and its decision counts from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from backbone.errors import InputError
from registry import rows, tables
from registry.database import Registry
from registry.entries import RegistryError, require_task

DECISIONS = 3  # schema from which on there are decisions
LASTING = ("adapter.", "head.", "backbone", "precision")  # settings that every retraining of a graft keeps


class Undecided(RegistryError):
    """A promotion for which the config requires a decision that nobody has made."""

    exit_status = 12


@dataclass(frozen=True)
class Decision:
    """One choice among the points of a search."""

    task: str
    number: int  # 1, 2, ... for each task
    search: str  # digest of what the search compared
    choice: str  # id of the point
    settings: dict[str, Any]  # values of the config's fields that the search varied, by dotted name
    facts: dict[str, Any]  # scores, costs, rows, and what speaks against the choice
    actor: str  # person who decided
    reason: str  # reason in words
    at: float  # time of the decision


def decide(
    registry: Registry,
    task: str,
    *,
    search: str,
    choice: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    actor: str,
    reason: str,
) -> Decision:
    """Stores a decision; raises InputError if the same search was decided before."""
    require_task(task)
    values = rows.plain(dict(settings), "settings"), rows.plain(dict(facts), "facts")
    with registry.database.writing(task) as connection:
        of_task = tables.decisions.c.task == task
        known = connection.execute(select(tables.decisions).where(of_task, tables.decisions.c.search == search)).first()
        if known is not None:
            raise InputError(
                f"{task}: this search was decided before: {known.actor} chose {known.choice} ({known.reason}); a "
                "decision stays; search again to decide again"
            )
        last = connection.execute(select(func.max(tables.decisions.c.number)).where(of_task)).scalar_one()
        now = registry.database.time(connection)
        decision = Decision(task, (last or 0) + 1, search, choice, *values, actor, reason, now)
        connection.execute(tables.decisions.insert().values(**vars(decision)))
    return decision


def decisions(registry: Registry, task: str) -> list[Decision]:
    """Returns the decisions about a task, oldest first."""
    with registry.database.reading() as connection:
        if registry.database.look(connection) < DECISIONS:
            return []
        of_task = select(tables.decisions).where(tables.decisions.c.task == task)
        return [Decision(**row._mapping) for row in connection.execute(of_task.order_by(tables.decisions.c.number))]


def missing_decision(registry: Registry, task: str, config: Mapping[str, Any], *, lasting: bool = False) -> str:
    """Returns why the decisions about a task do not cover a config; "" if the last one does.

    `config` holds JSON values. With `lasting` only the settings count that every retraining keeps.
    """
    made = decisions(registry, task)
    if not made:
        return f"retrain.search is decided, and nobody has decided about {task}: `topgraft search decide` does it"
    last = made[-1]
    for name, value in last.settings.items():
        if lasting and not name.startswith(LASTING):
            continue
        present = value_at(config, name)
        if present != value:
            return (
                f"retrain.search is decided: {last.actor} chose {name}={value} ({last.reason}), the config has "
                f"{present}; take the setting, or decide on another search"
            )
    return ""


def require_decided(registry: Registry, task: str, config: Mapping[str, Any]) -> None:
    """Raises Undecided for a version whose config requires a decision that does not cover it."""
    required = value_at(config, "retrain.search") == "decided"
    if required and (reason := missing_decision(registry, task, config, lasting=True)):
        raise Undecided(f"{task}: {reason}")


def value_at(config: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a config at a dotted name; None where there is no such field."""
    value: Any = config
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
