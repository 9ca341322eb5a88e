"""Rows of a registry, looked up and added in a transaction of the caller."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from adapters.artefact.manifest import Manifest
from backbone.errors import InputError, nearest
from backbone.records import canonical_json
from registry import tables
from registry.entries import Conflict, Live, Version


def tasks_in(connection: Connection) -> list[str]:
    return list(
        connection.execute(select(tables.versions.c.task).distinct().order_by(tables.versions.c.task)).scalars()
    )


def live_of(connection: Connection, task: str) -> Live | None:
    row = connection.execute(select(tables.live).where(tables.live.c.task == task)).first()
    return None if row is None else Live(**row._mapping)


def version_of(connection: Connection, task: str, number: int) -> Version:
    this: ColumnElement[bool] = (tables.versions.c.task == task) & (tables.versions.c.number == number)
    row = connection.execute(select(tables.versions).where(this)).first()
    if row is not None:
        return Version(**row._mapping)
    tasks = tasks_in(connection)
    if task not in tasks:
        raise InputError(f"task: {task!r} has no versions; {nearest(task, tasks)}")
    last = select(func.max(tables.versions.c.number)).where(tables.versions.c.task == task)
    raise InputError(f"{task}: no version {number}; the last one is {connection.execute(last).scalar_one()}")


def enter(
    connection: Connection,
    task: str,
    manifest: Manifest,
    parent: int | None,
    now: float,
    metrics: dict[str, Any],
    lineage: dict[str, Any],
) -> Version:
    """Makes an artefact of the store the next version of a task, unless it is one already."""
    known = (tables.versions.c.task == task) & (tables.versions.c.content_id == manifest.content_id)
    row = connection.execute(select(tables.versions).where(known)).first()
    if row is not None:
        if row.state != "published":
            connection.execute(tables.versions.update().where(known).values(state="published"))
        return version_of(connection, task, row.number)
    if parent is not None:
        version_of(connection, task, parent)
    last = select(func.max(tables.versions.c.number)).where(tables.versions.c.task == task)
    version = Version(
        task=task,
        number=(connection.execute(last).scalar_one() or 0) + 1,
        content_id=manifest.content_id,
        weights_id=manifest.weights_id,
        path=manifest.content_id.removeprefix("sha256:"),
        parent=parent,
        created_at=now,
        metrics=metrics,
        lineage=lineage,
        state="published",
    )
    store_backbone(connection, manifest.weights_id, manifest.preprocessing_id, now)
    connection.execute(tables.versions.insert().values(**vars(version)))
    return version


def require_generation(connection: Connection, task: str, expected: int) -> Live | None:
    """Returns what is live; raises Conflict if the task is at another generation."""
    live = live_of(connection, task)
    present = live.generation if live else 0
    if present == expected:
        return live
    last = select(tables.promotions).where(tables.promotions.c.task == task, tables.promotions.c.generation == present)
    entry = connection.execute(last).first()
    now = f"version {entry.to_version} by {entry.actor} ({entry.reason})" if entry else "nothing is live"
    raise Conflict(
        f"{task}: expected generation {expected}, found {present}: {now}; nothing was changed",
        expected=expected,
        present=present,
    )


def store_backbone(connection: Connection, weights_id: str, preprocessing_id: str, now: float) -> None:
    """Stores a backbone when it is first seen."""
    this = select(tables.backbones).where(tables.backbones.c.weights_id == weights_id)
    if connection.execute(this).first() is None:
        values = {"weights_id": weights_id, "preprocessing_id": preprocessing_id, "first_seen": now}
        connection.execute(tables.backbones.insert().values(**values))


def plain(value: dict[str, Any], what: str) -> dict[str, Any]:
    """Returns the value; raises InputError naming `what` unless it is plain JSON."""
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: not JSON: {error}") from None
    return value
