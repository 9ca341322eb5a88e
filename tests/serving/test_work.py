"""Energy and CPU time by kind of work and by task: what is shared out is what was spent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.budgets.usage import Served, read_usage
from serving.server.monitoring import Metrics
from serving.server.usage import UsageLog
from serving.work import Totals, Work, shares

START = Totals(0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("interval", "counted", "expected"),
    [
        ((10.0, 4.0, 1.0), True, (0.4, 0.1, 0.5)),
        ((10.0, 4.0, 1.0), False, (0.8, 0.2, 0.0)),
        ((10.0, 0.0, 0.0), True, (0.0, 0.0, 1.0)),
        ((10.0, 0.0, 0.0), False, (0.0, 0.0, 1.0)),
        ((10.0, 9.0, 3.0), True, (0.75, 0.25, 0.0)),
        ((0.0, 0.0, 0.0), True, (0.0, 0.0, 1.0)),
    ],
)
def test_an_interval_is_shared_by_what_was_done_in_it(interval, counted, expected):
    split = shares(*interval, counted=counted)
    assert tuple(split.values()) == pytest.approx(expected)


def test_what_is_shared_out_is_what_was_spent():
    work = Work(START, counted=True)
    work.add(Totals(10.0, 4.0, 1.0, 3.0, 100.0, {"a": 30, "b": 10}))
    work.add(Totals(20.0, 4.0, 1.0, 3.5, 150.0, {"a": 30, "b": 10}))
    work.add(Totals(30.0, 9.0, 1.0, 8.0, 250.0, {"a": 30, "b": 20}))
    assert work.joules == pytest.approx({"answers": 40 + 50, "loads": 10, "idle": 50 + 50 + 50})
    assert sum(work.joules.values()) == pytest.approx(250)
    assert work.cpu == pytest.approx({"answers": 0.8 * 3 + 4.5, "loads": 0.2 * 3, "idle": 0.5})
    assert dict(work.task_rows) == {"a": 30, "b": 20}
    assert dict(work.task_joules) == pytest.approx({"a": 30, "b": 10 + 50})
    assert sum(work.task_cpu.values()) == pytest.approx(work.cpu["answers"])


def test_joules_that_nobody_has_are_not_made_up():
    work = Work(Totals(0.0, 0.0, 0.0, 0.0, None), counted=False)
    work.add(Totals(10.0, 4.0, 1.0, 3.0, None, {"a": 30}))
    assert sum(work.joules.values()) == 0
    assert work.task_cpu["a"] > 0


def series(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {tuple(s.labels.values()): s.value for one in families for s in one.samples if s.name == name}


def test_the_metrics_sum_to_the_totals(server):
    """Of a server that answers: kinds of work sum to what the process took, tasks to what answers took."""
    metrics = Metrics(server.runtime, server.follower, max_tasks=1)
    for _ in range(3):
        server.runtime.predict([("alpha", "ban bas"), ("beta", "ban bas")])
    metrics.sample()
    kinds, tasks = series(metrics, "topgraft_work_joules_total"), series(metrics, "topgraft_task_joules_total")
    (quality,) = {labels[1] for labels in kinds}
    assert quality in ("modelled", "measured_counter")
    assert kinds["answers", quality] == pytest.approx(sum(tasks.values()))
    assert kinds["answers", quality] > 0
    assert sum(kinds.values()) <= metrics.joules().value
    rows = series(metrics, "topgraft_task_rows_total")
    assert set(rows) <= {("alpha",), ("beta",), ("other",)}
    assert sum(rows.values()) >= 6
    assert sum(series(metrics, "topgraft_work_cpu_seconds_total").values()) <= metrics.cpu()
    (point,) = metrics.stats().history
    powers = (point.watts_answers, point.watts_loads, point.watts_idle)
    assert all(power is not None and power >= 0 for power in powers)
    assert point.watts_answers > 0


def test_a_server_notes_what_answers_took(server, tmp_path, monkeypatch, caplog):
    metrics = Metrics(server.runtime, server.follower, max_tasks=9)
    usage = UsageLog(tmp_path / "usage.jsonl", metrics)
    usage.step()
    assert read_usage([str(tmp_path / "usage.jsonl")]) == (), "it is not time yet"
    monkeypatch.setattr("serving.server.usage.EVERY", 0.0)
    for rows in (4, 2):
        for _ in range(rows):
            server.runtime.predict([("alpha", "ban bas")])
        metrics.sample()
        usage.step()
    assert noted(tmp_path).rows == metrics.work.task_rows["alpha"] >= 6
    assert noted(tmp_path).cpu_seconds == pytest.approx(metrics.work.task_cpu["alpha"], abs=1e-3)
    assert noted(tmp_path).joules == pytest.approx(metrics.work.task_joules["alpha"], abs=1e-3)
    assert noted(tmp_path).joules > 0
    lines = read_usage([str(tmp_path / "usage.jsonl")])
    assert {line.quality for line in lines} == {metrics.joules().quality}
    assert [line.start for line in lines[1:]] == [line.end for line in lines[:-1]]
    with monkeypatch.context() as full:
        full.setattr("serving.server.usage.append_line", refuse)
        server.runtime.predict([("alpha", "ban bas")])
        metrics.sample()
        usage.write()
    assert "not noted yet" in caplog.text
    assert noted(tmp_path).rows < metrics.work.task_rows["alpha"]
    usage.write()
    assert noted(tmp_path).rows == metrics.work.task_rows["alpha"], "the next line holds it"


def test_a_clock_that_is_set_back_ends_no_line_before_its_start(server, tmp_path, monkeypatch):
    metrics = Metrics(server.runtime, server.follower, max_tasks=9)
    usage, now = UsageLog(tmp_path / "usage.jsonl", metrics), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    usage.write()
    (line,) = read_usage([str(tmp_path / "usage.jsonl")], now)
    assert line.start == line.end


def test_joules_that_nobody_has_are_in_no_metric_and_no_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.server.monitoring.meter", lambda _: None)
    monkeypatch.setattr("serving.server.monitoring.on_accelerator", lambda: True)  # no model of its energy
    metrics = Metrics(server.runtime, server.follower, max_tasks=9)
    server.runtime.predict([("alpha", "ban bas")])
    metrics.sample()
    assert metrics.joules().quality == "unavailable"
    assert not series(metrics, "topgraft_work_joules_total")
    assert not series(metrics, "topgraft_task_joules_total")
    assert series(metrics, "topgraft_task_cpu_seconds_total")
    UsageLog(tmp_path / "usage.jsonl", metrics).write()
    (line,) = read_usage([str(tmp_path / "usage.jsonl")])
    assert line.quality == "unavailable"


def test_a_point_has_the_power_of_its_own_time(server):
    """Some work, then a sample without any: the second point must not show what the first one took."""
    metrics = Metrics(server.runtime, server.follower, max_tasks=9)
    for _ in range(20):
        server.runtime.predict([("alpha", "ban bas")])
    metrics.sample()
    time.sleep(0.05)
    metrics.sample()
    first, second = metrics.stats().history
    assert first.watts_answers > 0
    assert second.watts_answers == 0, "no batch ran"


def noted(folder: Path) -> Served:
    """Returns the sum of what the file says of one task."""
    lines = read_usage([str(folder / "usage.jsonl")])
    return sum((line.tasks["alpha"] for line in lines if "alpha" in line.tasks), Served(0, 0.0, 0.0))


def refuse(*_):
    raise OSError("no space")
