"""Verdicts on a run: what it shows, what it does not, and what it did to its machine."""

from __future__ import annotations

import os

import pytest

from backbone.errors import InputError
from metering import energy
from metering.energy import Joules
from trainers.scenarios import conditions
from trainers.scenarios.conditions import Conditions, Reading, Throttling, hot_events, require_readable, watched
from trainers.scenarios.limits import restrict_cores, restricted_quota
from trainers.scenarios.load import Trace
from trainers.scenarios.request import Load
from trainers.scenarios.result import checked, latencies_of

UNKNOWN = Reading(None, None, "no counter")


def conditions_with(watts: Reading) -> Conditions:
    return Conditions(watts, UNKNOWN, UNKNOWN, Throttling(None, None, ""), Joules("unavailable", None), 1.0)


def trace_of(fast: int, slow: int, failures: int = 0) -> Trace:
    latencies = (*[0.01] * fast, *[0.1] * slow)
    return Trace(1.0, latencies, len(latencies) + failures, len(latencies), ("no answer",) * failures)


@pytest.mark.parametrize(
    ("trace", "verdict"),
    [
        (trace_of(459, 0), "PASS"),
        (trace_of(458, 0), "NO_EVIDENCE"),
        (trace_of(661, 1), "PASS"),
        (trace_of(660, 1), "NO_EVIDENCE"),
        (trace_of(659, 2), "NO_EVIDENCE"),
        (trace_of(980, 20), "FAIL"),
        (trace_of(980, 0, failures=20), "FAIL"),
    ],
)
def test_a_bound_on_latency_is_shown_with_confidence(trace, verdict):
    load = Load(scenario="server", rate=1.0, max_latency_ms=50.0)
    (check,) = checked(trace, load, {}, conditions_with(UNKNOWN))
    assert check.verdict == verdict, str(check)


@pytest.mark.parametrize(
    ("reading", "verdict"),
    [
        (Reading(9.0, 12.0, "rapl"), "FAIL"),
        (Reading(9.0, 10.0, "rapl"), "PASS"),
        (Reading(9.0, None, "a model"), "PASS"),
        (Reading(None, None, "no counter"), "NO_EVIDENCE"),
    ],
)
def test_a_bound_on_power_holds_for_the_peak(reading, verdict):
    (check,) = checked(trace_of(9, 0), Load(scenario="offline", max_watts=10.0), {}, conditions_with(reading))
    assert check.verdict == verdict


def test_scores_have_a_floor():
    load = Load(scenario="offline", min_score=0.9)
    for score, verdict in ((0.9, "PASS"), (0.89, "FAIL")):
        (check,) = checked(trace_of(9, 0), load, {"accuracy": score, "macro_f1": 0.1}, conditions_with(UNKNOWN))
        assert (check.name, check.verdict) == ("accuracy", verdict)


def test_percentiles_have_bounds_where_there_are_enough_queries():
    rows = {row.percentile: row for row in latencies_of(trace_of(90, 10))}
    assert rows[0.5].ms == pytest.approx(10)
    assert rows[0.5].bound_ms == pytest.approx(10)
    assert rows[0.9].bound_ms == pytest.approx(100)
    assert rows[0.95].bound_ms is rows[0.99].bound_ms is None
    assert latencies_of(Trace(1.0)) == ()


def test_no_figure_is_invented_where_there_is_no_counter(monkeypatch):
    monkeypatch.setattr(conditions, "thermometer", lambda accelerator: None)
    monkeypatch.setattr(conditions, "meter", lambda accelerator: None)
    with watched(local=True) as samples:
        sum(range(100_000))
    seen = samples.conditions
    assert seen is not None
    assert (seen.celsius.average, seen.celsius.peak) == (None, None)
    assert seen.watts.peak is None
    assert seen.memory_bytes.peak > 1e6
    with watched(local=False) as samples:
        pass
    assert samples.conditions.watts == Reading(None, None, conditions.ELSEWHERE)
    assert samples.conditions.cpu_seconds is None


def test_power_is_sampled_from_a_counter(monkeypatch):
    import time

    counter = energy.Counter("made up", lambda: 20.0 * time.monotonic())
    monkeypatch.setattr(conditions, "meter", lambda accelerator: counter)
    monkeypatch.setattr("metering.window.meter", lambda accelerator: counter)
    monkeypatch.setattr(conditions, "EVERY", 0.02)
    with watched(local=True) as samples:
        time.sleep(0.15)
    assert samples.conditions.watts.average == pytest.approx(20.0, rel=0.05)
    assert samples.conditions.watts.peak == pytest.approx(20.0, rel=0.2)
    assert samples.conditions.joules.quality == "measured_counter"


@pytest.mark.parametrize("limit", ["max_watts", "max_celsius"])
def test_a_limit_that_nothing_can_check_is_refused(limit, monkeypatch):
    monkeypatch.setattr(conditions, "thermometer", lambda accelerator: None)
    monkeypatch.setattr(conditions, "meter", lambda accelerator: None)
    load = Load(scenario="offline", **{limit: 50.0})
    for local, reason in ((True, "no counter or sensor"), (False, "another process")):
        with pytest.raises(InputError, match=reason):
            require_readable(load, local=local)


def test_processors_that_slowed_down_are_counted(tmp_path):
    assert hot_events(tmp_path) is None
    for number, count in enumerate((3, 4)):
        folder = tmp_path / f"cpu{number}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    assert hot_events(tmp_path) == 7


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_is_kept_on_fewer_cores():
    before = os.sched_getaffinity(0)
    try:
        restrict_cores(1)
        assert os.sched_getaffinity(0) == {min(before)}
        with pytest.raises(InputError, match="of 1 that this process may use"):
            restrict_cores(2)
    finally:
        os.sched_setaffinity(0, before)


def test_a_quota_needs_a_group_that_can_be_made(tmp_path):
    with pytest.raises(InputError, match="no control group"), restricted_quota(0.5, tmp_path, tmp_path / "none"):
        pass
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "none").write_text("0::/\n")
    with restricted_quota(0.5, tmp_path, tmp_path / "none") as group:
        assert (group / "cpu.max").read_text() == "50000 100000"
        assert (group / "cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "cgroup.procs").read_text() == str(os.getpid()), "the process is back"
