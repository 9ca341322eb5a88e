"""Both databases: SQLite in a file, and a real PostgreSQL that the session starts on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from registry.database import Registry, open_registry
from registry.store import Store
from tests.adapters.test_artifact import make

COUNT = 5  # different grafts


class Postgres:
    """A cluster of its own in a temporary folder; everything in it goes with the session."""

    def __init__(self, folder: Path, binaries: Path):
        self._data, self._log, self._binaries = folder / "data", folder / "log", binaries
        # PostgreSQL refuses to run as root
        self._user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._call("initdb", "--pgdata", self._data, "--auth", "trust", "--username", "topgraft", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
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
            subprocess.run(command, stdout=log, stderr=log, check=True, cwd="/", **self._user)

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def schema(self) -> str:
        """URL of an empty schema."""
        name = f"s{uuid.uuid4().hex}"
        with psycopg.connect(
            f"host=127.0.0.1 port={self.port} user=topgraft dbname=postgres", autocommit=True
        ) as admin:
            admin.execute(f"create schema {name}")
        return f"postgresql+psycopg://topgraft@127.0.0.1:{self.port}/postgres?options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found and not folders:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="topgraft-postgres-") as folder:
        server = Postgres(Path(folder), Path(found).parent if found else folders[-1])
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return request.getfixturevalue("postgres").schema()


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with contextlib.closing(open_registry(url)) as opened:
        yield opened


@pytest.fixture(scope="session")
def grafts(tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Different grafts on the tiny backbone; nobody changes them."""
    folder = tmp_path_factory.mktemp("grafts")
    for number in range(COUNT):
        make(folder / str(number), tiny, seed=number)
    return [folder / str(number) for number in range(COUNT)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
