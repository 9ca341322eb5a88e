"""The right to write for one task: a lease that expires, and a fence that outlives it.

Expiry says when another run may try, and depends on a clock. Safety does not: each owner gets a token higher than that
of every owner before. A write that names a token is checked in its own transaction. It is refused unless the token is
the task's last and its lease is neither expired nor released. An expired lease is lost for good, even if nobody took
it: an owner that was stopped for too long always learns of it.

The clock is the database's. When it jumps forward, a live run may seem dead: it loses its work, and the live version is
untouched. When it jumps backward, a lease would last for the length of the jump. The next run that requests such a
lease cuts it to its own duration.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from backbone.errors import InputError
from registry.engine import Database
from registry.entries import Conflict, Lease, LeaseHeld, Unavailable, require_task
from registry.tables import leases

if TYPE_CHECKING:
    from registry.database import Registry

log = logging.getLogger(__name__)


def acquire(database: Database, task: str, owner: str, seconds: float) -> Lease:
    """Takes the lease of a task; raises LeaseHeld if another owner has it."""
    require_task(task)
    if not owner or not seconds > 0:
        raise InputError(f"lease: needs an owner and a positive duration, got {owner!r} and {seconds}")
    with database.writing(task) as connection:
        now = database.time(connection)
        row = _row(connection, task)
        if row is None or row.owner is None or row.expires_at <= now:
            lease = Lease(task, owner, (row.token if row is not None else 0) + 1, now + seconds, seconds)
            _write(connection, lease, exists=row is not None)
            return lease
        until = min(row.expires_at, now + row.seconds)
        connection.execute(leases.update().where(leases.c.task == task).values(expires_at=until))
    raise LeaseHeld(task, row.owner, until - now)


def renew(database: Database, lease: Lease) -> Lease:
    """Returns the lease with its full duration ahead; raises Conflict if it was lost."""
    with database.writing(lease.task) as connection:
        now = require_fence(database, connection, lease.task, lease.token)
        renewed = Lease(lease.task, lease.owner, lease.token, now + lease.seconds, lease.seconds)
        _write(connection, renewed, exists=True)
    return renewed


def release(database: Database, lease: Lease) -> None:
    """Gives the lease back; does nothing if it was lost already."""
    with database.writing(lease.task) as connection:
        mine = (leases.c.task == lease.task) & (leases.c.token == lease.token)
        connection.execute(leases.update().where(mine).values(owner=None))


def require_fence(database: Database, connection: Connection, task: str, token: int) -> float:
    """Returns the time if `token` belongs to the task's present lease; raises Conflict otherwise."""
    now = database.time(connection)
    row = _row(connection, task)
    if row is None or row.token != token:
        last = row.token if row is not None else 0
        owner = f" of {row.owner}" if row is not None and row.owner else ""
        raise Conflict(
            f"{task}: the lease was lost: its fence is {token}, the last one is {last}{owner}; nothing was written",
            expected=token,
            present=last,
        )
    if row.owner is None or row.expires_at <= now:
        ended = "was released" if row.owner is None else f"expired {now - row.expires_at:.1f} s ago"
        raise Conflict(
            f"{task}: the lease with fence {token} {ended}; nothing was written", expected=token, present=token
        )
    return now


def leased(connection: Connection, now: float) -> set[str]:
    """Returns the tasks that have a lease now."""
    present = leases.c.owner.is_not(None) & (leases.c.expires_at > now)
    return set(connection.execute(select(leases.c.task).where(present)).scalars())


def _row(connection: Connection, task: str) -> Row[Any] | None:
    return connection.execute(select(leases).where(leases.c.task == task)).first()


def _write(connection: Connection, lease: Lease, *, exists: bool) -> None:
    values = {"owner": lease.owner, "token": lease.token, "expires_at": lease.expires_at, "seconds": lease.seconds}
    if exists:
        connection.execute(leases.update().where(leases.c.task == lease.task).values(**values))
    else:
        connection.execute(leases.insert().values(task=lease.task, **values))


class Heartbeat:
    """A thread that renews a lease three times in its duration, until it is stopped or the lease is lost.

    While the database does not answer, the thread tries again until the duration has passed since the last renewal, by
    this process's own clock. Then the lease counts as lost.
    """

    def __init__(self, registry: Registry, lease: Lease):
        self.lease = lease  # lease as last renewed
        self.lost = threading.Event()  # set when somebody else may own the task
        self.reason = ""  # reason of the loss
        self._registry, self._ended = registry, threading.Event()
        self._until = time.monotonic() + lease.seconds
        self._thread = threading.Thread(target=self._run, name=f"lease of {lease.task}", daemon=True)

    def require(self) -> None:
        """Raises Conflict if the lease was lost; call it before another expensive step."""
        if self.lost.is_set() or time.monotonic() > self._until:
            raise Conflict(
                self.reason or f"{self.lease.task}: the lease ran out before it could be renewed",
                expected=self.lease.token,
                present=self.lease.token,
            )

    def _run(self) -> None:
        while not self._ended.wait(self.lease.seconds / 3):
            began = time.monotonic()
            try:
                self.lease = self._registry.renew(self.lease)
                self._until = began + self.lease.seconds
                continue
            except Conflict as error:
                self.reason = str(error)
            except Unavailable as error:
                if began < self._until:
                    log.warning("%s: not renewed: %s", self.lease.task, error)
                    continue
                self.reason = f"{self.lease.task}: the lease could not be renewed: {error}"
            log.error("%s", self.reason)
            self.lost.set()
            return


@contextlib.contextmanager
def heartbeat(registry: Registry, lease: Lease) -> Iterator[Heartbeat]:
    """Renews a lease while the block runs; once it is lost, `.lost` is set and `.require()` raises."""
    beating = Heartbeat(registry, lease)
    beating._thread.start()
    try:
        yield beating
    finally:
        beating._ended.set()
        beating._thread.join()
