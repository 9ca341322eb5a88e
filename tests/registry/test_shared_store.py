"""Several registries on one store, and things in it that are nobody's: each gc removes only what is its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbone.errors import InputError
from registry.audit import audit
from registry.collect import FORGOTTEN, LOST, collect
from registry.database import Registry, open_registry
from registry.entries import Unavailable
from registry.store import USERS, Store, rows_name
from registry.users import Uses
from tests.registry.support import TOLD


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Registry]:
    """A second registry, which shares the store."""
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/other.db")) as opened:
        yield opened


def folders(store: Store) -> set[str]:
    return {path.name for path in store.root.iterdir() if len(path.name) == 64}


def aged(*paths: Path, seconds: float = 2 * FORGOTTEN) -> None:
    for path in paths:
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)


def everything(store: Store) -> list[Path]:
    return [path for path in (store.root, *store.root.rglob("*")) if path.name != "store.json"]


def test_gc_of_one_registry_takes_nothing_of_another(published, other, store, grafts):
    """Neither what only the other one names, nor what both do; the last one that names it removes it."""
    for graft in grafts[1:]:
        other.publish("theirs", graft, store)
    other.promote("theirs", 4, expected_generation=0, **TOLD)
    aged(*everything(store), seconds=2 * LOST)
    before = folders(store)
    (only,) = before - {version.path for version in published.versions("task")}
    first = collect(other, store, keep=0)
    assert (first.versions, first.removed) == ({"theirs": [1, 2, 3]}, [])
    assert sorted(first.shared) == sorted(other.version("theirs", n).path for n in (1, 2, 3))
    assert folders(store) == before
    assert audit(published, store).orphans == audit(other, store).orphans == []
    told = collect(published, store, keep=0, dry_run=True)
    last = collect(published, store, keep=0)
    assert told.removed == last.removed == sorted(before - {only})
    assert folders(store) == {only}
    assert audit(other, store).versions == 1


def test_a_publisher_and_a_collector_that_meet(published, other, store, grafts, monkeypatch):
    """Whoever comes second sees the first: the artefact stays, or the publisher is told to publish again."""
    version = published.version("task", 1)
    begin = Uses.begin

    def meanwhile(self: Uses, name: str) -> None:
        begin(self, name)
        assert collect(published, store, keep=3).shared == [name]

    with monkeypatch.context() as patched:
        patched.setattr(Uses, "begin", meanwhile)
        other.publish("theirs", grafts[0], store)
    assert store.path(version.content_id).exists()
    rename = Path.rename

    def seen_late(self: Path, target: Path) -> Path:
        if self.name == version.path:
            Uses(store, published.change().registry).begin(version.path)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", seen_late)
    assert collect(other, store, keep=0).shared == [version.path]
    assert store.path(version.content_id).exists()


def test_what_is_nobodys_is_left(published, store):
    root, row = store.root, published.version("task", 1)
    (root / "notes").mkdir()
    (root / "notes" / "keep.txt").write_text("mine")
    (root / "lost+found").mkdir()
    (root / ".snapshot").mkdir()
    (root / ("a" * 64)).mkdir()
    (root / "file.txt").write_text("mine")
    os.mkfifo(root / "pipe")
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "keep.txt").write_text("mine")
    for name in ("link", f".{'1' * 64}.gone", f".{'2' * 64}.tmp-x"):
        (root / name).symlink_to(outside)
    (root / f".{'3' * 64}.gone").mkdir()
    (root / f".{'3' * 64}.gone" / "notes.txt").write_text("mine")
    (root / published.version("task", 2).path / "extra").symlink_to(outside)
    shutil.move(root / row.path, outside / "moved")
    (root / row.path).symlink_to(outside / "moved")
    aged(*everything(store), seconds=2 * LOST)
    before = {path.name for path in root.iterdir()}
    told, done = collect(published, store, keep=0, dry_run=True), collect(published, store, keep=0)
    assert told.removed == done.removed == sorted(published.version("task", n).path for n in (3, 4))
    assert told.left.keys() == done.left.keys()
    assert done.left[row.path] == "no folder"
    assert "extra, which is no part of a graft" in done.left[published.version("task", 2).path]
    assert before - {path.name for path in root.iterdir()} == set(done.removed)
    assert [path.name for path in outside.iterdir()] == ["keep.txt", "moved"] or (outside / "keep.txt").exists()
    assert (outside / "moved" / "manifest.json").exists()


def test_gc_removes_files_that_killed_writers_left(published, store):
    """A file that a living writer holds stays, and so does one of somebody else."""
    places = ("store.json", f"{'0' * 32}.rows.npz", f"{'1' * 32}.rows.npz", "notes")
    names = [f".{place}.tmp-1a2b3c4d" for place in places]
    for name in names:
        (store.root / name).write_text("half")
    with (store.root / names[2]).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        collect(published, store, keep=0, dry_run=True)
        assert all((store.root / name).exists() for name in names)
        collect(published, store, keep=10)
        assert [(store.root / name).exists() for name in names] == [False, False, True, True]


def test_a_fresh_volume_is_a_store(registry, tmp_path, grafts):
    store = Store(tmp_path / "volume")
    (store.root / "lost+found").mkdir(parents=True)
    assert registry.publish("task", grafts[0], store).number == 1
    assert audit(registry, store).orphans == []


def test_a_publication_that_died_is_removed_and_a_version_that_is_not_known_is_kept(published, store, grafts):
    """The second as after a failover to a replica that lacks the last version."""
    uses = Uses(store, published.change().registry)
    _, dead = store.add(grafts[4])
    uses.begin(dead)
    assert collect(published, store, keep=10).removed == []
    aged(store.root / dead)
    assert collect(published, store, keep=10, dry_run=True).removed == [dead]
    assert collect(published, store, keep=10).removed == [dead]
    assert uses.under_way() == {}
    _, lost = store.add(grafts[4])
    uses.finish(lost)
    aged(*everything(store))
    assert collect(published, store, keep=10).removed == []
    assert audit(published, store).orphans == [lost]
    aged(*everything(store), seconds=2 * LOST)
    assert collect(published, store, keep=10).removed == [lost]


def test_a_registry_that_left_no_marks_is_marked(published, store):
    """As one of a former version, or after a kill between a version and its mark."""
    shutil.rmtree(store.root / USERS)
    uses = Uses(store, published.change().registry)
    uses.begin(published.version("task", 2).path)
    assert collect(published, store, keep=3).removed == [published.version("task", 1).path]
    assert set(uses.named()) == {version.path for version in published.versions("task", 3)}
    assert uses.under_way() == {}


def test_a_copy_of_a_registry_collects_nothing(tmp_path, store, grafts):
    url = f"sqlite:///{tmp_path}/registry.db"
    with contextlib.closing(open_registry(url)) as registry:
        for graft in grafts:
            registry.publish("task", graft, store)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "registry.db")) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as target,
    ):
        source.backup(target)
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/copy.db")) as copy:
        for dry_run in (True, False):
            with pytest.raises(InputError, match=r"a copy, whose gc would remove what the original names.*--moved"):
                collect(copy, store, keep=0, dry_run=dry_run)
        assert len(folders(store)) == 5
        (tmp_path / "registry.db").rename(tmp_path / "away.db")
        assert len(collect(copy, store, keep=4).removed) == 1, "the file was moved, not copied"
    with contextlib.closing(open_registry(f"sqlite:///{tmp_path}/away.db")) as away:
        with pytest.raises(InputError, match="copy"):
            collect(away, store, keep=0)
        assert len(collect(away, store, keep=3, moved=True).removed) == 1


def test_a_store_that_takes_no_marks_publishes_nothing(registry, store, grafts):
    store.identity(create=True)
    (store.root / USERS).write_text("no folder")
    with pytest.raises(Unavailable, match=USERS):
        registry.publish("task", grafts[0], store)
    assert registry.tasks() == []
    assert folders(store) == set()


def test_gc_removes_hashes_of_rows_that_no_artefact_was_made_from(published, store):
    """Those of an artefact of anybody stay, and so does a file that a publication may be about to use."""
    kept = [rows_name(store.verify(published.version("task", n).content_id).training.data) for n in (1, 2, 3, 4)]
    gone, fresh = f"{'0' * 32}.rows.npz", f"{'1' * 32}.rows.npz"
    for name in {*kept, gone, fresh}:
        (store.root / name).write_text("hashes")
    aged(*(store.root / name for name in {*kept, gone}))
    damaged = store.root / ("a" * 64)
    damaged.mkdir()
    result = collect(published, store, keep=10)
    assert (result.rows, list(result.left)) == ([], [damaged.name]), "nobody knows from which rows it was made"
    damaged.rmdir()
    assert collect(published, store, keep=10, dry_run=True).rows == [gone]
    result = collect(published, store, keep=10)
    assert (result.rows, result.bytes) == ([gone], len("hashes"))
    assert {path.name for path in store.root.glob("*.rows.npz")} == {*kept, fresh}
