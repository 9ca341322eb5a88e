"""`retrain` while something breaks: the right exit status, an untouched champion, and the next run goes on."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.store import Store
from tests.registry.support import shift_clock
from tests.tiny import as_json, rows
from tests.trainers.retrain.place import TABLE, Place
from trainers.retrain.attempt import attempt
from trainers.retrain.outcome import Outcome


def broken(place: Place, at: str, fault: Callable[[], object], lease: float = 4.0) -> Outcome:
    """A run in which `fault` happens before the step `at`."""
    return attempt(place.job(lease), lambda step: fault() if step == at else None)


def champion(place: Place) -> tuple[object, dict[Path, bytes]]:
    """What is live, and the bytes of the store."""
    files = {path: path.read_bytes() for path in place.store.rglob("*") if path.is_file()}
    return place.registry.live("tiny"), files


@pytest.fixture
def begun(place: Place) -> Place:
    """A champion, and new rows."""
    assert place.run()["live"] == 1
    place.data(TABLE + rows(20, seed=6))
    return place


def test_a_store_that_goes_away(begun, tmp_path):
    """As when its disk is no longer mounted: nothing is there, or an empty folder is."""
    place, before, away = begun, champion(begun), tmp_path / "away"
    for at, empty in (("diagnose", False), ("gate", False), ("publish", False), ("publish", True)):

        def unmount(empty: bool = empty) -> None:
            place.store.rename(away)
            if empty:
                place.store.mkdir()

        outcome = broken(place, at, unmount)
        assert (outcome.exit, outcome.action) == (1, "error"), (at, outcome.reason)
        assert "store: " in outcome.reason
        if empty:
            place.store.rmdir()  # still empty: it was not taken for a new store
        away.rename(place.store)
        assert champion(place) == before
    assert [v.number for v in place.registry.versions("tiny")] == [1]
    assert (place.run()["exit"], place.live()) == (0, 2)


def test_a_sqlite_file_that_goes_away(begun, tmp_path):
    place = begun
    before = champion(place)[0]

    def vanish() -> None:
        for file in tmp_path.glob("registry.db*"):
            file.rename(tmp_path / f"away-{file.name}")

    for at, left in (("train", [1]), ("publish", [1]), ("promote", [2, 1])):
        outcome = broken(place, at, vanish)
        assert (outcome.exit, "unable to open database file" in outcome.reason) == (1, True), (at, outcome.reason)
        for file in tmp_path.glob("away-registry.db*"):
            file.rename(tmp_path / file.name.removeprefix("away-"))
        assert place.registry.live("tiny") == before
        assert [v.number for v in place.registry.versions("tiny")] == left
    end = place.run(options=("--wait", "60"))
    assert (end["exit"], end["action"], end["live"]) == (0, "adopt", 2), "what was published is not trained again"


def test_the_clock_of_the_database_jumps(begun):
    """Forward, a run looks dead and may write nothing more; backward, it goes on."""
    place, before = begun, champion(begun)
    outcome = broken(place, "gate", lambda: shift_clock(place.registry, 1e6), lease=600.0)
    assert (outcome.exit, "expired" in outcome.reason) == (75, True), outcome.reason
    assert champion(place)[0] == before[0]
    assert [v.number for v in place.registry.versions("tiny")] == [1]
    outcome = broken(place, "gate", lambda: shift_clock(place.registry, -1e6), lease=600.0)
    assert (outcome.exit, outcome.live) == (0, 2), outcome.reason
    assert place.run()["action"] == "nothing", "and no lease is left behind"


def test_what_was_altered_after_publication_is_neither_compared_with_nor_promoted(begun):
    place = begun
    live = place.registry.live("tiny")
    file = Store(place.store).path(live.content_id) / "graft.safetensors"
    whole = file.read_bytes()
    file.chmod(0o644)
    outcome = broken(place, "gate", lambda: file.write_bytes(whole[:-1] + b"\0"))
    assert (outcome.exit, "altered" in outcome.reason) == (2, True), outcome.reason
    assert place.registry.live("tiny") == live
    file.write_bytes(whole)
    assert place.run(options=("--no-promote", "--wait", "60"))["version"] == 2
    candidate = Store(place.store).path(place.registry.version("tiny", 2).content_id) / "graft.safetensors"
    candidate.chmod(0o644)
    candidate.write_bytes(candidate.read_bytes()[:-1] + b"\0")
    result = place.run()
    assert (result["exit"], "altered" in result["reason"]) == (2, True)
    assert place.registry.live("tiny") == live


def on_a_full_disk(place: Place, at: str) -> Outcome:
    """A run for which, from the step `at` on, no file may grow beyond 1500 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return broken(place, at, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(begun, postgres):
    """Everything on it, the database too; then the work folder and the store, the database elsewhere."""
    place = begun
    before = champion(place)
    outcome = on_a_full_disk(place, "train")
    assert (outcome.exit, outcome.action) == (1, "error"), outcome.reason
    assert champion(place) == before
    assert (place.run(options=("--wait", "60"))["exit"], place.live()) == (0, 2)

    place.url = postgres.schema()
    assert place.run()["live"] == 1
    place.data(TABLE + rows(30, seed=6))
    before = champion(place)
    for at, where in (("train", f"{place.folder}/home/retrain/tiny/"), ("publish", f"store: {place.store}")):
        outcome = on_a_full_disk(place, at)
        assert (outcome.exit, "File too large" in outcome.reason) == (1, True), outcome.reason
        assert where in outcome.reason
        assert champion(place) == before
        assert place.registry.runs("tiny")[0].outcome == "error"
    assert (place.run()["exit"], place.live()) == (0, 2)


def test_the_whole_on_postgresql_which_goes_away_and_comes_back(place, postgres):
    place.url = postgres.schema()
    first = place.run()
    assert (first["exit"], first["action"], first["live"]) == (0, "scratch", 1)
    assert place.run()["action"] == "nothing"
    place.data(TABLE + rows(20, seed=6))
    outcome = broken(place, "publish", postgres.stop)
    postgres.start()
    assert (outcome.exit, "postgresql" in outcome.reason) == (1, True), outcome.reason
    assert place.live() == 1
    second = place.run(options=("--wait", "60"))
    assert (second["exit"], second["action"], second["live"]) == (0, "head", 2)
    assert second["rows_computed"] == 20, "those of the run that broke off: it had trained, and that is taken up"
    log = [(p.from_version, p.to_version, p.verdict) for p in place.registry.promotions("tiny")]
    assert log == [(None, 1, "PASS"), (1, 2, "PASS")]


def test_two_runs_at_once_one_is_done_and_one_ends_with_75(place, postgres):
    place.url = postgres.schema()
    child = place.child("train", signal.SIGSTOP, lease=600.0)
    try:
        assert os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_status == signal.SIGSTOP
        other = place.run()
    finally:
        child.send_signal(signal.SIGCONT)
    out, err = child.communicate(timeout=300)
    assert (other["exit"], "leased by" in other["reason"]) == (75, True)
    assert (as_json(out)["exit"], as_json(out)["live"]) == (0, 1), err
    assert place.run()["action"] == "nothing"
