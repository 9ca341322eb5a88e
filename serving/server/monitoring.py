"""The counters of a server: for Prometheus (`/metrics`), the page (`/stats`) and the controller.

Label values are bounded: tasks that are served, up to a limit. Energy and CPU time carry their quality. A figure that
cannot be had is absent from `/metrics` and null in `/stats`, never 0.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from metering.energy import Joules, meter, modelled
from metering.thermal import thermometer
from metering.window import cpu_seconds, on_accelerator
from serving.answers import Answer, Pending
from serving.controller import SUBMODELS, Controller, Reading, Switch
from serving.drift import Drift
from serving.live.follow import Follower
from serving.live.readiness import readiness
from serving.live.standing import WORDS
from serving.runtime import Runtime
from serving.work import KINDS, Totals, Work

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
HISTORY = 600  # points kept for the page
RECENT = 2048  # latencies kept for percentiles
OTHER = "other"  # label value of tasks without one of their own
WINDOW = 60.0  # seconds that `topgraft_busy` looks back


@dataclass(frozen=True)
class Point:
    """The time between two samples; None: nothing happened, or nothing could be read."""

    at: float  # Unix time, seconds
    requests_per_second: float
    p50_ms: float | None  # median of the responses, milliseconds
    p95_ms: float | None  # 95th percentile
    cpu_seconds_per_request: float | None
    joules_per_request: float | None
    queue: int  # rows that wait
    watts_answers: float | None  # power of batches, W
    watts_loads: float | None  # power of loads of grafts, W
    watts_idle: float | None  # power of the rest, W


@dataclass(frozen=True)
class Stats:
    """The state of the server and its latest history."""

    since: float  # Unix time of the start, seconds
    requests: int  # responses since the start
    batch_fill: float | None  # share of the computed rows that were no filling
    joules_quality: str  # measured_counter, modelled or unavailable
    joules_source: str
    submodel: str  # submodel in use
    submodels: dict[str, int]  # rows by the submodel that answered
    given_up: dict[str, float]  # rows that cheaper submodels answered worse than in full, as certified, by task
    switches: tuple[Switch, ...]
    in_progress: int  # requests received and not answered
    queue: int  # rows that wait
    refused: dict[str, str]  # reason by task, where the live version is not served
    unreachable: str | None  # reason why the catalogue did not answer last
    history: tuple[Point, ...]


@dataclass(frozen=True)
class _Totals:
    """Totals at one moment."""

    time: float  # monotonic, seconds
    answers: int = 0
    timed: int = 0
    cpu: float = 0.0  # seconds
    joules: float = 0.0


class Busy:
    """The share of the last `WINDOW` seconds in which the device thread ran batches.

    Autoscalers read it: replicas that share a load are each less busy. A mean since the start never falls so, and CPU
    seconds per request do not depend on the number of replicas.
    """

    def __init__(self, now: float):
        self._points = deque([(now, 0.0)])  # (monotonic time, busy seconds until then), the oldest first

    def add(self, now: float, busy: float) -> None:
        """Notes the busy seconds until `now`; the oldest note is the last one that is `WINDOW` old."""
        self._points.append((now, busy))
        while len(self._points) > 1 and self._points[1][0] <= now - WINDOW:
            self._points.popleft()

    def share(self, now: float, busy: float) -> float:
        """Returns the share, 0 to 1; `busy` are the seconds until `now`."""
        first, before = self._points[0]
        return min(1.0, (busy - before) / max(now - first, 1e-9))


class Metrics:
    """Counters of the server, and a view of its runtime."""

    def __init__(self, runtime: Runtime, follower: Follower, max_tasks: int, controller: Controller | None = None):
        self._controller = controller
        self._runtime, self._follower, self._max_tasks = runtime, follower, max_tasks
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "topgraft_request_seconds", "From request to response", ["task"], buckets=BUCKETS, registry=self._registry
        )
        self._requests = Counter("topgraft_requests", "Responses", ["task", "status"], registry=self._registry)
        self._registry.register(self)
        self.drift = Drift(max_tasks)
        self._named: set[str] = set()
        self._counted: dict[str, set[str]] = {}  # statuses that were counted, by task
        self._naming = threading.RLock()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._answers = self._timed = 0  # responses, and those among them that waited for a batch
        self.in_progress = 0  # POST requests received and not answered
        self._cpu, self._since = cpu_seconds(), time.time()
        counter = meter(on_accelerator())
        self._counter, self._joules = counter, counter.read() if counter else 0.0
        self._thermometer = thermometer(on_accelerator())
        self._history: deque[Point] = deque(maxlen=HISTORY)
        self._last = _Totals(time.monotonic())
        self._busy = Busy(self._last.time)
        self.work = Work(self._totals(0.0), counted=counter is not None)

    def label(self, task: str | None) -> str:
        """Returns the task as a label value: `other` unless it is served and within the limit."""
        if task is None or not self._runtime.serves(task):
            return OTHER
        with self._naming:
            if task not in self._named and len(self._named) >= self._max_tasks:
                self._forget_removed()
                if len(self._named) >= self._max_tasks:
                    return OTHER
            self._named.add(task)
        return task

    def _forget_removed(self) -> None:
        """Ends the series of tasks that are no longer served, so that others may have their label values."""
        for task in [task for task in self._named if not self._runtime.serves(task)]:
            self._named.discard(task)
            for status in self._counted.pop(task, ()):
                self._requests.remove(task, status)
                if status == "200":
                    self._seconds.remove(task)

    def refused(self, status: int) -> None:
        """Counts an error of a request that names no task, or that is not for answers."""
        self._requests.labels(OTHER, str(status)).inc()

    def answered(self, tasks: tuple[str, ...], status: int, seconds: float) -> None:
        """Counts one response."""
        with self._naming:
            for task in {self.label(task) for task in tasks} or {OTHER}:
                self._requests.labels(task, str(status)).inc()
                self._counted.setdefault(task, set()).add(str(status))
                if status == 200:
                    self._seconds.labels(task).observe(seconds)
        self._answers += 1
        if status in (200, 504):  # refusals are quick: their time is not that of an answer
            self._timed += 1
            self._recent.append(seconds)

    def observe(self, pending: Sequence[Pending], answers: Sequence[Answer]) -> None:
        """Counts rows towards drift: those of live versions with an out-of-scope score."""
        live = self._runtime.entries
        by_task: dict[str, list[tuple[Pending, Answer]]] = {}
        for row, answer in zip(pending, answers, strict=True):
            now = live.get(row.served.task)
            if answer.out_of_scope is not None and now is not None and now.content_id == row.served.content_id:
                by_task.setdefault(row.served.task, []).append((row, answer))
        for task, answered in by_task.items():
            first = answered[0][0]
            assert first.graft is not None
            assert first.graft.scope is not None
            self.drift.observe(
                task,
                first.served.content_id,
                first.graft.scope,
                [row.tokens for row, _ in answered],
                [answer.out_of_scope or 0.0 for _, answer in answered],
                [first.graft.labels.index(next(iter(answer.probabilities))) for _, answer in answered],
            )

    def text(self) -> bytes:
        """Returns every metric in Prometheus' exposition format."""
        return generate_latest(self._registry)

    def cpu(self) -> float:
        """Returns the CPU seconds of this process since these counters were made."""
        return cpu_seconds() - self._cpu

    def joules(self) -> Joules:
        """Returns the energy since these counters were made."""
        if self._counter:
            return Joules("measured_counter", self._counter.read() - self._joules, source=self._counter.name)
        return modelled(self.cpu(), on_accelerator())

    def _totals(self, joules: float | None) -> Totals:
        """Returns what the server has done until now."""
        runtime = self._runtime
        busy, loading = runtime.counts.device_seconds, runtime.residency.read_seconds
        return Totals(time.monotonic(), busy, loading, self.cpu(), joules, dict(runtime.rows_of))

    def collect(self) -> Iterator[Metric]:
        """Yields the state of the runtime at this moment (prometheus_client's collector protocol)."""
        runtime, counts = self._runtime, self._runtime.counts

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"topgraft_{name}", text, value=value)

        def labelled(kind: Any, name: str, text: str, label: str, values: dict[str, float]) -> Metric:
            family: Metric = kind(f"topgraft_{name}", text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)  # type: ignore[attr-defined]
            return family

        yield gauge("queue_rows", "Rows queued, or waiting for their graft", runtime.waiting)
        yield gauge("requests_in_progress", "Requests received and not answered", self.in_progress)
        share = self._busy.share(time.monotonic(), counts.device_seconds)
        yield gauge("busy", "Share of the last minute in which the device thread ran batches", share)
        for name, text, value in (
            ("batches", "Batches run", counts.batches),
            ("rows", "Rows run", counts.rows),
            ("computed_rows", "Rows computed in suffixes, filling included", counts.padded_rows),
            ("inputs", "Distinct inputs that entered batches", counts.inputs),
            ("prefix_hits", "Inputs whose prefix was cached", counts.prefix_hits),
            ("scope_blocks", "Blocks of inputs that ran for out-of-scope scores alone", counts.scope_blocks),
            ("device_seconds", "Time of the device thread in batches", counts.device_seconds),
        ):
            yield CounterMetricFamily(f"topgraft_{name}", text, value=value)
        answered: dict[str, float] = dict(runtime.answered_by)
        yield labelled(CounterMetricFamily, "answers", "Rows by the submodel that answered", "submodel", answered)
        entries = runtime.entries
        tasks = [runtime.submodel_of(task) for task in entries] or [runtime.submodel]
        in_use: dict[str, float] = {name: tasks.count(name) / len(tasks) for name in SUBMODELS}
        yield labelled(GaugeMetricFamily, "submodel", "Share of the tasks that use the submodel", "submodel", in_use)
        switches = self._controller.count if self._controller else 0
        yield CounterMetricFamily("topgraft_submodel_switches", "Changes of the submodel in use", value=switches)
        residency, banks = runtime.residency, runtime.banks
        used = {str(number): float(count) for number, count in enumerate(residency.slots_used)}
        yield labelled(GaugeMetricFamily, "slots_used", "Slots taken", "group", used)
        slots = {str(number): float(bank.group.slots) for number, bank in enumerate(banks)}
        yield labelled(GaugeMetricFamily, "slots", "Slots of the bank", "group", slots)
        yield gauge("bank_bytes", "Device memory of the banks", sum(b.slot_bytes * (b.group.slots + 1) for b in banks))
        yield gauge("host_bytes", "Verified grafts kept on the host", residency.host_bytes)
        yield gauge("host_bytes_budget", "Budget of the verified grafts on the host", residency.host_budget)
        yield labelled(CounterMetricFamily, "loads", "Grafts loaded", "cause", dict(residency.loads))
        yield labelled(CounterMetricFamily, "evictions", "Grafts evicted", "cause", dict(residency.evictions))
        yield gauge("longest_write_seconds", "Longest stall of the device thread by a load", residency.longest_write)
        if len(entries) <= self._max_tasks:  # else those that are asked for have label values
            for task in entries:
                self.label(task)
        generations = {task: float(entries[task].generation) for task in sorted(self._named & entries.keys())}
        yield labelled(GaugeMetricFamily, "generation", "Promotions behind the served version", "task", generations)
        given_up = {task: rows for task, rows in runtime.given_up.copy().items() if task in self._named}
        text = "Rows that cheaper submodels answered worse than in full, as certified"
        yield labelled(CounterMetricFamily, "given_up_rows", text, "task", given_up)
        state = readiness(self._runtime, self._follower)
        refused = len(self._follower.refused) + len(state.unable.keys() - self._follower.refused.keys())
        yield gauge("refused_versions", "Live versions that were refused, or do not load", refused)
        yield gauge("over_budget", "Served versions that break their team's budget", len(self._follower.over_budget))
        yield gauge("tasks", "Tasks with a live version", state.tasks)
        yield gauge("unable_tasks", "Tasks that cannot answer, since no version of them loads", len(state.unable))
        yield gauge("ready", "Whether something live can be answered", state.ready)
        yield gauge("overdue_reads", "Reads of artefacts that have not ended in time", residency.readers.overdue)
        yield gauge("device_stalled_seconds", "Time since the device thread began its batch", runtime.stalled())
        yield gauge("catalogue_reachable", "Whether the catalogue answered last", self._follower.unreachable is None)
        words: dict[str, float] = {word: float(word == state.following) for word in WORDS}
        yield labelled(GaugeMetricFamily, "catalogue_state", "1 for the state of the catalogue", "state", words)
        yield from self._drifts()
        yield from self._spent()
        if self._answers:
            quality = {"measured_counter": self.cpu() / self._answers}
            yield labelled(GaugeMetricFamily, "cpu_seconds_per_request", "Mean since the start", "quality", quality)
        joules = self.joules()
        if self._answers and joules.value is not None:
            each: dict[str, float] = {joules.quality: joules.value / self._answers}
            yield labelled(GaugeMetricFamily, "joules_per_request", "Mean since the start", "quality", each)

    def _spent(self) -> Iterator[Metric]:
        """Yields energy and CPU time by kind of work and by task, until the last sample; rates of them are power."""
        work, quality = self.work, self.joules().quality
        cpu = CounterMetricFamily("topgraft_work_cpu_seconds", "CPU time by kind of work", labels=["kind"])
        joules = CounterMetricFamily("topgraft_work_joules", "Energy by kind of work", labels=["kind", "quality"])
        for kind in KINDS:
            cpu.add_metric([kind], work.cpu[kind])
            joules.add_metric([kind, quality], work.joules[kind])
        task_rows = CounterMetricFamily("topgraft_task_rows", "Rows answered", labels=["task"])
        task_cpu = CounterMetricFamily("topgraft_task_cpu_seconds", "CPU time of answers", labels=["task"])
        task_joules = CounterMetricFamily("topgraft_task_joules", "Energy of answers", labels=["task", "quality"])
        named: defaultdict[str, list[str]] = defaultdict(list)
        for task in list(work.task_rows):
            named[task if task in self._named else OTHER].append(task)
        for label, tasks in named.items():
            task_rows.add_metric([label], sum(work.task_rows[task] for task in tasks))
            task_cpu.add_metric([label], sum(work.task_cpu[task] for task in tasks))
            task_joules.add_metric([label, quality], sum(work.task_joules[task] for task in tasks))
        yield from (cpu, task_rows, task_cpu)
        if quality != "unavailable":
            yield from (joules, task_joules)

    def _drifts(self) -> Iterator[Metric]:
        """Yields effect sizes and shares out of scope, of tasks with a label value of their own."""
        effects = GaugeMetricFamily(
            "topgraft_drift", "Stability index of traffic against development rows", labels=["task", "kind"]
        )
        shares = GaugeMetricFamily(
            "topgraft_out_of_scope_share", "Rows above the threshold, 99 % interval", labels=["task", "bound"]
        )
        live = {task: served.content_id for task, served in self._runtime.entries.items()}
        for task, report in self.drift.reports(live).items():
            if task not in self._named:
                continue
            for kind, effect in report.effects().items():
                effects.add_metric([task, kind], effect)
            for bound, value in vars(report.out_of_scope).items() if report.out_of_scope else ():
                shares.add_metric([task, bound], value)
        yield effects
        yield shares

    def sample(self) -> Reading:
        """Adds a point to the history, and returns the reading of the time since the last one."""
        with self._naming:
            self._forget_removed()
        joules, last = self.joules().value, self._last
        now = _Totals(time.monotonic(), self._answers, self._timed, self.cpu(), joules or 0.0)
        self._last = now
        self._busy.add(now.time, self._runtime.counts.device_seconds)
        before = dict(self.work.joules)
        self.work.add(self._totals(joules))
        seconds = max(now.time - last.time, 1e-9)
        new, waited = now.answers - last.answers, now.timed - last.timed
        recent = list(self._recent)[-min(waited, RECENT) :] if waited else []
        p50, p95 = (float(np.percentile(recent, q)) if recent else None for q in (50, 95))
        energy = None if joules is None else joules - last.joules
        watts = {
            kind: None if joules is None else round((spent - before[kind]) / seconds, 2)
            for kind, spent in self.work.joules.items()
        }
        self._history.append(
            Point(
                at=round(time.time(), 1),
                requests_per_second=round(new / seconds, 2),
                p50_ms=None if p50 is None else round(1e3 * p50, 2),
                p95_ms=None if p95 is None else round(1e3 * p95, 2),
                cpu_seconds_per_request=round((now.cpu - last.cpu) / new, 5) if new else None,
                joules_per_request=None if energy is None or not new else round(energy / new, 4),
                queue=self._runtime.waiting,
                watts_answers=watts["answers"],
                watts_loads=watts["loads"],
                watts_idle=watts["idle"],
            )
        )
        # without a response either nobody waits, or those who do have no answer yet
        idle = 0.0 if not self.in_progress else None
        return Reading(
            p95=idle if p95 is None else p95,
            queued=self._runtime.waiting,
            watts=energy / seconds if self._counter and energy is not None else None,
            celsius=self._thermometer() if self._thermometer else None,
        )

    def stats(self) -> Stats:
        """Returns the state and the history for the page."""
        joules, counts = self.joules(), self._runtime.counts
        return Stats(
            since=self._since,
            requests=self._answers,
            batch_fill=round(counts.rows / counts.padded_rows, 3) if counts.padded_rows else None,
            joules_quality=joules.quality,
            joules_source=joules.source,
            submodel=self._controller.submodel if self._controller else self._runtime.submodel,
            submodels=dict(self._runtime.answered_by),
            given_up={task: round(rows, 3) for task, rows in self._runtime.given_up.copy().items()},
            switches=tuple(self._controller.switches) if self._controller else (),
            in_progress=self.in_progress,
            queue=self._runtime.waiting,
            refused=dict(self._follower.refused),
            unreachable=self._follower.unreachable,
            history=tuple(self._history),
        )
