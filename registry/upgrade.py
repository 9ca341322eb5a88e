"""Tables of former schemas, brought forward in the caller's transaction: all of it happens, or nothing.

Reading takes a former registry as it is, since what was there keeps its meaning. The first write brings it forward.
From then on programs of the former version refuse it by the number of its schema.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, Table, select

from registry import log, tables
from registry.entries import LeaseHeld

READABLE = (1, 2, 3, tables.SCHEMA)  # schemas that reading takes as they are

ADDED = {
    2: (tables.identity, tables.log),
    3: (tables.decisions,),
    4: (tables.precisions,),
}  # tables by the schema that added them


@dataclass(frozen=True)
class Upgraded:
    """The result of `registry upgrade`."""

    registry: str  # URL
    before: int  # schema before
    after: int  # schema after


def make(connection: Connection, now: float) -> None:
    """Makes the tables of a new registry, and its id."""
    tables.metadata.create_all(connection)
    if connection.execute(select(tables.schema.c.version)).first() is None:
        connection.execute(tables.schema.insert().values(version=tables.SCHEMA))
        identify(connection, now)


def identify(connection: Connection, now: float) -> None:
    """Gives the registry its random id."""
    connection.execute(tables.identity.insert().values(registry_id=uuid.uuid4().hex, created_at=now))


def bring_forward(connection: Connection, now: float) -> int:
    """Brings the tables to the present schema, and returns the schema before.

    Raises LeaseHeld while a run of the former version works: it would promote without an entry of the log.
    """
    before: int = connection.execute(select(tables.schema.c.version)).scalar_one()
    if before == tables.SCHEMA:
        return before
    leased = select(tables.leases).where(tables.leases.c.owner.is_not(None), tables.leases.c.expires_at > now)
    if row := connection.execute(leased).first():
        raise LeaseHeld(row.task, row.owner, row.expires_at - now)
    tables.metadata.create_all(connection, tables=newer(before))
    complete(connection, now, before)
    return before


def complete(connection: Connection, now: float, before: int) -> None:
    """Adds to the rows of a former schema what the present one has beside them."""
    if before < tables.LOGGED:
        identify(connection, now)
        fill_log(connection)
    connection.execute(tables.schema.update().values(version=tables.SCHEMA))


def tables_of(version: int) -> list[Table]:
    """Returns the tables of a schema."""
    return [table for table in tables.metadata.sorted_tables if table not in newer(version)]


def newer(version: int) -> list[Table]:
    """Returns the tables that a schema does not have yet."""
    return [table for added, names in ADDED.items() if added > version for table in names]


def fill_log(connection: Connection) -> None:
    """Gives every promotion its place in the log, by time; the order within a task is that of its generations."""
    columns = (tables.promotions.c.task, tables.promotions.c.generation, tables.promotions.c.at)
    rows = connection.execute(select(*columns).order_by(tables.promotions.c.task, tables.promotions.c.generation))
    latest: dict[str, float] = {}
    timed = []
    for task, generation, at in rows:
        latest[task] = max(at, latest.get(task, at))  # a clock that went back does not turn the order
        timed.append((latest[task], task, generation))
    log.add(connection, [(task, generation) for _, task, generation in sorted(timed)])
