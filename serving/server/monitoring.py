"""What a server counts: for Prometheus (`/metrics`) and for the page (`/stats`).

Label values are bounded: tasks that are served, up to a limit. Energy and CPU time carry their quality; a
figure that cannot be had is absent from `/metrics` and null in `/stats`, never 0.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from metering.energy import Joules, meter, modelled
from metering.thermal import thermometer
from metering.window import cpu_seconds, on_accelerator
from serving.answers import Answer, Pending
from serving.controller import SUBMODELS, Controller, Reading
from serving.drift import Drift
from serving.follow import Follower
from serving.runtime import Runtime

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
HISTORY = 600  # samples kept for the page
RECENT = 2048  # latencies kept for its percentiles


class Metrics:
    """Counters of the server and a view of its runtime."""

    def __init__(self, runtime: Runtime, follower: Follower, max_tasks: int, controller: Controller | None = None):
        self._controller = controller
        self._runtime, self._follower, self._most_tasks = runtime, follower, max_tasks
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "topgraft_request_seconds", "From request to response", ["task"], buckets=BUCKETS, registry=self._registry
        )
        self._requests = Counter("topgraft_requests", "Responses", ["task", "status"], registry=self._registry)
        self._registry.register(self)
        self.drift = Drift(max_tasks)
        self._named: set[str] = set()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._answers = self._timed = 0  # responses, and those that waited for a batch
        self.in_progress = 0  # requests received and not answered
        self._cpu, self._begun = cpu_seconds(), time.time()
        counter = meter(on_accelerator())
        self._counter, self._joules = counter, counter.read() if counter else 0.0
        self._thermometer = thermometer(on_accelerator())
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._last = (time.monotonic(), 0, 0, 0.0, 0.0)

    def label(self, task: str | None) -> str:
        """The task as a label value: `other` unless it is served and within the limit."""
        if task is None or task not in self._runtime.entries:
            return "other"
        if task not in self._named and len(self._named) >= self._most_tasks:
            return "other"
        self._named.add(task)
        return task

    def answered(self, tasks: tuple[str, ...], status: int, seconds: float) -> None:
        """ServingCounts one response."""
        for task in {self.label(task) for task in tasks} or {"other"}:
            self._requests.labels(task, str(status)).inc()
            if status == 200:
                self._seconds.labels(task).observe(seconds)
        self._answers += 1
        if status in (200, 504):  # refusals are quick, and say nothing of how long an answer takes
            self._timed += 1
            self._recent.append(seconds)

    def observe(self, pending: Sequence[Pending], answers: Sequence[Answer]) -> None:
        """Counts the rows of grafts with an out-of-scope score towards drift, those of the live versions."""
        live = self._runtime.entries
        by_task: dict[str, list[tuple[Pending, Answer]]] = {}
        for one, answer in zip(pending, answers, strict=True):
            now = live.get(one.served.task)
            if answer.out_of_scope is not None and now is not None and now.content_id == one.served.content_id:
                by_task.setdefault(one.served.task, []).append((one, answer))
        for task, own in by_task.items():
            prepared = own[0][0].prepared
            assert prepared is not None
            assert prepared.scope is not None
            self.drift.observe(
                task,
                own[0][0].served.content_id,
                prepared.scope,
                [one.tokens for one, _ in own],
                [answer.out_of_scope or 0.0 for _, answer in own],
                [prepared.labels.index(next(iter(answer.probabilities))) for _, answer in own],
            )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def cpu(self) -> float:
        """CPU seconds of this process since the server was ready."""
        return cpu_seconds() - self._cpu

    def joules(self) -> Joules:
        """Energy since the server was ready."""
        if self._counter:
            return Joules("measured_counter", self._counter.read() - self._joules, source=self._counter.name)
        return modelled(self.cpu(), on_accelerator())

    def collect(self) -> Iterator[Metric]:
        """The state of the runtime at this moment (prometheus_client's collector protocol)."""
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
        yield labelled(CounterMetricFamily, "answers", "Rows by what answered", "submodel", dict(runtime.answered_by))
        in_use: dict[str, float] = {name: float(name == runtime.submodel) for name in SUBMODELS}
        yield labelled(GaugeMetricFamily, "submodel", "1 for the submodel in use", "submodel", in_use)
        switches = self._controller.count if self._controller else 0
        yield CounterMetricFamily("topgraft_submodel_switches", "Changes of the submodel in use", value=switches)
        residency, banks = runtime.residency, runtime.banks
        used = {str(number): float(count) for number, count in enumerate(residency.slots_used)}
        yield labelled(GaugeMetricFamily, "slots_used", "Slots taken", "group", used)
        slots = {str(number): float(bank.group.slots) for number, bank in enumerate(banks)}
        yield labelled(GaugeMetricFamily, "slots", "Slots there are", "group", slots)
        yield gauge("bank_bytes", "Device memory of the banks", sum(b.slot_bytes * (b.group.slots + 1) for b in banks))
        yield gauge("host_bytes", "Verified grafts kept on the host", residency.host_bytes)
        yield gauge("host_bytes_budget", "Most of them", residency.host_budget)
        yield labelled(CounterMetricFamily, "loads", "Grafts loaded", "cause", dict(residency.loads))
        yield labelled(CounterMetricFamily, "evictions", "Grafts evicted", "cause", dict(residency.evictions))
        yield gauge("longest_write_seconds", "Longest stall of the device thread by a load", residency.longest_write)
        generations = {self.label(task): float(served.generation) for task, served in runtime.entries.items()}
        yield labelled(GaugeMetricFamily, "generation", "Promotions behind the served version", "task", generations)
        yield gauge("refused_versions", "Live versions that were refused", len(self._follower.refused))
        yield gauge("catalogue_reachable", "Whether the catalogue answered last", self._follower.unreachable is None)
        yield from self._drifts()
        if self._answers:
            quality = {"measured_counter": self.cpu() / self._answers}
            yield labelled(GaugeMetricFamily, "cpu_seconds_per_request", "Mean since the start", "quality", quality)
        joules = self.joules()
        if self._answers and joules.value is not None:
            each: dict[str, float] = {joules.quality: joules.value / self._answers}
            yield labelled(GaugeMetricFamily, "joules_per_request", "Mean since the start", "quality", each)

    def _drifts(self) -> Iterator[Metric]:
        """Effect sizes and shares out of scope, of tasks that are served and within the limit of label values."""
        effects = GaugeMetricFamily(
            "topgraft_drift", "Stability index of traffic against development rows", labels=["task", "kind"]
        )
        shares = GaugeMetricFamily(
            "topgraft_out_of_scope_share", "Rows above the threshold, 99 % interval", labels=["task", "bound"]
        )
        live = {task: served.content_id for task, served in self._runtime.entries.items()}
        for task, report in self.drift.reports(live).items():
            if self.label(task) != task:
                continue
            for kind, effect in report.effects().items():
                effects.add_metric([task, kind], effect)
            for bound, value in vars(report.out_of_scope).items() if report.out_of_scope else ():
                shares.add_metric([task, bound], value)
        yield effects
        yield shares

    def sample(self) -> Reading:
        """Adds a point to the history of the page; what a controller decides by, of the time since the last."""
        now, joules = time.monotonic(), self.joules()
        then, answers, timed, cpu, energy = self._last
        spent, new, waited = max(now - then, 1e-9), self._answers - answers, self._timed - timed
        recent = list(self._recent)[-min(waited, RECENT) :] if waited else []
        value = joules.value
        self._history.append(
            {
                "at": round(time.time(), 1),
                "requests_per_second": round(new / spent, 2),
                "p50_ms": round(1e3 * float(np.percentile(recent, 50)), 2) if recent else None,
                "p95_ms": round(1e3 * float(np.percentile(recent, 95)), 2) if recent else None,
                "cpu_seconds_per_request": round((self.cpu() - cpu) / new, 5) if new else None,
                "joules_per_request": round((value - energy) / new, 4) if new and value is not None else None,
                "queue": self._runtime.waiting,
            }
        )
        self._last = (now, self._answers, self._timed, self.cpu(), value or 0.0)
        idle = 0.0 if not self.in_progress else None  # nobody waits; or those who do have no answer yet
        return Reading(
            p95=float(np.percentile(recent, 95)) if recent else idle,
            queued=self._runtime.waiting,
            watts=(value - energy) / spent if self._counter and value is not None else None,
            celsius=self._thermometer() if self._thermometer else None,
        )

    def stats(self) -> dict[str, Any]:
        """For the page."""
        joules, counts = self.joules(), self._runtime.counts
        return {
            "since": self._begun,
            "requests": self._answers,
            "batch_fill": round(counts.rows / counts.padded_rows, 3) if counts.padded_rows else None,
            "joules_quality": joules.quality,
            "joules_source": joules.source,
            "submodel": self._runtime.submodel,
            "submodels": dict(self._runtime.answered_by),
            "switches": [switch.asdict() for switch in self._controller.switches] if self._controller else [],
            "in_progress": self.in_progress,
            "queue": self._runtime.waiting,
            "refused": dict(self._follower.refused),
            "unreachable": self._follower.unreachable,
            "history": list(self._history),
        }
