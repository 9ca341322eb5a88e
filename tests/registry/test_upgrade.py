"""Tables of schema 1: reading takes them as they are, the first write or the verb brings them forward."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from backbone.errors import InputError
from registry.audit import audit
from registry.collect import collect
from registry.database import Registry, open_registry
from registry.entries import LeaseHeld, Unavailable
from registry.store import USERS, Store
from registry.tables import SCHEMA, decisions, identity, leases, log, precisions, schema
from registry.transfer import bring_in, export, read
from registry.users import Uses
from tests.registry.support import TOLD, shift_clock


@pytest.fixture
def former(url: str, published: Registry, store: Store) -> str:
    """The URL of a registry as a former version left it: three promotions, and nobody's mark in the store."""
    for generation, number in enumerate((1, 2, 3)):
        published.promote("task", number, expected_generation=generation, **TOLD)
    back_to_schema_1(published)
    for path in sorted((store.root / USERS).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (store.root / USERS).rmdir()
    return url


def back_to_schema_1(registry: Registry) -> None:
    with registry.database.engine.begin() as connection:
        for table in (identity, log, decisions, precisions):
            table.drop(connection)
        connection.execute(schema.update().values(version=1))


def version_of(registry: Registry) -> int:
    with registry.database.reading() as connection:
        return registry.database.look(connection)


def test_reading_leaves_a_former_registry_as_it_is(former, store):
    with contextlib.closing(open_registry(former, create=False)) as registry:
        assert registry.live("task").version == 3
        assert [v.number for v in registry.versions("task")] == [4, 3, 2, 1]
        assert audit(registry, store).promotions == 3
        before = registry.change()
        assert (before.registry, before.position) == ("", 3)
        assert registry.change() == before
        assert registry.entries(0, 10) == {}
        assert collect(registry, store, keep=0, dry_run=True).versions == {"task": [1, 4]}
        assert version_of(registry) == 1
        with contextlib.closing(open_registry(former)) as writer:
            writer.promote("task", 1, expected_generation=3, **TOLD)
        after = registry.change()
        assert len(after.registry) == 32, "it notices that another process brought it forward"
        assert after.position == 4


def test_the_first_write_brings_it_forward(former, store, grafts):
    with contextlib.closing(open_registry(former)) as registry:
        assert registry.publish("task", grafts[4], store).number == 5
        assert version_of(registry) == SCHEMA
        assert sorted(registry.entries(0, 10)) == [1, 2, 3]
        assert collect(registry, store, keep=1).versions == {"task": [1, 4]}
        assert set(Uses(store, registry.change().registry).named()) == {
            version.path for version in registry.versions("task") if version.state == "published"
        }
        assert audit(registry, store).versions == 3
        assert registry.database.upgrade() == SCHEMA, "there is nothing left to do"


def test_no_upgrade_under_a_run_of_the_former_version(former):
    with contextlib.closing(open_registry(former)) as registry:
        with registry.database.engine.begin() as connection:
            now = registry.database.time(connection)
            values = {"task": "task", "owner": "other", "token": 1, "expires_at": now + 60, "seconds": 60.0}
            connection.execute(leases.insert().values(**values))
        with pytest.raises(LeaseHeld, match="leased by other"):
            registry.promote("task", 1, expected_generation=3, **TOLD)
        assert version_of(registry) == 1
        shift_clock(registry, 120)
        assert registry.promote("task", 1, expected_generation=3, **TOLD).generation == 4


def test_an_upgrade_that_fails_leaves_the_former_tables(former, monkeypatch):
    def fails(connection: object) -> None:
        raise RuntimeError("killed")

    with contextlib.closing(open_registry(former)) as registry:
        with monkeypatch.context() as patched:
            patched.setattr("registry.upgrade.fill_log", fails)
            with pytest.raises(RuntimeError, match="killed"):
                registry.database.upgrade()
        assert version_of(registry) == 1
        with registry.database.reading() as connection:
            namespace = registry.database.namespace
            assert not registry.database.engine.dialect.has_table(connection, "identity", schema=namespace)
        assert registry.database.upgrade() == 1
        assert version_of(registry) == SCHEMA


def test_an_export_of_a_former_registry_is_imported_and_brought_forward(former, tmp_path):
    with contextlib.closing(open_registry(former)) as registry:
        counts = export(registry, tmp_path / "former.jsonl")
    assert {"identity", "log"}.isdisjoint(counts)
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/new.db")) as registry:
        bring_in(registry, read(tmp_path / "former.jsonl"))
        assert version_of(registry) == SCHEMA
        assert registry.change().position == len(registry.promotions("task")) == 3


@pytest.fixture
def published_file(tmp_path: Path, store: Store, grafts: list[Path]) -> Path:
    """A SQLite registry with a live version, closed."""
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/ro/registry.db")) as registry:
        registry.publish("task", grafts[0], store)
        registry.promote("task", 1, expected_generation=0, **TOLD)
    return tmp_path / "ro" / "registry.db"


@contextlib.contextmanager
def without_writing(monkeypatch: pytest.MonkeyPatch, path: Path):
    """The answer of a read-only file system; the superuser of a container may write everywhere else."""
    access = os.access
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda place, mode: mode != os.W_OK and access(place, mode))
        modes = [(each, each.stat().st_mode) for each in (path.parent, *path.parent.iterdir())]
        for each, mode in modes:
            each.chmod(mode & ~0o222)
        yield
        for each, mode in modes:
            if each.exists():
                each.chmod(mode)


def test_a_file_that_may_not_be_written_is_read(published_file, store, monkeypatch):
    url = f"sqlite:///{published_file}"
    with without_writing(monkeypatch, published_file):
        before = sorted(path.name for path in published_file.parent.iterdir())
        with contextlib.closing(open_registry(url, create=False)) as registry:
            assert registry.live("task").version == 1
            assert registry.change().position == 1
            assert audit(registry, store).versions == 1
            assert collect(registry, store, keep=0, dry_run=True).removed == []
            with pytest.raises(Unavailable, match="readonly"):
                registry.acquire("task", "me", 1.0)
        assert sorted(path.name for path in published_file.parent.iterdir()) == before


def test_a_reader_without_the_right_to_write_sees_what_a_writer_does(published_file, store, grafts, monkeypatch):
    url = f"sqlite:///{published_file}"
    with contextlib.closing(open_registry(url)) as writer:
        writer.publish("task", grafts[1], store)
        with (
            without_writing(monkeypatch, published_file),
            contextlib.closing(open_registry(url, create=False)) as reader,
        ):
            assert len(reader.versions("task")) == 2
            writer.promote("task", 2, expected_generation=1, **TOLD)
            assert reader.live("task").version == 2


def test_reading_makes_nothing_and_changes_nothing_else(tmp_path):
    foreign = tmp_path / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("create table users (name text)")
        connection.commit()
    empty = tmp_path / "empty.db"
    empty.write_bytes(b"")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("foreign.db", "empty.db", "nothing.db", "folder/nothing.db"):
        with pytest.raises(InputError, match=rf"registry: none at .*{name}"):
            open_registry(f"sqlite:///{tmp_path}/{name}", create=False)
    with pytest.raises(InputError, match=r"beside it lies foreign\.db"):
        open_registry(f"sqlite:///{tmp_path}/foriegn.db", create=False)
    with pytest.raises(InputError, match=r"tables of something else \(users\)"):
        open_registry(f"sqlite:///{foreign}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
