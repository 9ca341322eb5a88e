"""The plan of the week of `make soak-week`, its clock and its disk: everything comes, and strikes as it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.week import plan
from benchmarks.week.clock import HOUR, Clock
from benchmarks.week.events import EVENTS
from benchmarks.week.load import alike
from benchmarks.week.volume import Volume
from tests.faults.library import compiler
from tests.trainers.retrain.corruptions import CORRUPTIONS, HARMLESS

WEEK = 168
NOW = "import time; print(time.time(), time.clock_gettime(time.CLOCK_MONOTONIC))"


def test_a_week_holds_every_corruption_twice_every_harmless_change_and_every_event():
    planned = [change for hour in plan.changes(WEEK) for change in hour]
    bad = [(change.name, change.share) for change in planned if change.kind == "corruption"]
    assert sorted(bad) == sorted((name, share) for name in CORRUPTIONS for share in plan.SHARES)
    good = [change.name for change in planned if change.kind == "harmless" and change.name != plan.PLAIN]
    assert sorted(good) == sorted(HARMLESS)
    assert set(plan.events(WEEK).values()) == EVENTS.keys() - {""}
    assert len(planned) == plan.EACH_HOUR * (WEEK - 1)
    assert {change.task for change in planned} == set(plan.TASKS)


def test_the_hour_of_a_lost_registry_or_a_new_trunk_holds_no_corruption():
    table = plan.changes(WEEK)
    hours = [hour for hour, event in plan.events(WEEK).items() if event in plan.QUIET]
    assert hours
    assert all(change.kind == "harmless" for hour in hours for change in table[hour])
    assert all(at + plan.REPLICA in hours for at in plan.snapshots(WEEK))


def test_rows_of_an_hour_are_new_and_the_same_again():
    old = plan.first_rows("task03")
    change = plan.Planned("task03", "harmless", plan.PLAIN, 1.0)
    first, again = (plan.changed(change, 5, old) for _ in range(2))
    assert first == again
    assert first[: len(old)] == old
    assert len({text for text, _ in first}) == len(first) == len(old) + plan.NEW
    assert len(plan.changed(change, 6, first)) == len(first), "the oldest go"


@pytest.mark.skipif(compiler() is None, reason="no compiler of C")
def test_the_clock_of_all_processes_jumps_and_their_durations_do_not(tmp_path):
    clock = Clock(tmp_path)
    clock.reach(time.time() + 5 * HOUR)
    clock.jump(-2 * HOUR)
    done = subprocess.run(
        [sys.executable, "-c", NOW], capture_output=True, text=True, check=True, env=os.environ | clock.variables
    )
    day, monotonic = map(float, done.stdout.split())
    assert abs(day - time.time() - 3 * HOUR) < 60
    assert abs(monotonic - time.monotonic()) < 60


def test_answers_are_alike_to_a_small_difference():
    assert alike([{"a": 0.5, "b": 0.5}], [{"a": 0.50001, "b": 0.49999}])
    for other in ([{"a": 0.6, "b": 0.4}], [{"a": 0.5, "c": 0.5}], []):
        assert not alike([{"a": 0.5, "b": 0.5}], other)


def test_a_full_disk_is_full_and_free_again(tmp_path):
    volume = Volume(tmp_path / "volume", size=4 << 20)
    if not volume.mounted:
        return
    try:
        with volume.full(), pytest.raises(OSError, match="No space left"):
            (volume.folder / "file").write_bytes(b"0" * 100_000)
        (volume.folder / "file").write_bytes(b"0" * 100_000)
    finally:
        volume.unmount()
