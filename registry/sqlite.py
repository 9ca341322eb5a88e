"""A registry in a SQLite file: its journal, its locks, and files that may only be read."""

from __future__ import annotations

import contextlib
import difflib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import NullPool, QueuePool

from backbone.errors import InputError, shown
from backbone.texts import load_json
from registry.entries import RESTORE, NoRegistry, Unavailable
from registry.tables import plain_json

PATIENCE = 30  # seconds that a writer waits for another
# file systems on which SQLite's locks or its shared memory are unreliable
NETWORK = ("nfs", "cifs", "smb", "fuse.", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "virtiofs", "beegfs")


def absent(where: str, path: Path | None = None) -> str:
    """Returns the message about a place without a registry; it names a file beside it with a similar name."""
    beside = [file.name for file in path.parent.glob("*")] if path else []
    near = difflib.get_close_matches(path.name, beside, n=1) if path else []
    hint = f"; beside it lies {near[0]}" if near else ""
    return f"registry: none at {where}{hint}; `topgraft registry publish` and `topgraft retrain` make one"


def path_of(where: URL) -> Path:
    """Returns the file of a URL, absolute."""
    return Path(str(where.database)).absolute()


def engine(where: URL, *, create: bool) -> tuple[Engine, None]:
    """Returns an engine on a file in WAL mode; it notices a file that vanished or was exchanged while open.

    Without `create`, a file that is no registry stays as it is. A file that this process may not write can be read.
    """
    path = path_of(where)
    require_local(path)
    tables = _tables(path) if path.exists() else []
    if not create and "schema" not in tables:
        raise NoRegistry(absent(str(where), path))
    if tables and "schema" not in tables:
        raise InputError(f"registry: {path} holds tables of something else ({tables[0]}); name another file")
    writable = create or may_write(path)
    if writable:
        _prepare(path)

    def opened() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{'mode=rw' if writable else _read_only(path)}",
            uri=True,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("pragma synchronous = full")
        return connection

    made = create_engine(
        where,
        creator=opened,
        json_serializer=plain_json,
        json_deserializer=_stored_json,
        poolclass=QueuePool if writable else NullPool,
    )

    @event.listens_for(made, "connect")
    def _connected(connection: Any, record: Any) -> None:
        record.info["file"] = _file(path)

    @event.listens_for(made, "checkout")
    def _same_file(connection: Any, record: Any, proxy: Any) -> None:
        if record.info["file"] != _file(path):
            raise DisconnectionError(f"{path} is not the file that was opened")

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("begin immediate" if writes else "begin")

    return made, None


def _stored_json(value: Any) -> Any:
    """Returns the value of a JSON column; raises InputError for a cell that is none: SQLite takes any."""
    try:
        return load_json(value)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"registry: a cell that should be JSON is {shown(value)} ({error}): damaged; {RESTORE}"
        ) from None


def may_write(path: Path) -> bool:
    """Returns True if this process may write the file, and the journal beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _read_only(path: Path) -> str:
    """Returns how a file that may not be written is opened.

    SQLite reads a journal that a writer has open, but makes none. Without a journal nobody writes, and the file alone
    is the state. Raises Unavailable for a journal that a dead writer left.
    """
    if not Path(f"{path}-wal").exists():
        return "mode=ro&immutable=1"
    if not Path(f"{path}-shm").exists() and Path(f"{path}-wal").stat().st_size:
        raise Unavailable(f"registry: {path}: the journal beside it must be applied by a process that may write")
    return "mode=ro" if Path(f"{path}-shm").exists() else "mode=ro&immutable=1"


def _tables(path: Path) -> list[str]:
    """Returns the names of a database's tables, without changing the file; raises as `_prepare` does."""
    with _explained(path):
        uri = f"file:{quote(str(path))}?{'mode=rw' if may_write(path) else _read_only(path)}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as connection:
            return [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]


@contextlib.contextmanager
def steady(path: Path) -> Iterator[None]:
    """Raises Unavailable if the file changed in the block and is one that is read without its journal."""
    before = None if may_write(path) else _state(path)
    yield
    if before is not None and before != _state(path):
        raise Unavailable(f"registry: {path} changed while it was read; try again")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns errors of the file or of SQLite in the block into those of a registry."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"registry: {path}: {error.strerror}") from error
    except sqlite3.OperationalError as error:
        raise Unavailable(f"registry: {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"registry: {path} is no SQLite database, or a damaged one ({error}); restore it, or name another"
        ) from error


def _prepare(path: Path) -> None:
    """Makes the file a database in WAL mode; raises InputError if it is something else, Unavailable if it cannot.

    Only SQLite may open it. Closing a file drops every lock that this process has on it. Another process would then
    take a registry that is open here for closed, and remove the log that it is writing to.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            _into_wal_mode(connection)


def _into_wal_mode(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + PATIENCE
    while connection.execute("pragma journal_mode").fetchone() != ("wal",):
        # beside other clients SQLite answers a change of mode with "locked" at once, without its time-out
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _file(path: Path) -> tuple[int, int] | None:
    """Returns the device and inode of a file; None if it is absent."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def require_local(path: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raises InputError if `path` lies on a network file system, as far as the system lists its mounts."""
    kind, longest = "", -1
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if mounts.is_file() else ():
        _, point, file_system, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.resolve().is_relative_to(point) and len(point) >= longest:
            kind, longest = file_system, len(point)
    if kind.startswith(NETWORK):
        raise InputError(
            f"registry: {path} lies on a network file system ({kind}), where SQLite loses writes; "
            "use a local disk, or postgresql://HOST/NAME for several machines"
        )
