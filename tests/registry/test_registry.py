"""Versions, promotions, rollback and leases: the same suite on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from adapters.artefact.manifest import read_manifest
from backbone.errors import InputError
from registry.audit import audit
from registry.database import open_registry
from registry.entries import ROLLBACK, Conflict, Lease, LeaseHeld
from registry.leases import heartbeat
from registry.store import Store
from tests.registry.support import TOLD, shift_clock, wait_for

LONG = 600.0  # seconds: outlives every test


def test_a_version_is_what_was_published(registry, store, grafts):
    manifest = read_manifest(grafts[0])
    first = registry.publish("task", grafts[0], store)
    assert (first.number, first.content_id, first.weights_id) == (1, manifest.content_id, manifest.weights_id)
    assert first.metrics == manifest.training.metrics
    assert (store.root / first.path / "manifest.json").read_bytes() == (grafts[0] / "manifest.json").read_bytes()
    second = registry.publish("task", grafts[1], store, 1, {"rows": "sha256:x"}, {"test": {"accuracy": 0.5}})
    assert (second.number, second.parent, second.metrics["test"]["accuracy"]) == (2, 1, 0.5)
    assert registry.publish("task", grafts[0], store) == first
    assert registry.publish("other", grafts[0], store).number == 1
    assert [registry.version("task", n) for n in (1, 2)] == [first, second]
    assert registry.tasks() == ["other", "task"]
    assert first.created_at <= second.created_at
    assert registry.lives() == {}
    assert registry.live("task") is None


def test_pages_of_versions(published):
    assert [v.number for v in published.versions("task")] == [4, 3, 2, 1]
    assert [v.number for v in published.versions("task", limit=2)] == [4, 3]
    assert [v.number for v in published.versions("task", limit=2, before=3)] == [2, 1]
    assert published.versions("task", before=1) == []


def test_what_is_not_there_or_not_sound_is_refused(published, store, grafts, tmp_path):
    with pytest.raises(InputError, match=r"'tusk' has no versions; nearest: task"):
        published.version("tusk", 1)
    with pytest.raises(InputError, match=r"no version 9; the last one is 4"):
        published.promote("task", 9, expected_generation=0, **TOLD)
    with pytest.raises(InputError, match=r"no version 9"):
        published.publish("task", grafts[4], store, parent=9)
    with pytest.raises(InputError, match=r"is no name"):
        published.publish("a/b", grafts[4], store)
    with pytest.raises(InputError, match=r"lineage: not JSON"):
        published.publish("task", grafts[4], store, lineage={"loss": float("nan")})
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.add(grafts[4])
    with pytest.raises(InputError, match=r"another folder, or one that is not mounted"):
        published.publish("task", grafts[4], elsewhere)
    assert [v.number for v in published.versions("task")] == [4, 3, 2, 1]


def test_promotion_compares_switches_and_logs(published):
    before = published.change()
    live = published.promote("task", 2, expected_generation=0, gate={"accuracy": 0.9}, **TOLD)
    assert (live.version, live.generation, live.previous) == (2, 1, None)
    assert published.change().position == before.position + 1
    with pytest.raises(Conflict, match=r"expected generation 0, found 1: version 2 by tests \(because\)") as told:
        published.promote("task", 3, expected_generation=0, **TOLD)
    assert (told.value.expected, told.value.present) == (0, 1)
    assert published.live("task") == live
    after = published.promote("task", 3, expected_generation=1, **TOLD)
    assert (after.version, after.generation, after.previous) == (3, 2, 2)
    assert published.promote("task", 3, expected_generation=2, **TOLD) == after, "live already: nothing changes"
    assert published.lives() == {"task": after}
    log = published.promotions("task")
    assert [(e.generation, e.from_version, e.to_version) for e in log] == [(1, None, 2), (2, 2, 3)]
    assert log[0].gate == {"accuracy": 0.9}
    assert log[1].gate is None
    assert (log[0].actor, log[0].reason, log[0].verdict) == ("tests", "because", "PASS")


def test_rollback_goes_back_and_never_to_what_was_rolled_back(published):
    with pytest.raises(InputError, match="nothing was live before"):
        published.rollback("task", actor="tests", reason="bad")
    for generation, number in enumerate((1, 2, 1, 3)):
        published.promote("task", number, expected_generation=generation, **TOLD)
    steps = [published.rollback("task", actor="tests", reason="bad") for _ in range(3)]
    assert [live.version for live in steps] == [1, 2, 1]
    assert [live.previous for live in steps] == [2, 1, None]
    with pytest.raises(InputError, match="nothing was live before"):
        published.rollback("task", actor="tests", reason="bad")
    with pytest.raises(Conflict):
        published.rollback("task", actor="tests", reason="bad", expected_generation=4)
    log = published.promotions("task")
    assert [e.generation for e in log] == list(range(1, 8))
    assert [e.verdict for e in log[4:]] == [ROLLBACK] * 3
    live = published.promote("task", 4, expected_generation=7, **TOLD)
    assert live.previous == 1
    assert published.rollback("task", actor="tests", reason="bad").version == 1


def test_two_promoters_on_one_generation(url, published):
    """One wins; the other is told against what."""
    gate = threading.Barrier(2)

    def promoter(number: int):
        with contextlib.closing(open_registry(url)) as own:
            gate.wait()
            try:
                return own.promote(
                    "task", number, expected_generation=0, actor=f"p{number}", reason="r", verdict="PASS"
                )
            except Conflict as error:
                return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(promoter, (1, 2)))
    (lost,) = [r for r in results if isinstance(r, Conflict)]
    (won,) = [r for r in results if not isinstance(r, Conflict)]
    assert f"found 1: version {won.version} by p{won.version}" in str(lost)
    assert published.live("task") == won
    assert len(published.promotions("task")) == 1


def test_runs_and_measurements(published):
    lease = published.acquire("task", "me", LONG)
    published.start_run("task", "r1", "me", fence=lease.token, detail={"config": "a"})
    with pytest.raises(InputError, match="r1 is taken"):
        published.start_run("task", "r1", "me")
    assert published.runs("task")[0].finished_at is None
    ended = published.finish_run("task", "r1", "promoted", {"version": 2}, fence=lease.token)
    assert ended == published.runs("task")[0]
    assert (ended.outcome, ended.detail, ended.fence) == ("promoted", {"config": "a", "version": 2}, lease.token)
    with pytest.raises(InputError, match="no run r2"):
        published.finish_run("task", "r2", "promoted")
    published.measure("task", 1, "cpu_seconds", 12.5, "measured", {"machine": "here"})
    published.measure("task", 1, "joules", None, "unavailable", {"reason": "no meter"})
    assert [(m.name, m.value, m.quality) for m in published.measurements("task", 1)] == [
        ("cpu_seconds", 12.5, "measured"),
        ("joules", None, "unavailable"),
    ]
    with pytest.raises(InputError, match="exactly when unavailable"):
        published.measure("task", 1, "joules", None, "modelled")


def test_one_owner_at_a_time_and_rising_fences(registry):
    lease = registry.acquire("task", "first", LONG)
    with pytest.raises(LeaseHeld, match="leased by first") as held:
        registry.acquire("task", "second", LONG)
    assert 0 < held.value.seconds <= LONG
    assert registry.acquire("other", "second", LONG).token == 1
    registry.check_fence(lease)
    assert registry.renew(lease).expires_at >= lease.expires_at
    registry.release(lease)
    with pytest.raises(Conflict, match="was released"):
        registry.check_fence(lease)
    second = registry.acquire("task", "second", LONG)
    assert second.token > lease.token
    registry.release(lease)
    registry.check_fence(second)
    with pytest.raises(Conflict, match=f"its fence is {lease.token}, the last one is {second.token} of second"):
        registry.renew(lease)


def test_a_stale_fence_writes_nothing(published, store, grafts):
    stale = published.acquire("task", "first", LONG)
    published.promote("task", 1, expected_generation=0, fence=stale.token, **TOLD)
    published.start_run("task", "r1", "first", fence=stale.token)
    shift_clock(published, LONG + 1)
    fresh = published.acquire("task", "second", LONG)
    before = sorted(store.root.rglob("*"))
    for write in (
        lambda: published.promote("task", 2, expected_generation=1, fence=stale.token, **TOLD),
        lambda: published.publish("task", grafts[4], store, fence=stale.token),
        lambda: published.start_run("task", "r2", "first", fence=stale.token),
        lambda: published.finish_run("task", "r1", "promoted", fence=stale.token),
    ):
        with pytest.raises(Conflict) as told:
            write()
        assert (told.value.expected, told.value.present) == (stale.token, fresh.token)
    assert published.live("task").version == 1
    assert len(published.versions("task")) == 4
    assert [run.outcome for run in published.runs("task")] == [None]
    assert sorted(store.root.rglob("*")) == before, "nothing is copied that gc would have to remove"
    published.promote("task", 2, expected_generation=1, fence=fresh.token, **TOLD)


def test_the_clock_jumps_forward(published):
    """The owner looks dead: it is refused from then on, whether or not somebody took the task."""
    published.promote("task", 1, expected_generation=0, **TOLD)
    lease = published.acquire("task", "first", LONG)
    shift_clock(published, 2 * LONG)
    with pytest.raises(Conflict, match="expired"):
        published.renew(lease)
    with pytest.raises(Conflict, match="expired"):
        published.promote("task", 2, expected_generation=1, fence=lease.token, **TOLD)
    assert published.live("task").version == 1
    assert published.acquire("task", "second", LONG).token > lease.token


def test_the_clock_jumps_backward(published):
    """A lease does not last for the length of the jump: who asks next cuts it to its own duration."""
    lease = published.acquire("task", "first", LONG)
    shift_clock(published, -1e6)
    for _ in range(2):
        with pytest.raises(LeaseHeld) as held:
            published.acquire("task", "second", LONG)
        assert held.value.seconds <= LONG
    published.renew(lease)
    published.promote("task", 2, expected_generation=0, fence=lease.token, **TOLD)


def test_a_heartbeat_keeps_the_lease_and_reports_its_loss(registry):
    lease = registry.acquire("task", "first", 60.0)
    quick = replace(lease, seconds=3.0)  # renewed every second, for three more
    with heartbeat(registry, quick) as beating:
        beating.require()
        assert wait_for(lambda: beating.lease.expires_at != quick.expires_at), "it renews"
        beating.require()
        shift_clock(registry, LONG)
        assert beating.lost.wait(60)
        with pytest.raises(Conflict, match="expired"):
            beating.require()
    assert registry.acquire("task", "second", LONG).token == lease.token + 1


def test_a_lease_needs_an_owner_and_a_duration(registry):
    for owner, seconds in (("", 1.0), ("me", 0.0), ("me", float("nan"))):
        with pytest.raises(InputError, match="needs an owner and a positive duration"):
            registry.acquire("task", owner, seconds)
    with pytest.raises(Conflict, match="the last one is 0"):
        registry.check_fence(Lease("task", "me", 7, 0.0, 1.0))


def test_the_whole_is_consistent_after_all_of_it(published, store):
    for generation, number in enumerate((1, 2, 3)):
        published.promote("task", number, expected_generation=generation, **TOLD)
    published.rollback("task", actor="tests", reason="bad")
    found = audit(published, store)
    assert (found.tasks, found.versions, found.promotions, found.orphans) == (1, 4, 4, [])
