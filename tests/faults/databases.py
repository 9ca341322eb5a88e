"""The database of an enumeration: a file below the root, or a PostgreSQL. Each is emptied, kept and restored."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg


class Database(Protocol):
    """The database of the world's registry."""

    @property
    def url(self) -> str:
        """Returns the URL of the registry."""

    def exists(self) -> bool:
        """Returns whether there may be a registry."""

    def empty(self) -> None:
        """Makes it empty; a file goes with the root."""

    def keep(self, name: str) -> None:
        """Keeps what it holds as the template of a scenario; a file is kept with the root."""

    def restore(self, name: str) -> None:
        """Makes it what it was before a scenario."""

    def remove(self) -> None:
        """Removes the registry."""

    def run(self, *statements: str) -> None:
        """Executes statements."""


@dataclass(frozen=True)
class SqliteFile:
    """A file below the root."""

    file: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    def exists(self) -> bool:
        return self.file.exists()

    def empty(self) -> None:
        pass

    def keep(self, name: str) -> None:
        pass

    def restore(self, name: str) -> None:
        pass

    def remove(self) -> None:
        for file in self.file.parent.glob(f"{self.file.name}*"):
            file.unlink()

    def run(self, *statements: str) -> None:
        with contextlib.closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)


@dataclass(frozen=True)
class Server:
    """A database of a PostgreSQL server; templates are databases beside it."""

    port: int

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://topgraft@127.0.0.1:{self.port}/registry"

    def exists(self) -> bool:
        return True

    def empty(self) -> None:
        self._copy("template0", "registry")

    def keep(self, name: str) -> None:
        self._copy("registry", _identifier(name))

    def restore(self, name: str) -> None:
        self._copy(_identifier(name), "registry")

    def remove(self) -> None:
        self.empty()

    def run(self, *statements: str) -> None:
        self._execute("registry", *statements)

    def _copy(self, source: str, target: str) -> None:
        """Replaces a database by a copy of another; who is connected to either is cut off."""
        cut = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{source}'"
        self._execute(
            "postgres",
            cut,
            f"drop database if exists {target} with (force)",
            f"create database {target} template {source}",
        )

    def _execute(self, database: str, *statements: str) -> None:
        where = f"host=127.0.0.1 port={self.port} user=topgraft dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type, unused-ignore] # no input of a stranger


def _identifier(name: str) -> str:
    return "t_" + re.sub(r"\W+", "_", name.lower())
