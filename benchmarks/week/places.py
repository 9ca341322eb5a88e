"""The databases of a week: a SQLite file, and a PostgreSQL behind PgBouncer. Each has a replica that may be stale."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psycopg

from benchmarks.week.clock import Clock
from tests.registry.pgbouncer import pooling, program
from tests.registry.postgres import Postgres, binaries

SCHEMA = "week"


class Database(Protocol):
    """The database of a registry."""

    url: str

    def keep_replica(self) -> None:
        """Makes the replica equal to what there is now."""

    def fail_over(self) -> None:
        """Goes on with the replica."""

    def restart(self) -> None:
        """Ends the database at once and starts it again; a file has nothing to end."""


class SqliteFile:
    """A registry in a file."""

    def __init__(self, folder: Path):
        self._file, self._replica = folder / "registry.db", folder / "replica.db"
        self.url = f"sqlite:///{self._file}"

    def keep_replica(self) -> None:
        self._replica.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self._file)) as source,
            contextlib.closing(sqlite3.connect(self._replica)) as target,
        ):
            source.backup(target)

    def fail_over(self) -> None:
        new = self._file.with_name("registry.new")
        shutil.copyfile(self._replica, new)
        for ending in ("-wal", "-shm"):
            self._file.with_name(self._file.name + ending).unlink(missing_ok=True)
        new.replace(self._file)

    def restart(self) -> None:
        pass


class Pooled:
    """A registry in a PostgreSQL behind a PgBouncer in transaction mode."""

    def __init__(self, server: Postgres, folder: Path, port: int):
        self._server, self._replica, self._port = server, folder / "replica", port
        self.url = f"postgresql+psycopg://topgraft@127.0.0.1:{port}/postgres?options=-csearch_path%3D{SCHEMA}"
        with psycopg.connect(f"{self._where(server.port)}", autocommit=True) as admin:
            admin.execute(f"create schema if not exists {SCHEMA}")

    def _where(self, port: int) -> str:
        return f"host=127.0.0.1 port={port} user=topgraft dbname=postgres"

    def keep_replica(self) -> None:
        self._server.replica(self._replica)
        self._wait()

    def fail_over(self) -> None:
        self._server.fail_over(self._replica)
        self._wait()

    def restart(self) -> None:
        self._server.stop()
        self._server.start()
        self._wait()

    def _wait(self) -> None:
        """Waits until the pooler has noticed that the server is back."""
        ends = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(self._where(self._port), autocommit=True, prepare_threshold=None) as client:
                    client.execute("select 1")
                    return
            except psycopg.Error:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.2)


@contextlib.contextmanager
def database(kind: str, folder: Path, clock: Clock) -> Iterator[Database]:
    """Yields the database of a week, which keeps what it has from one call to the next."""
    if kind == "sqlite":
        yield SqliteFile(folder)
        return
    programs, pooler = binaries(), program()
    if programs is None or pooler is None:
        sys.exit("PostgreSQL or PgBouncer is not installed: apt-get install postgresql pgbouncer")
    place = folder / "postgres"
    place.mkdir(exist_ok=True)
    server = Postgres(place, programs, clock.variables)
    if (place / "data" / "postmaster.pid").exists():  # of a week that was killed
        with contextlib.suppress(AssertionError):
            server.stop()
    server.start()
    try:
        with pooling(server, pooler) as port:
            yield Pooled(server, place, port)
    finally:
        server.stop("fast")
