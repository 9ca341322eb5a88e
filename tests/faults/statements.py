"""Numbers the statements that SQLAlchemy hands to the driver, and strikes one of them.

A fault is what SQLite says of it: "database or disk is full" or "disk I/O error".
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from typing import Any

from sqlalchemy import Engine, event

from tests.faults.library import SQL, Point

LONGEST = 100  # characters of a statement in its name
SAYS = {"full": "database or disk is full", "broken": "disk I/O error"}


class Statements:
    """The statements of this process."""

    def __init__(self, lines: int, point: Point | None, kind: str):
        self._lines, self._point, self._kind = lines, point, kind
        self._counts: Counter[str] = Counter()
        self.struck = False
        event.listen(Engine, "do_execute", self._execute)
        event.listen(Engine, "do_execute_no_params", self._execute_alone)

    def _execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        return self._run(cursor, statement, (parameters,))

    def _execute_alone(self, cursor: Any, statement: str, context: Any) -> bool:
        return self._run(cursor, statement, ())

    def _run(self, cursor: Any, statement: str, parameters: tuple[Any, ...]) -> bool:
        """Executes a statement unless a fault comes before it; True tells SQLAlchemy that it is done."""
        words = " ".join(statement.lower().split())
        name = f"{SQL} {words[:LONGEST].strip()}"
        number, self._counts[name] = self._counts[name], self._counts[name] + 1
        if self._lines >= 0:
            os.write(self._lines, f"{name}\t{number}\n".encode())
        struck = self._point == Point(name, number)
        self.struck |= struck
        if struck and self._kind == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if struck and self._kind in SAYS:
            raise sqlite3.OperationalError(SAYS[self._kind])
        cursor.execute(statement, *parameters)
        if struck:
            os.kill(os.getpid(), signal.SIGKILL)
        return True
