"""Numbers the connections, statements and commits that SQLAlchemy hands to the driver, and strikes one of them.

SQLite says of a fault "database or disk is full" or "disk I/O error". A transaction there ends with its file, whose
writes are points of their own. PostgreSQL says that its disk is full, or the connection is lost: before a statement, or
after a commit that is done.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from tests.faults.library import SERVER, SQL, UNANSWERED, Point

LONGEST = 100  # characters of a statement in its name
SAYS = {"full": "database or disk is full", "broken": "disk I/O error"}
LOST = "server closed the connection unexpectedly"


class Statements:
    """The statements of this process."""

    def __init__(self, lines: int, point: Point | None, kind: str):
        self._lines, self._point, self._kind = lines, point, kind
        self._counts: Counter[str] = Counter()
        self.struck = False
        event.listen(Engine, "do_execute", self._execute)
        event.listen(Engine, "do_executemany", self._execute_many)
        event.listen(Engine, "do_execute_no_params", self._execute_alone)
        event.listen(Engine, "do_connect", self._connect)
        real = DefaultDialect.do_commit

        def commit(dialect: Any, connection: Any) -> None:
            if dialect.name == "postgresql":
                self._run(SERVER, "commit", connection.dbapi_connection, lambda: real(dialect, connection))
            else:
                real(dialect, connection)

        DefaultDialect.do_commit = commit  # type: ignore[method-assign] # of this child, and SQLAlchemy has no event

    def _execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        return self._call(cursor, statement, lambda: cursor.execute(statement, parameters))

    def _execute_many(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        return self._call(cursor, statement, lambda: cursor.executemany(statement, parameters))

    def _execute_alone(self, cursor: Any, statement: str, context: Any) -> bool:
        return self._call(cursor, statement, lambda: cursor.execute(statement))

    def _call(self, cursor: Any, statement: str, call: Callable[[], Any]) -> bool:
        """Executes a statement unless a fault comes before it; True tells SQLAlchemy that it is done."""
        word = SQL if isinstance(cursor, sqlite3.Cursor) else SERVER
        self._run(word, statement, cursor.connection, call)
        return True

    def _connect(self, dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        """Connects to a server; a file is opened past this event."""
        return self._run(SERVER, "connect", None, lambda: dialect.connect(*arguments, **options))

    def _run(self, word: str, statement: str, connection: Any, call: Callable[[], Any]) -> Any:
        """Returns what the call does, unless the fault is due here."""
        words = " ".join(statement.lower().split())
        name = f"{word} {words[:LONGEST].strip()}"
        number, self._counts[name] = self._counts[name], self._counts[name] + 1
        if self._lines >= 0:
            os.write(self._lines, f"{name}\t{number}\n".encode())
        if self._point != Point(name, number):
            return call()
        self.struck = True
        if self._kind in ("after", UNANSWERED):
            call()
        if self._kind in ("before", "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == SQL:
            raise sqlite3.OperationalError(SAYS[self._kind])
        if self._kind == "full":
            raise psycopg.errors.DiskFull("could not extend file: No space left on device")
        if connection is not None:
            connection.close()
        raise psycopg.OperationalError(LOST)
