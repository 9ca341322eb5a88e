"""Full disks, stores and databases that are gone, altered artefacts, wrong places: said, and nothing is changed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import topgraft
from backbone.errors import InputError
from registry.audit import audit
from registry.collect import FORGOTTEN, collect
from registry.database import open_registry
from registry.entries import Conflict, Unavailable
from registry.sqlite import require_local
from registry.store import Store
from registry.tables import live, promotions, schema, versions
from registry.users import Uses
from tests.registry.support import TOLD, answer, flip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_nothing_half_there(store, grafts):
    store.add(grafts[0])
    before = contents(store.root)
    assert "Unavailable: store: " in (told := answer("full", store.root, grafts[1]))
    assert "File too large" in told
    assert contents(store.root) == before
    assert sorted(p.name for p in store.root.iterdir()) == sorted(["store.json", store.add(grafts[0])[1]])


def test_a_store_that_is_not_there(published, store, grafts, tmp_path):
    """As when it is not mounted: nothing is there, or an empty folder is."""
    published.promote("task", 1, expected_generation=0, **TOLD)
    store.root.rename(tmp_path / "away")
    with pytest.raises(Unavailable, match="store"):
        store.verify(published.live("task").content_id)
    with pytest.raises(Unavailable, match="store"):
        audit(published, store)
    with pytest.raises(Unavailable, match="store"):
        published.publish("task", grafts[4], store)
    store.root.mkdir()
    with pytest.raises(Unavailable, match="store"):
        published.publish("task", grafts[4], store)
    assert not list(store.root.iterdir())
    assert published.live("task").version == 1
    assert len(published.versions("task")) == 4
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        Store(tmp_path / "file" / "store").add(grafts[4])
    with pytest.raises(InputError, match="folder of something else"):
        Store(grafts[0]).add(grafts[4])
    store.root.rmdir()
    (tmp_path / "away").rename(store.root)
    assert published.publish("task", grafts[4], store).number == 5


def test_an_artefact_altered_after_publication_is_found(published, store, grafts, tiny):
    published.promote("task", 2, expected_generation=0, **TOLD)
    folder = store.path(published.live("task").content_id)
    for file in sorted(folder.iterdir()):
        whole = flip(file)
        with pytest.raises(InputError, match=f"version task 2: .*{folder.name}"):
            audit(published, store)
        with pytest.raises(InputError):
            topgraft.load(folder, tiny)
        with pytest.raises(InputError, match="remove it and publish the graft again"):
            published.publish("task", grafts[1], store)
        file.write_bytes(whole)
    other = store.path(published.version("task", 3).content_id)
    shutil.move(folder, folder.with_name("kept"))
    shutil.copytree(other, folder)
    with pytest.raises(InputError, match="holds another graft"):
        audit(published, store)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such graft"):
        audit(published, store)
    assert published.publish("task", grafts[1], store).number == 2
    assert audit(published, store).orphans == ["kept"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (promotions.delete().where(promotions.c.generation == 2), "the log has gaps"),
        (promotions.update().where(promotions.c.generation == 2).values(from_version=4), "does not follow"),
        (promotions.update().where(promotions.c.generation == 2).values(to_version=9), "names version 9, unknown"),
        (live.update().values(version=4), r"live \(version, generation\) is \(4, 3\), the log ends with \(3, 3\)"),
        (live.update().values(content_id="x"), "live is x, version 3 is sha256"),
        (live.update().values(previous=1), "a rollback would go to 1, by the log it should go to 2"),
        (live.delete(), "is None, the log ends with"),
        (versions.update().where(versions.c.number == 3).values(state="collected"), "is live and its artefact was"),
        (versions.delete().where(versions.c.number == 2), r"version numbers have gaps: \[1, 3, 4\]"),
    ],
)
def test_a_history_that_somebody_mended_by_hand_is_found(published, store, change, found):
    for generation, number in enumerate((1, 2, 3)):
        published.promote("task", number, expected_generation=generation, **TOLD)
    audit(published, store)
    with published.database.engine.begin() as connection:
        connection.execute(change)
    with pytest.raises(InputError, match=found):
        audit(published, store)


def test_gc_spares_what_is_live_was_live_or_is_leased(published, store, grafts, tmp_path):
    published.publish("task", grafts[4], store)
    for graft in grafts[:3]:
        published.publish("other", graft, store)
    for generation, number in enumerate((1, 2, 3)):
        published.promote("task", number, expected_generation=generation, **TOLD)
    published.rollback("task", actor="tests", reason="bad")  # live 2, before it 1, live last 3
    lease = published.acquire("task", "me", 600.0)
    told = collect(published, store, keep=0)
    assert (told.versions, told.leased, told.removed) == ({"other": [1, 2, 3]}, ["task"], [])
    published.release(lease)
    before = contents(store.root)
    told = collect(published, store, keep=0, dry_run=True)
    assert told.versions == {"task": [4, 5]}
    assert contents(store.root) == before
    assert collect(published, store, keep=2, dry_run=True).versions == {}
    done = collect(published, store, keep=0)
    assert (done.versions, done.bytes) == (told.versions, told.bytes)
    assert sorted(done.removed) == sorted(told.removed) == sorted(published.version("task", n).path for n in (4, 5))
    assert [v.state for v in published.versions("task")] == ["collected"] * 2 + ["published"] * 3
    assert audit(published, store).collected == 5
    with pytest.raises(InputError, match="version 4 was collected; publish it again"):
        published.promote("task", 4, expected_generation=4, **TOLD)
    assert published.publish("task", grafts[3], store).number == 4
    published.promote("task", 4, expected_generation=4, **TOLD)
    audit(published, store)
    debris = [store.root / name for name in (f".{'0' * 64}.tmp-x", f".{'1' * 64}.gone", "2" * 64, "3" * 64)]
    uses = Uses(store, published.change().registry)
    for path in debris:
        path.mkdir()
    for path in debris[2:]:
        uses.begin(path.name)  # as a publication that was killed before its version was there
    os.utime(debris[0], (0, 0))
    os.utime(debris[2], times=(p := debris[3].stat().st_mtime - FORGOTTEN - 60, p))
    assert sorted(collect(published, store, keep=10).removed) == sorted(path.name for path in debris[:3])
    assert list(uses.under_way()) == [debris[3].name]
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.add(grafts[0])
    with pytest.raises(InputError, match="not mounted"):
        collect(published, elsewhere, keep=10)


def test_a_sqlite_file_that_vanishes_or_is_exchanged(tmp_path, store, grafts):
    path = tmp_path / "registry.db"
    with contextlib.closing(open_registry(f"sqlite:///{path}")) as registry:
        registry.publish("task", grafts[0], store)
        registry.promote("task", 1, expected_generation=0, **TOLD)
        files = [p for p in tmp_path.iterdir() if p.name.startswith(path.name)]
        for file in files:
            file.rename(tmp_path / f"away-{file.name}")
        for call in (
            lambda: registry.live("task"),
            lambda: registry.promote("task", 1, expected_generation=1, **TOLD),
            lambda: registry.acquire("task", "me", 1.0),
        ):
            with pytest.raises(Unavailable, match="unable to open database file"):
                call()
        assert not path.exists()
        open_registry(f"sqlite:///{path}").close()
        assert registry.live("task") is None, "another file, read anew"
        for file in tmp_path.glob(f"{path.name}*"):
            file.unlink()
        for file in files:
            (tmp_path / f"away-{file.name}").rename(file)
        assert registry.live("task").generation == 1


def test_a_postgresql_that_goes_away_and_comes_back(postgres, store, grafts):
    with contextlib.closing(open_registry(postgres.schema())) as registry:
        registry.publish("task", grafts[0], store)
        registry.promote("task", 1, expected_generation=0, **TOLD)
        lease = registry.acquire("task", "me", 600.0)
        postgres.stop()
        try:
            for call in (
                lambda: registry.live("task"),
                lambda: registry.promote("task", 1, expected_generation=1, fence=lease.token, **TOLD),
                lambda: registry.renew(lease),
            ):
                with pytest.raises(Unavailable, match="postgresql"):
                    call()
        finally:
            postgres.start()
        assert registry.live("task").generation == 1
        registry.renew(lease)


def test_a_transaction_that_stands_still_is_ended_by_postgresql(postgres):
    """As of a process that was stopped while it wrote; the others do not wait for it for ever."""
    with contextlib.closing(open_registry(url := postgres.schema())) as registry:
        with registry.database.writing("task") as connection:
            shown = connection.exec_driver_sql("show idle_in_transaction_session_timeout").scalar_one()
        assert shown == "30s"
        with registry.database.reading() as connection:
            shown = connection.exec_driver_sql("show idle_in_transaction_session_timeout").scalar_one()
        assert shown == "0", "the limit went with its transaction"
        with contextlib.closing(open_registry(url)) as other, contextlib.ExitStack() as standing:
            connection = standing.enter_context(registry.database.writing("task"))
            connection.exec_driver_sql("set idle_in_transaction_session_timeout = '50ms'")
            assert other.acquire("task", "me", 1.0).token == 1
            with pytest.raises(Unavailable, match="idle-in-transaction"):
                standing.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("registry.db", "is no URL"),
        ("mysql://host/name", "expected sqlite:///PATH or postgresql"),
        ("postgresql+asyncpg://host/name", "expected sqlite:///PATH or postgresql"),
        ("sqlite://", "gone with the process"),
        ("sqlite:///:memory:", "gone with the process"),
        ("sqlite:///text", "is no SQLite database"),
    ],
)
def test_urls_that_cannot_be_used(url, told, tmp_path):
    (tmp_path / "text").write_text("no database, but long enough")
    with pytest.raises(InputError, match=told):
        open_registry(url)


def test_a_database_that_does_not_answer_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match=r"postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/none"):
        open_registry("postgresql://me:secret@127.0.0.1:1/none")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        open_registry(f"sqlite:///{tmp_path}/file/registry.db")


def test_another_schema_is_refused_and_a_registry_is_only_made_when_asked(url, registry):
    with registry.database.engine.begin() as connection:
        connection.execute(schema.update().values(version=5))
    with pytest.raises(InputError, match="schema 5: this version of topgraft reads schema 4; use the version that"):
        open_registry(url)
    with pytest.raises(InputError, match=r"registry: none at sqlite:///nowhere\.db"):
        open_registry("sqlite:///nowhere.db", create=False)
    assert not Path("nowhere.db").exists()


def test_opening_a_file_again_keeps_the_locks_of_what_is_open(tmp_path):
    """Else another process takes itself for the last client when it closes, and removes the log beside the file."""
    path = tmp_path / "registry.db"
    url = f"sqlite:///{path}"
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from leases').fetchall(); c.close()"
    )
    with contextlib.closing(open_registry(url)) as registry:
        registry.acquire("task", "me", 600.0)
        open_registry(url).close()
        subprocess.run([sys.executable, "-c", code, path], check=True)
        assert Path(f"{path}-wal").exists()
        assert registry.acquire("other", "me", 600.0).token == 1
    assert not Path(f"{path}-wal").exists(), "the last client tidies up"


def test_a_foreign_writer_is_waited_for(tmp_path):
    """Readers do not wait at all."""
    url = f"sqlite:///{tmp_path}/registry.db"
    with contextlib.closing(open_registry(url)) as registry, contextlib.closing(open_registry(url)) as other:
        with contextlib.closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as foreign:
            foreign.execute("begin immediate")
            assert registry.lives() == {}
            foreign.execute("commit")
        assert registry.acquire("task", "me", 600.0).token == 1
        with pytest.raises(Conflict):
            other.check_fence(other.acquire("other", "me", 1e-6))


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
//server/share /mnt/two\\040words cifs rw 0 0
sshfs /mnt/ssh fuse.sshfs rw 0 0
/dev/sdb /home/local xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/registry.db", "nfs4"),
        ("/mnt/two words/registry.db", "cifs"),
        ("/mnt/ssh/registry.db", "fuse.sshfs"),
        ("/home/local/registry.db", None),
        ("/homes/registry.db", None),
    ],
)
def test_network_file_systems_are_refused(path, kind, tmp_path):
    (tmp_path / "mounts").write_text(MOUNTS)
    if kind is None:
        require_local(Path(path), tmp_path / "mounts")
    else:
        with pytest.raises(InputError, match=rf"network file system \({kind}\).*use a local disk, or postgresql"):
            require_local(Path(path), tmp_path / "mounts")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("delete from identity", "a table that holds one row has none, or several"),
        ("delete from schema", "a table that holds one row has none, or several"),
        ("insert into schema values (1, null)", "a table that holds one row has none, or several"),
        ("update versions set lineage = '{'", "a cell that should be JSON is '{'"),
        ("update versions set metrics = 7.5", "a cell that should be JSON is 7.5"),
        ("update promotions set gate = ''", "a cell that should be JSON is ''"),
        (f"update versions set lineage = '{'[' * 100_000}'", "a cell that should be JSON is"),
    ],
)
def test_damaged_tables_are_refused_with_a_remedy(tmp_path, grafts, statement, message):
    url, store = f"sqlite:///{tmp_path}/registry.db", Store(tmp_path / "store")
    with contextlib.closing(open_registry(url)) as registry:
        registry.publish("task", grafts[0], store)
        registry.promote("task", 1, expected_generation=0, **TOLD)
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as connection:
        connection.execute(statement)
    with (
        pytest.raises(InputError, match=re.escape(message)) as caught,
        contextlib.closing(open_registry(url, create=False)) as registry,
    ):
        registry.change(), registry.versions("task"), registry.promotions("task")
    assert "restore the registry from a copy, or import an export" in str(caught.value)
