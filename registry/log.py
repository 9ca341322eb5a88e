"""The log of promotions: one order over all tasks, told by a value that no two states of any registries share.

An entry has a position (1, 2, ...) and a random id. A registry has a random id of its own. A registry that was made
anew, or a replica that lacks the last entries and went on, differs in one of the three from what was seen before.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from registry import tables
from registry.entries import ROLLBACK, Live, LogPosition, Version

LOCK = "log"  # lock of processes that add an entry: positions follow the order of the commits


def position(connection: Connection) -> LogPosition:
    """Returns the end of the log."""
    registry = connection.execute(select(tables.identity.c.registry_id)).scalar_one()
    last = select(tables.log.c.position, tables.log.c.entry).order_by(tables.log.c.position.desc()).limit(1)
    row = connection.execute(last).first()
    return LogPosition(registry, row.position, row.entry) if row else LogPosition(registry, 0, "")


def position_by_live(connection: Connection) -> LogPosition:
    """Returns the same of tables of schema 1, which have no order over all tasks: what is live, as a hash."""
    columns = (tables.live.c.task, tables.live.c.generation, tables.live.c.version, tables.live.c.content_id)
    rows = connection.execute(select(*columns).order_by(tables.live.c.task)).all()
    entry = hashlib.sha256("\n".join(" ".join(map(str, row)) for row in rows).encode()).hexdigest()
    return LogPosition("", sum(row.generation for row in rows), entry if rows else "")


def entries(connection: Connection, after: int, limit: int) -> dict[int, str]:
    """Returns the ids of the last `limit` entries behind position `after`, by position."""
    behind = select(tables.log.c.position, tables.log.c.entry).where(tables.log.c.position > after)
    rows = connection.execute(behind.order_by(tables.log.c.position.desc()).limit(limit))
    return {row.position: row.entry for row in rows}


def append(connection: Connection, task: str, generation: int) -> None:
    """Adds an entry; the caller has the lock `LOCK`."""
    last = connection.execute(select(func.coalesce(func.max(tables.log.c.position), 0))).scalar_one()
    add(connection, [(task, generation)], after=last)


def add(connection: Connection, promotions: Sequence[tuple[str, int]], after: int = 0) -> None:
    """Adds an entry for each promotion (task, generation), in this order, behind position `after`."""
    rows = [
        {"position": after + number, "entry": uuid.uuid4().hex, "task": task, "generation": generation}
        for number, (task, generation) in enumerate(promotions, start=1)
    ]
    if rows:
        connection.execute(tables.log.insert(), rows)


def switch(
    connection: Connection, live: Live | None, version: Version, previous: int | None, entry: dict[str, Any]
) -> Live:
    """Moves the live pointer to `version` and writes `entry` into the log; the caller has the lock `LOCK`."""
    now_live = Live(
        task=version.task,
        version=version.number,
        content_id=version.content_id,
        generation=(live.generation if live else 0) + 1,
        previous=previous,
    )
    if live is None:
        connection.execute(tables.live.insert().values(**vars(now_live)))
    else:
        connection.execute(tables.live.update().where(tables.live.c.task == live.task).values(**vars(now_live)))
    connection.execute(
        tables.promotions.insert().values(
            task=version.task,
            generation=now_live.generation,
            from_version=live.version if live else None,
            to_version=version.number,
            **entry,
        )
    )
    append(connection, version.task, now_live.generation)
    return now_live


def before_in(log: Iterable[tuple[int, str]]) -> int | None:
    """Returns the version to which a rollback goes after a log of (version, verdict).

    The log is read as a stack from which a rollback takes the last version.
    """
    stack: list[int] = []
    for number, verdict in log:
        if verdict == ROLLBACK:
            stack.pop()
        else:
            stack.append(number)
    return stack[-2] if len(stack) > 1 else None
