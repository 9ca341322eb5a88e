"""One way to read and one way to write, on SQLite and on PostgreSQL.

`reading()` is a transaction that sees one state. `writing(lock, ...)` is a transaction that has the named locks to
itself until it ends: advisory locks of the transaction on PostgreSQL, the whole file on SQLite (BEGIN IMMEDIATE). So
nothing changes between its first read and its commit. The database rolls back the transaction of a dead client;
PostgreSQL rolls back that of a stopped client after `PATIENCE` seconds.

Time is the database's: all clients of one registry read the same clock.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Select, create_engine, event, literal_column, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, IntegrityError, ProgrammingError

from backbone.errors import InputError
from registry.entries import NoRegistry, Unavailable
from registry.tables import SCHEMA, metadata, schema

PATIENCE = 30  # seconds that a writer waits for another
# file systems on which SQLite's locks or its shared memory are unreliable
NETWORK = ("nfs", "cifs", "smb", "fuse.", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "virtiofs", "beegfs")


class Database:
    """An open database."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.where = engine.url.render_as_string(hide_password=True)
        self._postgresql = engine.dialect.name == "postgresql"
        self._now: Select[Any] = select(
            literal_column(
                "extract(epoch from clock_timestamp())"
                if self._postgresql
                else "(julianday('now') - 2440587.5) * 86400.0"
            )
        )

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Opens a transaction that only reads; raises Unavailable if the database does not answer."""
        options = {"isolation_level": "REPEATABLE READ"} if self._postgresql else {}
        with self._translated(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self, *locks: str) -> Iterator[Connection]:
        """Opens a transaction that has `locks` to itself; raises Unavailable if the database does not answer.

        It is committed when the block ends without an error.
        """
        options = {"writes": True}
        with self._translated(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            if self._postgresql:
                for lock in locks:
                    connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:lock, 7))"), {"lock": lock})
            yield connection

    def time(self, connection: Connection) -> float:
        """Returns the time by the database's clock."""
        return float(connection.execute(self._now).scalar_one())

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns errors of the driver in the block into Unavailable."""
        try:
            yield
        except (IntegrityError, ProgrammingError):
            raise  # a defect of this program
        except DBAPIError as error:
            raise Unavailable(f"{self.where}: {str(error.orig).strip()}") from error


def connect(url: str, *, create: bool = True) -> Database:
    """Opens the database, makes missing tables if `create`, and checks the schema's version.

    Raises InputError for an unusable URL, and Unavailable if nothing answers there.
    """
    where = _read_url(url)
    sqlite = where.get_backend_name() == "sqlite"
    database = Database(_sqlite(where, create=create) if sqlite else _postgresql(where))
    try:
        with database.reading() as connection:
            known = database.engine.dialect.has_table(connection, schema.name)
        if not known and not create:
            raise NoRegistry(_absent(database.where))
        if not known:
            with database.writing("schema") as connection:
                metadata.create_all(connection)
                if connection.execute(select(schema.c.version)).first() is None:
                    connection.execute(schema.insert().values(version=SCHEMA))
        with database.reading() as connection:
            version = connection.execute(select(schema.c.version)).scalar_one()
        if version != SCHEMA:
            raise InputError(f"{database.where}: schema {version}: this version of topgraft reads schema {SCHEMA}")
    except BaseException:
        database.engine.dispose()
        raise
    return database


def _absent(where: str) -> str:
    return f"registry: none at {where}; `topgraft registry publish` and `topgraft retrain` make one"


def _read_url(url: str) -> URL:
    """Returns a URL with its driver; raises InputError unless it names SQLite with a file, or PostgreSQL."""
    try:
        where = make_url(url)
    except ArgumentError:
        raise InputError(f"registry: {url!r} is no URL; expected sqlite:///PATH or postgresql://HOST/NAME") from None
    if where.drivername in ("postgresql", "postgres"):
        where = where.set(drivername="postgresql+psycopg")
    if where.drivername not in ("sqlite", "postgresql+psycopg"):
        raise InputError(f"registry: {where.drivername}: expected sqlite:///PATH or postgresql://HOST/NAME")
    if where.drivername == "sqlite" and where.database in (None, "", ":memory:"):
        raise InputError("registry: sqlite without a file is gone with the process; expected sqlite:///PATH")
    return where


def _sqlite(where: URL, *, create: bool) -> Engine:
    """Returns an engine on a file in WAL mode; it notices a file that vanished or was exchanged while open."""
    path = Path(str(where.database)).absolute()
    require_local(path)
    if not create and not path.exists():
        raise NoRegistry(_absent(str(where)))
    _prepare(path)

    def opened() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("pragma synchronous = full")
        return connection

    engine = create_engine(where, creator=opened, json_serializer=_dumps)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        record.info["file"] = _file(path)

    @event.listens_for(engine, "checkout")
    def _same_file(connection: Any, record: Any, proxy: Any) -> None:
        if record.info["file"] != _file(path):
            raise DisconnectionError(f"{path} is not the file that was opened")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("begin immediate" if writes else "begin")

    return engine


def _prepare(path: Path) -> None:
    """Makes the file a database in WAL mode; raises InputError if it is something else, Unavailable if it cannot.

    Only SQLite may open it. Closing a file drops every lock that this process has on it. Another process would then
    take a registry that is open here for closed, and remove the log that it is writing to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            _into_wal_mode(connection)
    except OSError as error:
        raise Unavailable(f"registry: {path}: {error.strerror}") from error
    except sqlite3.OperationalError as error:
        raise Unavailable(f"registry: {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"registry: {path} is no SQLite database, or a damaged one ({error}); restore it, or name another"
        ) from error


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


def _postgresql(where: URL) -> Engine:
    try:
        engine = create_engine(
            where,
            isolation_level="READ COMMITTED",
            json_serializer=_dumps,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "keepalives_idle": 10, "application_name": "topgraft"},
        )
    except ModuleNotFoundError as error:
        raise InputError(f"registry: PostgreSQL needs psycopg: pip install 'topgraft[postgres]' ({error})") from None

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        connection.autocommit = True
        for name, seconds in (("idle_in_transaction_session_timeout", PATIENCE), ("lock_timeout", 2 * PATIENCE)):
            connection.execute(f"set {name} = '{seconds}s'")
        connection.autocommit = False

    return engine


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
