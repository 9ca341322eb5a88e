"""A registry that goes back, is made anew, emptied or moved, and a store that is away: served stays, and it is said."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.database import open_registry
from registry.entries import LogPosition
from registry.store import Store
from registry.tables import live, metadata
from serving.live.catalogue import RegistryCatalogue, Timely
from serving.live.follow import Follower
from serving.live.readiness import readiness
from serving.live.standing import KEPT, History
from serving.runtime import Runtime
from tests.grafts import make
from tests.registry.support import TOLD
from tests.serving.place import ENVELOPE, SPEC


@pytest.fixture(scope="module")
def grafts(tiny, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("grafts")
    for number in range(3):
        make(folder / str(number), tiny, SPEC, seed=number)
    return [folder / str(number) for number in range(3)]


@pytest.fixture(scope="module")
def runtime(tiny) -> Iterator[Runtime]:
    with Runtime(tiny, ENVELOPE, buckets=(48,), batch_sizes=(8,), max_wait=0.0) as made:
        yield made


@dataclass
class Place:
    """A registry with two tasks of two versions, the first of each live, and the server that follows it."""

    folder: Path
    grafts: list[Path]
    runtime: Runtime
    follower: Follower

    @property
    def file(self) -> Path:
        return self.folder / "registry.db"

    def promote(self, task: str, number: int) -> None:
        with contextlib.closing(open_registry(f"sqlite:///{self.file}")) as registry:
            now = registry.live(task)
            registry.promote(task, number, expected_generation=now.generation if now else 0, **TOLD)

    def publish(self, *tasks: str) -> None:
        with contextlib.closing(open_registry(f"sqlite:///{self.file}")) as registry:
            for task in tasks:
                for graft in self.grafts[:2]:
                    registry.publish(task, graft, Store(self.folder / "store"))

    def copy(self, name: str) -> Path:
        target = self.folder / name
        with (
            contextlib.closing(sqlite3.connect(self.file)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
        return target

    def replace(self, file: Path | None) -> None:
        for ending in ("", "-wal", "-shm"):
            Path(f"{self.file}{ending}").unlink(missing_ok=True)
        if file is not None:
            shutil.copyfile(file, self.file)

    def served(self) -> dict[str, str]:
        return {task: served.version for task, served in self.runtime.entries.items()}

    def poll(self) -> str:
        self.follower.poll()
        state = self.follower.state()
        assert readiness(self.runtime, self.follower).following == state.word
        assert bool(state.reason) == (state.word != "current")
        return state.word


@pytest.fixture
def place(tmp_path, grafts, runtime) -> Iterator[Place]:
    url = f"sqlite:///{tmp_path}/registry.db"
    for task in list(runtime.entries):
        runtime.remove(task)
    with contextlib.closing(open_registry(url)) as registry:
        catalogue = Timely(RegistryCatalogue(registry, Store(tmp_path / "store")))
        made = Place(tmp_path, grafts, runtime, Follower(runtime, catalogue))
        made.publish("a", "b")
        made.promote("a", 1)
        made.promote("b", 1)
        assert made.poll() == "current"
        assert made.served() == {"a": "1", "b": "1"}
        yield made
        catalogue.close()


def test_two_changes_that_cancel_out_are_seen(place):
    """A replica that lacks the last promotion, and another one since: as many as before, and other versions live."""
    stale = place.copy("stale.db")
    place.promote("a", 2)
    place.poll()
    place.replace(stale)
    place.promote("b", 2)
    assert place.poll() == "current"
    assert place.served() == {"a": "1", "b": "2"}


def test_a_replica_that_lags_is_not_followed_until_it_goes_on(place):
    stale = place.copy("stale.db")
    place.promote("a", 2)
    place.promote("b", 2)
    assert place.poll() == "current"
    whole = place.copy("whole.db")
    for _ in range(2):
        place.replace(stale)
        assert [place.poll(), place.poll()] == ["behind", "behind"]
        assert place.served() == {"a": "2", "b": "2"}
        place.replace(whole)
        assert place.poll() == "current"
    place.replace(stale)
    place.poll()
    place.promote("b", 2)
    assert place.poll() == "current", "somebody promotes there: it is the registry now"
    assert place.served() == {"a": "1", "b": "2"}


def test_a_registry_that_is_emptied_or_gone_stops_nothing(place):
    place.promote("a", 2)
    place.poll()
    whole = place.copy("whole.db")
    with contextlib.closing(sqlite3.connect(place.file)) as connection:
        for table in metadata.tables:
            if table not in ("schema", "identity"):
                connection.execute(f"delete from {table}")
        connection.commit()
    assert place.poll() == "behind"
    place.replace(None)
    assert place.poll() == "unreachable"
    place.file.write_bytes(b"")
    assert place.poll() == "unreachable"
    assert place.served() == {"a": "2", "b": "1"}
    place.replace(whole)
    place.promote("b", 2)
    assert place.poll() == "current"
    assert place.served() == {"a": "2", "b": "2"}


def test_a_registry_made_anew_is_followed_once_it_has_every_task(place):
    whole = place.copy("whole.db")
    place.replace(None)
    place.publish("a", "b")
    assert place.poll() == "another_registry"
    place.promote("a", 2)
    assert place.poll() == "another_registry"
    assert place.served() == {"a": "1", "b": "1"}
    place.replace(whole)
    assert place.poll() == "current"
    place.replace(None)
    place.publish("a", "b")
    place.promote("a", 2)
    place.promote("b", 2)
    assert place.poll() == "current"
    assert place.served() == {"a": "2", "b": "2"}


def test_live_rows_that_somebody_deleted_stop_no_task(place):
    opened = contextlib.closing(open_registry(f"sqlite:///{place.file}"))
    with opened as registry, registry.database.engine.begin() as connection:
        connection.execute(live.delete().where(live.c.task == "a"))
    place.promote("b", 2)
    assert [place.poll(), place.poll()] == ["behind", "behind"]
    assert "no live version of a" in place.follower.state().reason
    assert place.served() == {"a": "1", "b": "2"}


def test_a_store_that_is_away_or_another_one_is_said(place):
    store = place.folder / "store"
    store.rename(place.folder / "away")
    assert place.poll() == "no_store"
    store.mkdir()
    assert place.poll() == "no_store"
    Store(store).identity(create=True)
    assert place.poll() == "another_store"
    place.promote("a", 2)
    assert place.poll() == "another_store"
    assert "a" in place.follower.refused
    assert place.served() == {"a": "1", "b": "1"}
    shutil.rmtree(store)
    (place.folder / "away").rename(store)
    assert place.poll() == "current"
    assert place.served() == {"a": "2", "b": "1"}


def test_a_store_that_hangs_stops_no_promotion_of_what_is_there(tmp_path, grafts):
    """The mark of the store is a pipe that nobody writes: a read without an end."""
    url = f"sqlite:///{tmp_path}/registry.db"
    with contextlib.closing(open_registry(url)) as registry:
        registry.publish("a", grafts[0], Store(tmp_path / "store"))
        registry.promote("a", 1, expected_generation=0, **TOLD)
        (tmp_path / "store" / "store.json").unlink()
        os.mkfifo(tmp_path / "store" / "store.json")
        catalogue = RegistryCatalogue(registry, Store(tmp_path / "store"), store_seconds=0.1)
        catalogue.change()
        state = catalogue.standing(catalogue.lives(), set())
        assert (state.word, state.follows) == ("no_store", True)
        with (tmp_path / "store" / "store.json").open("w"):
            pass  # the reader ends


def position(number: int, entry: str, registry: str = "r") -> LogPosition:
    return LogPosition(registry, number, entry)


def test_a_history_knows_its_own_past_and_nothing_else():
    history = History()
    now = position(5, "e5")
    assert history.judge(now, set()).follows
    history.follow(now, {n: f"e{n}" for n in range(1, 6)})
    for number in range(1, 5):
        assert history.judge(position(number, f"e{number}"), set()).word == "behind"
        assert history.judge(position(number, "another"), set()).word == "current"
    assert history.judge(position(0, ""), set()).word == "behind"
    assert history.judge(position(5, "another"), set()).word == "current"
    assert history.judge(position(9, "e9", "s"), {"task"}).word == "another_registry"
    assert history.judge(position(9, "e9", "s"), set()).word == "current"
    far = position(5 + 2 * KEPT, "far")
    history.follow(far, {})
    assert history.judge(position(3, "forgotten"), set()).word == "behind", "too old to know: not followed"
    assert history.judge(position(4, "newer"), set()).word == "current", "but it goes on"


def test_tables_of_schema_1_are_followed_as_far_as_they_tell():
    history = History()
    history.follow(position(3, "hash3", ""), {})
    history.follow(position(4, "hash4", ""), {})
    assert history.judge(position(3, "hash3", ""), set()).word == "behind"
    assert history.judge(position(4, "other", ""), set()).word == "current"
    assert history.judge(position(4, "entry", "r"), set()).word == "current", "the same registry, brought forward"
