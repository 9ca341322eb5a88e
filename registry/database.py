"""The registry: the versions of each task, the live one, and the log of its changes.

    registry = open_registry("sqlite:///registry.db")
    version = registry.publish("banking77", "runs/banking77/graft", Store("store"))
    registry.promote("banking77", version.number, expected_generation=0, actor="me", reason="first", verdict="MANUAL")

Every change is one transaction. It first compares the caller's expectation (the generation, the fence) with the
database. A process that is killed anywhere leaves the state before the change or the state after it. A registry is safe
to share between threads; a forked process opens its own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from adapters.artefact.manifest import read_manifest
from backbone.errors import InputError
from registry import leases as leasing
from registry import log, rows, tables
from registry.engine import Database, connect
from registry.entries import (
    ROLLBACK,
    Lease,
    Live,
    LogPosition,
    Measurement,
    Promotion,
    Run,
    Unavailable,
    Version,
    require_task,
)
from registry.precisions import require_recorded
from registry.store import Store
from registry.users import Uses

logger = logging.getLogger(__name__)

STORE = "store"  # lock of processes that add or remove artefacts


def open_registry(url: str, *, create: bool = True) -> Registry:
    """Opens `sqlite:///PATH` or `postgresql://USER@HOST/NAME`; `create` makes a missing database.

    Raises InputError for an unusable URL, a file on a network file system or another schema, and Unavailable if the
    database does not answer.
    """
    return Registry(connect(url, create=create))


class Registry:
    """An open registry. Its methods raise Unavailable if the database does not answer."""

    def __init__(self, database: Database):
        self.database = database

    def close(self) -> None:
        """Closes the connections."""
        self.database.engine.dispose()

    # Reading

    def live(self, task: str) -> Live | None:
        """Returns the live version of a task; None if nothing is live."""
        with self.database.reading() as connection:
            return rows.live_of(connection, task)

    def lives(self) -> dict[str, Live]:
        """Returns the live version of every task that has one, all from one instant."""
        with self.database.reading() as connection:
            result = connection.execute(select(tables.live).order_by(tables.live.c.task))
            return {row.task: Live(**row._mapping) for row in result}

    def change(self) -> LogPosition:
        """Returns the end of the log, which differs whenever other versions are live; it is cheap to poll."""
        with self.database.reading() as connection:
            former = self.database.version < tables.LOGGED and self.database.look(connection) < tables.LOGGED
            return log.position_by_live(connection) if former else log.position(connection)

    def entries(self, after: int, limit: int) -> dict[int, str]:
        """Returns the ids of the last `limit` promotions behind position `after`; none with tables of schema 1."""
        if self.database.version < tables.LOGGED:
            return {}
        with self.database.reading() as connection:
            return log.entries(connection, after, limit)

    def store_id(self) -> str | None:
        """Returns the id of the one store that holds the artefacts; None before the first publication."""
        with self.database.reading() as connection:
            store_id: str | None = connection.execute(select(tables.schema.c.store_id)).scalar_one()
            return store_id

    def tasks(self) -> list[str]:
        """Returns the names of the tasks that have versions."""
        with self.database.reading() as connection:
            return rows.tasks_in(connection)

    def version(self, task: str, number: int) -> Version:
        """Returns one version; raises InputError if there is none of that number."""
        with self.database.reading() as connection:
            return rows.version_of(connection, task, number)

    def versions(self, task: str, limit: int = 50, before: int | None = None) -> list[Version]:
        """Returns `limit` versions of a task, newest first; `before` is the last number of the page above."""
        matches = tables.versions.c.task == task
        if before is not None:
            matches &= tables.versions.c.number < before
        page = select(tables.versions).where(matches).order_by(tables.versions.c.number.desc()).limit(limit)
        with self.database.reading() as connection:
            return [Version(**row._mapping) for row in connection.execute(page)]

    def promotions(self, task: str) -> list[Promotion]:
        """Returns the log of a task, oldest entry first."""
        of_task = select(tables.promotions).where(tables.promotions.c.task == task)
        with self.database.reading() as connection:
            result = connection.execute(of_task.order_by(tables.promotions.c.generation))
            return [Promotion(**row._mapping) for row in result]

    def runs(self, task: str, limit: int = 50, *, but: Collection[str] = ()) -> list[Run]:
        """Returns `limit` runs of a task, newest first; those with an outcome in `but` are passed over."""
        runs = select(tables.runs).where(tables.runs.c.task == task)
        if but:
            outcome = tables.runs.c.outcome
            runs = runs.where(outcome.is_(None) | outcome.not_in(but))  # without an outcome: running, or dead
        with self.database.reading() as connection:
            result = connection.execute(runs.order_by(tables.runs.c.started_at.desc()).limit(limit))
            return [Run(**row._mapping) for row in result]

    def measurements(self, task: str, version: int) -> list[Measurement]:
        """Returns the measurements of a version, oldest first."""
        of = (tables.measurements.c.task == task) & (tables.measurements.c.version == version)
        columns = [column for column in tables.measurements.c if column.name != "id"]
        with self.database.reading() as connection:
            result = connection.execute(select(*columns).where(of).order_by(tables.measurements.c.id))
            return [Measurement(**row._mapping) for row in result]

    # Versions

    def publish(
        self,
        task: str,
        artefact: str | Path,
        store: Store,
        parent: int | None = None,
        lineage: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        fence: int | None = None,
    ) -> Version:
        """Puts a graft folder into the store and makes it the task's next version.

        Content that is a version already gives that version. `metrics` default to those of the manifest. Raises
        InputError for a damaged graft, another store than this registry's, or another precision than the registry
        records for the graft's trunk, and Conflict if the lease with the token `fence` was lost.
        """
        require_task(task)
        origin = rows.plain(lineage or {}, "lineage")
        with self.database.reading() as connection:
            self.require_store(connection, store)
            self._now(connection, task, fence)  # a run that lost its lease copies nothing either
        uses = self._announced(store, name := store.path(read_manifest(Path(artefact)).content_id).name)
        try:
            content_id, _ = store.add(artefact)
        except (InputError, Unavailable):
            uses.give_up(name)
            raise
        manifest = read_manifest(store.path(content_id))
        scores = rows.plain(manifest.training.metrics if metrics is None else metrics, "metrics")
        with self.database.writing(task, STORE) as connection:
            now = self._now(connection, task, fence)
            self.require_store(connection, store, claim=True)
            if not store.path(content_id).exists():
                raise Unavailable(f"{task}: the artefact was collected while it was published; publish it again")
            require_recorded(connection, manifest, task)
            version = rows.enter(connection, task, manifest, parent, now, scores, origin)
        try:
            uses.finish(name)
        except Unavailable as error:  # the next gc does it: the version is there
            logger.warning("%s: version %d is published, its mark in the store is not: %s", task, version.number, error)
        return version

    def _announced(self, store: Store, name: str) -> Uses:
        """Tells the store that this registry uses it, and is about to name an artefact."""
        self.database.forward()
        store.identity(create=True)
        uses = Uses(store, self.change().registry)
        if not uses.label.exists():
            uses.claim(self.database.place())
        uses.begin(name)
        return uses

    def measure(
        self,
        task: str,
        version: int,
        name: str,
        value: float | None,
        quality: str,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Stores a measurement of a version; `value` is None if it could not be measured."""
        if (value is None) != (quality == "unavailable"):
            raise InputError(f"{name}: {value} and quality {quality!r}: a value is None exactly when unavailable")
        values = {"task": task, "version": version, "name": name, "value": value, "quality": quality}
        with self.database.writing(task) as connection:
            rows.version_of(connection, task, version)
            now = self.database.time(connection)
            circumstances = rows.plain(detail or {}, "detail")
            connection.execute(tables.measurements.insert().values(**values, detail=circumstances, at=now))

    def require_store(self, connection: Connection, store: Store, *, claim: bool = False) -> bool:
        """Returns whether the registry has a store; `claim` makes the first one its store.

        Raises InputError if `store` is another one.
        """
        known = connection.execute(select(tables.schema.c.store_id)).scalar_one()
        if known is None and claim:
            connection.execute(tables.schema.update().values(store_id=store.identity()))
        elif known is not None and known != (other := store.identity()):
            raise InputError(
                f"store: {store.place} is not the store of this registry ({other[:8]}..., expected {known[:8]}...): "
                "another folder, or one that is not mounted"
            )
        return known is not None or claim

    # What is live

    def promote(
        self,
        task: str,
        number: int,
        *,
        expected_generation: int,
        actor: str,
        reason: str,
        verdict: str,
        gate: dict[str, Any] | None = None,
        fence: int | None = None,
    ) -> Live:
        """Makes a version the live one and writes it into the log, in one transaction.

        Raises Conflict if the task is no longer at `expected_generation` (0: nothing live yet), or if the lease with
        the token `fence` was lost. Promoting the live version changes nothing.
        """
        report = None if gate is None else rows.plain(gate, "gate")
        with self.database.writing(task) as connection:
            now = self._now(connection, task, fence)
            live = rows.require_generation(connection, task, expected_generation)
            version = rows.version_of(connection, task, number)
            if live is not None and live.version == number:
                return live
            entry = {"actor": actor, "reason": reason, "verdict": verdict, "gate": report, "at": now}
            return self._switch(connection, live, version, live.version if live else None, entry)

    def rollback(self, task: str, *, actor: str, reason: str, expected_generation: int | None = None) -> Live:
        """Makes the version before the live one live again, as a new entry of the log.

        A second rollback goes further back, never forward to a version that was rolled back. Raises InputError if
        there is no version before.
        """
        with self.database.writing(task) as connection:
            live = rows.live_of(connection, task)
            if live is not None and expected_generation is not None:
                live = rows.require_generation(connection, task, expected_generation)
            if live is None or live.previous is None:
                raise InputError(f"{task}: nothing was live before; promote a version instead")
            version = rows.version_of(connection, task, live.previous)
            now = self.database.time(connection)
            entry = {"actor": actor, "reason": reason, "verdict": ROLLBACK, "gate": None, "at": now}
            history = select(tables.promotions.c.to_version, tables.promotions.c.verdict)
            entries = connection.execute(
                history.where(tables.promotions.c.task == task).order_by(tables.promotions.c.generation)
            )
            before = log.before_in([*((number, verdict) for number, verdict in entries), (version.number, ROLLBACK)])
            return self._switch(connection, live, version, before, entry)

    def _switch(
        self,
        connection: Connection,
        live: Live | None,
        version: Version,
        previous: int | None,
        entry: dict[str, Any],
    ) -> Live:
        """Makes `version` live and writes `entry` into the log."""
        if version.state != "published":
            raise InputError(
                f"{version.task}: the artefact of version {version.number} was collected; publish it again"
            )
        self.database.lock(connection, log.LOCK)
        return log.switch(connection, live, version, previous, entry)

    # Leases and runs

    def acquire(self, task: str, owner: str, seconds: float) -> Lease:
        """Takes the lease of a task for `seconds`; raises LeaseHeld while another owner has it."""
        return leasing.acquire(self.database, task, owner, seconds)

    def renew(self, lease: Lease) -> Lease:
        """Returns the lease with its full duration ahead again; raises Conflict if it was lost."""
        return leasing.renew(self.database, lease)

    def release(self, lease: Lease) -> None:
        """Gives the lease back; does nothing if it was lost."""
        leasing.release(self.database, lease)

    def check_fence(self, lease: Lease) -> None:
        """Raises Conflict if the lease was lost."""
        with self.database.reading() as connection:
            leasing.require_fence(self.database, connection, lease.task, lease.token)

    def start_run(
        self, task: str, run_id: str, owner: str, fence: int | None = None, detail: dict[str, Any] | None = None
    ) -> Run:
        """Stores the start of a run; raises InputError if the id is taken."""
        require_task(task)
        with self.database.writing(task) as connection:
            now = self._now(connection, task, fence)
            if connection.execute(select(tables.runs).where(tables.runs.c.run_id == run_id)).first() is not None:
                raise InputError(f"run_id: {run_id} is taken")
            run = Run(task, run_id, owner, fence, now, None, None, rows.plain(detail or {}, "detail"))
            connection.execute(tables.runs.insert().values(**vars(run)))
        return run

    def finish_run(
        self, task: str, run_id: str, outcome: str, detail: dict[str, Any] | None = None, fence: int | None = None
    ) -> Run:
        """Stores the end of a run; `detail` is added to that of its start."""
        added = rows.plain(detail or {}, "detail")
        with self.database.writing(task) as connection:
            now = self._now(connection, task, fence)
            this = (tables.runs.c.task == task) & (tables.runs.c.run_id == run_id)
            row = connection.execute(select(tables.runs).where(this)).first()
            if row is None:
                raise InputError(f"{task}: no run {run_id}")
            ended = {"finished_at": now, "outcome": outcome, "detail": row.detail | added}
            connection.execute(tables.runs.update().where(this).values(**ended))
            return Run(**(dict(row._mapping) | ended))

    def _now(self, connection: Connection, task: str, fence: int | None) -> float:
        """Returns the time; raises Conflict if the lease with the token `fence` was lost."""
        if fence is None:
            return self.database.time(connection)
        return leasing.require_fence(self.database, connection, task, fence)
