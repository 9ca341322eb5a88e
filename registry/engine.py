"""One way to read and one way to write, on SQLite and on PostgreSQL.

`reading()` is a transaction that sees one state. `writing(lock, ...)` is a transaction that has the named locks to
itself until it ends: advisory locks of the transaction on PostgreSQL, the whole file on SQLite (BEGIN IMMEDIATE). So
nothing changes between its first read and its commit. The database rolls back the transaction of a dead client;
PostgreSQL rolls back that of a stopped client after `PATIENCE` seconds.

Nothing belongs to a session: no setting, no lock, no prepared statement. So each transaction may run on another
connection, as behind PgBouncer in transaction mode.

Time is the database's: all clients of one registry read the same clock.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, literal_column, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    MultipleResultsFound,
    NoResultFound,
    ProgrammingError,
)

from backbone.errors import InputError
from registry import postgresql, sqlite, upgrade
from registry.entries import RESTORE, NoRegistry, Unavailable
from registry.tables import SCHEMA, schema

log = logging.getLogger(__name__)

# errors of PostgreSQL that are no defect of this program: tables, schema or right that are gone
GONE = ("42P01", "42501", "42703", "3D000", "3F000")


class Database:
    """An open database."""

    def __init__(self, where: URL, *, create: bool):
        self._postgresql = where.get_backend_name() == "postgresql"
        opened = postgresql.engine(where) if self._postgresql else sqlite.engine(where, create=create)
        self.engine, self.namespace = opened
        self.where = where.render_as_string(hide_password=True)
        self.version = SCHEMA  # schema of the tables, as last seen
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
        steady = contextlib.nullcontext() if self._postgresql else sqlite.steady(sqlite.path_of(self.engine.url))
        with self._translated(), steady, self._connected(**options) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *locks: str) -> Iterator[Connection]:
        """Opens a transaction that has `locks` to itself; raises Unavailable if the database does not answer.

        It is committed when the block ends without an error. Tables of a former schema are brought forward first;
        raises LeaseHeld while a run of the former version works on them.
        """
        self.forward()
        with self._changing(*locks) as connection:
            yield connection

    def forward(self) -> None:
        """Brings tables of a former schema forward, as every write does first."""
        if self.version != SCHEMA:
            self.upgrade()

    @contextlib.contextmanager
    def _changing(self, *locks: str) -> Iterator[Connection]:
        with self._translated(), self._connected(writes=True) as connection:
            if self._postgresql:
                postgresql.begin(connection)
            self.lock(connection, *locks)
            yield connection

    @contextlib.contextmanager
    def _connected(self, **options: Any) -> Iterator[Connection]:
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def lock(self, connection: Connection, *locks: str) -> None:
        """Takes more locks in a transaction that writes; they go with it."""
        if self._postgresql:
            postgresql.lock(connection, locks)

    def time(self, connection: Connection) -> float:
        """Returns the time by the database's clock."""
        return float(connection.execute(self._now).scalar_one())

    def exists(self, connection: Connection) -> bool:
        """Returns True if the registry's tables are there."""
        return self.engine.dialect.has_table(connection, schema.name, schema=self.namespace)

    def look(self, connection: Connection) -> int:
        """Returns the schema of the tables; raises InputError if this version cannot read it."""
        self.version = connection.execute(select(schema.c.version)).scalar_one()
        if self.version not in upgrade.READABLE:
            raise InputError(
                f"{self.where}: schema {self.version}: this version of topgraft reads schema {SCHEMA}; "
                "use the version that wrote it, or a later one"
            )
        return self.version

    def make(self) -> None:
        """Makes the tables, unless another process was faster."""
        with self._changing("schema") as connection:
            upgrade.make(connection, self.time(connection))

    def upgrade(self) -> int:
        """Brings tables of a former schema forward, in one transaction; returns the schema before."""
        with self._changing("schema") as connection:
            before = upgrade.bring_forward(connection, self.time(connection))
        self.version = SCHEMA
        if before != SCHEMA:
            log.warning(
                "%s: tables of schema %d are now of schema %d; programs of the former version refuse them",
                self.where,
                before,
                SCHEMA,
            )
        return before

    def place(self) -> str:
        """Returns what tells this database from a copy of it: the file, or server, database and schema."""
        if not self._postgresql:
            return f"sqlite:{sqlite.path_of(self.engine.url)}"
        with self.reading() as connection:
            return postgresql.place(connection, self.namespace)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns errors of the driver in the block into Unavailable, and a table without its one row into InputError."""
        try:
            yield
        except (NoResultFound, MultipleResultsFound) as error:
            problem = "a table that holds one row has none, or several"
            raise InputError(f"{self.where}: {problem}: damaged; {RESTORE}") from error
        except IntegrityError:
            raise  # a defect of this program
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) not in GONE:
                raise
            raise Unavailable(f"{self.where}: {str(error.orig).strip()}") from error
        except DBAPIError as error:
            raise Unavailable(f"{self.where}: {str(error.orig).strip()}") from error


def connect(url: str, *, create: bool = True) -> Database:
    """Opens the database, makes missing tables if `create`, and checks the schema's version.

    Raises InputError for an unusable URL, NoRegistry without `create` if there is none, and Unavailable if nothing
    answers there.
    """
    database = Database(_read_url(url), create=create)
    try:
        with database.reading() as connection:
            known = database.exists(connection)
        if not known and not create:
            raise NoRegistry(sqlite.absent(database.where))
        if not known:
            database.make()
        with database.reading() as connection:
            database.look(connection)
    except BaseException:
        database.engine.dispose()
        raise
    return database


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
