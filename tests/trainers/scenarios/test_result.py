"""Verdicts on a run: what it shows, what it does not, and what it did to its machine."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from backbone.errors import InputError
from metering import energy
from metering.energy import Joules
from trainers.scenarios import conditions
from trainers.scenarios.conditions import Conditions, Reading, Throttling, hot_events, require_readable, watched
from trainers.scenarios.limits import _grant, restrict_cores, restricted_quota
from trainers.scenarios.load import Trace
from trainers.scenarios.request import Load
from trainers.scenarios.result import Check, ScenarioResult, checked, latencies_of

UNKNOWN = Reading(None, None, "no counter")
UNCOUNTED = Throttling(None, None, "nothing counts")


def conditions_with(watts: Reading) -> Conditions:
    return Conditions(watts, UNKNOWN, UNKNOWN, Throttling(None, None, ""), Joules("unavailable", None), 1.0)


def result_of(checks: tuple[Check, ...], held: Throttling = UNCOUNTED) -> ScenarioResult:
    conditions = replace(conditions_with(UNKNOWN), throttling=held)
    numbers = {"seed": 0, "rate": None, "queries": 9, "failures": 0, "failure": "", "seconds": 1.0, "rows": 9}
    return ScenarioResult(
        system="g",
        scenario="single_stream",
        rows_per_second=9.0,
        latencies=latencies_of(trace_of(9, 0)),
        confidence=0.99,
        late_ms=0.0,
        metrics={"accuracy": 1.0},
        conditions=conditions,
        joules_per_1000=None,
        checks=checks,
        **numbers,
    )


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


def test_a_bound_that_is_not_shown_says_how_many_queries_would_show_it():
    load = Load(scenario="server", rate=1.0, max_latency_ms=50.0)
    for trace, more in ((trace_of(458, 0), 1), (trace_of(99, 1), 562), (trace_of(299, 0, failures=1), 362)):
        (check,) = checked(trace, load, {}, conditions_with(UNKNOWN))
        assert f"; {more} more within it would show it" in check.reason


def test_a_bound_that_is_broken_counts_more_than_one_that_is_not_shown():
    checks = {verdict: Check("p99 ms", verdict, 1.0, 2.0, "") for verdict in ("PASS", "NO_EVIDENCE", "FAIL")}
    for verdicts, status in (
        (("PASS",), 0),
        (("PASS", "NO_EVIDENCE"), 11),
        (("NO_EVIDENCE", "FAIL", "PASS"), 10),
        ((), 0),
    ):
        assert result_of(tuple(checks[verdict] for verdict in verdicts)).exit_status == status


def test_the_table_says_why_there_is_no_figure():
    held = Throttling(None, None, "no control group with a quota counts; no processor counts its slowing down")
    assert f"\nthrottling: - by quota, - for heat ({held.reason})" in result_of((), held).table()
    assert (
        "\nthrottling: 0.25 s by quota, 3 times for heat (both)" in result_of((), Throttling(0.25, 3, "both")).table()
    )
    assert "too few answers for a bound" in result_of(()).table()
    assert "None" not in result_of(()).table()


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
    slow_first = Trace(1.0, (*[0.1] * 10, *[0.01] * 90), 100, 100)
    assert latencies_of(slow_first) == latencies_of(trace_of(90, 10)), "whatever came first"


def test_queries_without_an_answer_lie_beyond_every_bound():
    few, many = latencies_of(trace_of(660, 0, failures=2)), latencies_of(trace_of(660, 0, failures=200))
    assert [row.bound_ms for row in few] == [pytest.approx(10)] * 3 + [None]
    assert [row.bound_ms for row in many] == [pytest.approx(10), None, None, None]
    assert [row.ms for row in many] == [pytest.approx(10)] * 4


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


def test_the_peak_is_the_largest_power_between_two_samples(monkeypatch):
    import time

    start = time.monotonic()

    def joules() -> float:
        """10 W, then 100 W for a tenth of a second, then 10 W."""
        spent = time.monotonic() - start
        return 10 * spent + 90 * min(0.1, max(0.0, spent - 0.1))

    monkeypatch.setattr(conditions, "meter", lambda accelerator: energy.Counter("made up", joules))
    monkeypatch.setattr(conditions, "EVERY", 0.02)
    with watched(local=True) as samples:
        time.sleep(0.35)
    assert samples.conditions.watts.peak == pytest.approx(100.0, rel=0.25)


def test_readings_are_averaged_and_the_largest_is_the_peak(monkeypatch):
    degrees = iter([50.0, None, 90.0])
    monkeypatch.setattr(conditions, "thermometer", lambda accelerator: lambda: next(degrees, 40.0))
    monkeypatch.setattr(conditions, "EVERY", 0.01)
    with watched(local=True) as samples:
        import time

        time.sleep(0.15)
    assert samples.celsius[:3] == [50.0, 90.0, 40.0]
    assert samples.conditions.celsius.peak == 90.0
    assert samples.conditions.celsius.average == pytest.approx(np.mean(samples.celsius))


def test_what_held_processors_back_is_that_of_the_run_alone(monkeypatch):
    held, hot = iter([7.0, 7.5]), iter([40, 43])
    monkeypatch.setattr(conditions, "throttled_seconds", lambda: next(held))
    monkeypatch.setattr(conditions, "hot_events", lambda: next(hot))
    with watched(local=True) as samples:
        pass
    assert samples.conditions.throttling == Throttling(0.5, 3, "control group; processors' own counters")


@pytest.mark.parametrize("limit", ["max_watts", "max_celsius"])
def test_a_limit_is_checked_by_its_own_reader(limit, monkeypatch):
    readers = {"max_watts": "meter", "max_celsius": "thermometer"}
    for name in readers.values():
        monkeypatch.setattr(conditions, name, lambda accelerator: lambda: 1.0)
    require_readable(load := Load(scenario="offline", **{limit: 50.0}), local=True)
    monkeypatch.setattr(conditions, readers[limit], lambda accelerator: None)
    with pytest.raises(InputError, match=limit.replace("_", "-")):
        require_readable(load, local=True)


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


def test_a_group_of_version_1_gets_quota_and_period(tmp_path):
    (tmp_path / "cpu.cfs_quota_us").touch()
    _grant(tmp_path, 0.5)
    written = [(tmp_path / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
    assert written == ["50000", "100000"]
