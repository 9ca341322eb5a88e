"""Both databases: SQLite in a file, and a real PostgreSQL that the session starts on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.database import Registry, open_registry
from registry.store import Store
from tests.grafts import make
from tests.registry.pgbouncer import pooling, program
from tests.registry.postgres import Postgres, empty_database

COUNT = 5  # different grafts


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    return empty_database(request, tmp_path / "registry.db")


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


@pytest.fixture
def published(registry: Registry, store: Store, grafts: list[Path]) -> Registry:
    """Versions 1..4 of a task; nothing is live."""
    for graft in grafts[:4]:
        registry.publish("task", graft, store)
    return registry


@pytest.fixture(scope="session")
def pooler(postgres: Postgres) -> Iterator[int]:
    """The port of a PgBouncer in transaction mode, in front of the session's PostgreSQL."""
    command = program()
    if command is None:
        pytest.skip("PgBouncer is not installed")
    with pooling(postgres, command) as port:
        yield port
