"""The registry: the versions of each task, the live one, and the log of its changes.

    registry = open_registry("sqlite:///registry.db")
    version = registry.publish("banking77", "runs/banking77/graft", Store("store"))
    registry.promote("banking77", version.number, expected_generation=0, actor="me", reason="first", verdict="MANUAL")

Every change is one transaction. It first compares the caller's expectation (the generation, the fence) with the
database. A process that is killed anywhere leaves the state before the change or the state after it. A registry is safe
to share between threads; a forked process opens its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from adapters.artefact.manifest import read_manifest
from backbone.errors import InputError, nearest
from backbone.records import canonical_json
from registry import leases as leasing
from registry import tables
from registry.engine import Database, connect
from registry.entries import (
    ROLLBACK,
    Conflict,
    Lease,
    Live,
    Measurement,
    Promotion,
    Run,
    Unavailable,
    Version,
    require_task,
)
from registry.store import Store

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
            return _live(connection, task)

    def lives(self) -> dict[str, Live]:
        """Returns the live version of every task that has one, all from one instant."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.live).order_by(tables.live.c.task))
            return {row.task: Live(**row._mapping) for row in rows}

    def change(self) -> int:
        """Returns a number that rises with every promotion of any task; it is cheap to poll."""
        with self.database.reading() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(tables.live.c.generation), 0))).scalar_one())

    def tasks(self) -> list[str]:
        """Returns the names of the tasks that have versions."""
        with self.database.reading() as connection:
            return _tasks(connection)

    def version(self, task: str, number: int) -> Version:
        """Returns one version; raises InputError if there is none of that number."""
        with self.database.reading() as connection:
            return _version(connection, task, number)

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
        log = select(tables.promotions).where(tables.promotions.c.task == task)
        with self.database.reading() as connection:
            rows = connection.execute(log.order_by(tables.promotions.c.generation))
            return [Promotion(**row._mapping) for row in rows]

    def runs(self, task: str, limit: int = 50, *, but: Collection[str] = ()) -> list[Run]:
        """Returns `limit` runs of a task, newest first; those with an outcome in `but` are passed over."""
        runs = select(tables.runs).where(tables.runs.c.task == task)
        if but:
            outcome = tables.runs.c.outcome
            runs = runs.where(outcome.is_(None) | outcome.not_in(but))  # without an outcome: running, or dead
        with self.database.reading() as connection:
            rows = connection.execute(runs.order_by(tables.runs.c.started_at.desc()).limit(limit))
            return [Run(**row._mapping) for row in rows]

    def measurements(self, task: str, version: int) -> list[Measurement]:
        """Returns the measurements of a version, oldest first."""
        of = (tables.measurements.c.task == task) & (tables.measurements.c.version == version)
        columns = [column for column in tables.measurements.c if column.name != "id"]
        with self.database.reading() as connection:
            rows = connection.execute(select(*columns).where(of).order_by(tables.measurements.c.id))
            return [Measurement(**row._mapping) for row in rows]

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
        InputError for a damaged graft or another store than this registry's, and Conflict if the lease with the token
        `fence` was lost.
        """
        require_task(task)
        origin = _plain(lineage or {}, "lineage")
        with self.database.reading() as connection:
            self.require_store(connection, store)
        content_id, path = store.add(artefact)
        manifest = read_manifest(store.path(content_id))
        scores = _plain(manifest.training.metrics if metrics is None else metrics, "metrics")
        with self.database.writing(task, STORE) as connection:
            now = self._now(connection, task, fence)
            self.require_store(connection, store, claim=True)
            if not store.path(content_id).exists():
                raise Unavailable(f"{task}: the artefact was collected while it was published; publish it again")
            known = (tables.versions.c.task == task) & (tables.versions.c.content_id == content_id)
            row = connection.execute(select(tables.versions).where(known)).first()
            if row is not None:
                if row.state != "published":
                    connection.execute(tables.versions.update().where(known).values(state="published"))
                return _version(connection, task, row.number)
            if parent is not None:
                _version(connection, task, parent)
            last = select(func.max(tables.versions.c.number)).where(tables.versions.c.task == task)
            version = Version(
                task=task,
                number=(connection.execute(last).scalar_one() or 0) + 1,
                content_id=content_id,
                weights_id=manifest.weights_id,
                path=path,
                parent=parent,
                created_at=now,
                metrics=scores,
                lineage=origin,
                state="published",
            )
            _store_backbone(connection, manifest.weights_id, manifest.preprocessing_id, now)
            connection.execute(tables.versions.insert().values(**vars(version)))
        return version

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
            _version(connection, task, version)
            now = self.database.time(connection)
            circumstances = _plain(detail or {}, "detail")
            connection.execute(tables.measurements.insert().values(**values, detail=circumstances, at=now))

    def require_store(self, connection: Connection, store: Store, *, claim: bool = False) -> None:
        """Raises InputError unless `store` is the store of this registry; `claim` makes the first one its store."""
        known = connection.execute(select(tables.schema.c.store_id)).scalar_one()
        if known is None and claim:
            connection.execute(tables.schema.update().values(store_id=store.identity()))
        elif known is not None and known != (other := store.identity()):
            raise InputError(
                f"store: {store.root} is not the store of this registry ({other[:8]}..., expected {known[:8]}...): "
                "another folder, or one that is not mounted"
            )

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
        report = None if gate is None else _plain(gate, "gate")
        with self.database.writing(task) as connection:
            now = self._now(connection, task, fence)
            live = _require_generation(connection, task, expected_generation)
            version = _version(connection, task, number)
            if live is not None and live.version == number:
                return live
            entry = {"actor": actor, "reason": reason, "verdict": verdict, "gate": report, "at": now}
            return _switch(connection, live, version, live.version if live else None, entry)

    def rollback(self, task: str, *, actor: str, reason: str, expected_generation: int | None = None) -> Live:
        """Makes the version before the live one live again, as a new entry of the log.

        A second rollback goes further back, never forward to a version that was rolled back. Raises InputError if
        there is no version before.
        """
        with self.database.writing(task) as connection:
            live = _live(connection, task)
            if live is not None and expected_generation is not None:
                live = _require_generation(connection, task, expected_generation)
            if live is None or live.previous is None:
                raise InputError(f"{task}: nothing was live before; promote a version instead")
            version = _version(connection, task, live.previous)
            now = self.database.time(connection)
            entry = {"actor": actor, "reason": reason, "verdict": ROLLBACK, "gate": None, "at": now}
            log = select(tables.promotions.c.to_version, tables.promotions.c.verdict)
            entries = connection.execute(
                log.where(tables.promotions.c.task == task).order_by(tables.promotions.c.generation)
            )
            before = before_in([*((number, verdict) for number, verdict in entries), (version.number, ROLLBACK)])
            return _switch(connection, live, version, before, entry)

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
            run = Run(task, run_id, owner, fence, now, None, None, _plain(detail or {}, "detail"))
            connection.execute(tables.runs.insert().values(**vars(run)))
        return run

    def finish_run(
        self, task: str, run_id: str, outcome: str, detail: dict[str, Any] | None = None, fence: int | None = None
    ) -> Run:
        """Stores the end of a run; `detail` is added to that of its start."""
        added = _plain(detail or {}, "detail")
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


def _tasks(connection: Connection) -> list[str]:
    return list(
        connection.execute(select(tables.versions.c.task).distinct().order_by(tables.versions.c.task)).scalars()
    )


def _live(connection: Connection, task: str) -> Live | None:
    row = connection.execute(select(tables.live).where(tables.live.c.task == task)).first()
    return None if row is None else Live(**row._mapping)


def _version(connection: Connection, task: str, number: int) -> Version:
    this: ColumnElement[bool] = (tables.versions.c.task == task) & (tables.versions.c.number == number)
    row = connection.execute(select(tables.versions).where(this)).first()
    if row is not None:
        return Version(**row._mapping)
    tasks = _tasks(connection)
    if task not in tasks:
        raise InputError(f"task: {task!r} has no versions; {nearest(task, tasks)}")
    last = select(func.max(tables.versions.c.number)).where(tables.versions.c.task == task)
    raise InputError(f"{task}: no version {number}; the last one is {connection.execute(last).scalar_one()}")


def _require_generation(connection: Connection, task: str, expected: int) -> Live | None:
    """Returns what is live; raises Conflict if the task is at another generation."""
    live = _live(connection, task)
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


def _switch(
    connection: Connection, live: Live | None, version: Version, previous: int | None, entry: dict[str, Any]
) -> Live:
    """Moves the live pointer to `version` and writes `entry` into the log."""
    if version.state != "published":
        raise InputError(f"{version.task}: the artefact of version {version.number} was collected; publish it again")
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


def _store_backbone(connection: Connection, weights_id: str, preprocessing_id: str, now: float) -> None:
    """Stores a backbone when it is first seen."""
    this = select(tables.backbones).where(tables.backbones.c.weights_id == weights_id)
    if connection.execute(this).first() is None:
        values = {"weights_id": weights_id, "preprocessing_id": preprocessing_id, "first_seen": now}
        connection.execute(tables.backbones.insert().values(**values))


def _plain(value: dict[str, Any], what: str) -> dict[str, Any]:
    """Returns the value; raises InputError naming `what` unless it is plain JSON."""
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: not JSON: {error}") from None
    return value
