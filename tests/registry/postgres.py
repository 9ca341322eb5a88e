"""A real PostgreSQL on loopback, in a temporary folder: for the tests and for benchmarks/registry.py."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    import pytest


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL of this machine."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    return debian[-1] if debian else Path(found).parent if found else None


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    """A server with the programs of `folder`; it and its data go when the block ends."""
    with tempfile.TemporaryDirectory(prefix="topgraft-postgres-") as place:
        server = Postgres(Path(place), folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class Postgres:
    """A cluster of its own in a folder; one that is there already is used, on another port."""

    def __init__(self, folder: Path, binaries: Path, environment: Mapping[str, str] | None = None):
        self._data, self._log, self._binaries = folder / "data", folder / "log", binaries
        self._environment = os.environ | (environment or {})
        # PostgreSQL refuses to run as root
        self._user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres", "postgres")
        self.port = free_port()
        if not (self._data / "PG_VERSION").exists():
            self._make()
        with (self._data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"port = {self.port}\n")  # the last line of a setting counts

    def _make(self) -> None:
        self._call("initdb", "--pgdata", self._data, "--auth", "trust", "--username", "topgraft", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
                "fsync = off\nmax_connections = 50\nshared_buffers = '16MB'\n"
            )

    def _call(self, program: str, *arguments: object) -> None:
        command = [self._binaries / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._user)
        assert done.returncode == 0, done.stdout + done.stderr + (self._log.read_text() if self._log.exists() else "")

    def start(self) -> None:
        with self._log.open("a") as log:
            command = [self._binaries / "pg_ctl", "start", "-w", "-t", "120", "-D", str(self._data)]
            # the server keeps the files that pg_ctl hands it: a pipe would never end
            run = {"cwd": "/", "env": self._environment, **self._user}
            subprocess.run(command, stdout=log, stderr=log, check=True, **run)

    def stop(self, mode: str = "immediate") -> None:
        self._call("pg_ctl", "stop", "-w", "-m", mode, "-D", self._data)

    def replica(self, folder: Path) -> None:
        """Keeps the data as they are now in a folder, as a replica that gets no more."""
        shutil.rmtree(folder, ignore_errors=True)
        self.stop("fast")
        subprocess.run(["cp", "-a", str(self._data), str(folder)], check=True)
        self.start()

    def fail_over(self, folder: Path) -> None:
        """Goes on with the data of a replica."""
        self.stop()
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", str(folder), str(self._data)], check=True)
        with (self._data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"port = {self.port}\n")
        self.start()

    def schema(self) -> str:
        """URL of an empty schema."""
        name = f"s{uuid.uuid4().hex}"
        with psycopg.connect(
            f"host=127.0.0.1 port={self.port} user=topgraft dbname=postgres", autocommit=True
        ) as admin:
            admin.execute(f"create schema {name}")
        return f"postgresql+psycopg://topgraft@127.0.0.1:{self.port}/postgres?options=-csearch_path%3D{name}"


def empty_database(request: pytest.FixtureRequest, file: Path) -> str:
    """Returns the URL of an empty database of the kind that the fixture's parameter names."""
    if request.param == "sqlite":
        return f"sqlite:///{file}"
    return str(request.getfixturevalue("postgres").schema())
