"""What a run does to its machine: power, temperature, memory and throttling, sampled beside it.

A figure without a counter is null with the reason, never 0. A limit on a reading that the machine does not have is
refused before the run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backbone.errors import InputError
from metering.cgroups import throttled_seconds
from metering.cost import CostRecord
from metering.energy import Joules, meter
from metering.thermal import thermometer
from metering.window import on_accelerator, window
from trainers.scenarios.request import Load

EVERY = 0.25  # seconds between two samples
PROCESSORS = Path("/sys/devices/system/cpu")
ELSEWHERE = "the system is another process; measure where it runs"


@dataclass(frozen=True)
class Reading:
    """One quantity over a run."""

    average: float | None  # None: nothing could be read
    peak: float | None
    reason: str  # source of the figures, or the reason why there are none


@dataclass(frozen=True)
class Throttling:
    """What held the processors back during a run."""

    quota_seconds: float | None  # seconds for which a control group held this process back
    hot_events: int | None  # times that a processor was slowed down since it was hot
    reason: str  # what the figures rest on, or why there are none


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run."""

    watts: Reading  # power, of the quality of the joules
    celsius: Reading  # hottest sensor
    memory_bytes: Reading  # resident memory of this process
    throttling: Throttling
    joules: Joules  # energy of the run
    cpu_seconds: float | None  # CPU time of this process; None: the system is another process


def require_readable(load: Load, *, local: bool) -> None:
    """Raises InputError for a limit that nothing on this machine can check."""
    for name, limit, reader in (
        ("--max-watts", load.max_watts, meter(on_accelerator())),
        ("--max-celsius", load.max_celsius, thermometer(on_accelerator())),
    ):
        if limit is not None and not (local and reader):
            reason = "this machine has no counter or sensor for it" if local else ELSEWHERE
            raise InputError(f"{name}: cannot be checked: {reason}; leave it out")


@dataclass
class _Samples:
    """Samples taken while a run goes on."""

    watts: list[float] = field(default_factory=list)
    celsius: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    conditions: Conditions | None = None  # complete when the run has ended


@contextlib.contextmanager
def watched(local: bool) -> Iterator[_Samples]:
    """Samples the machine while the block runs; the conditions are complete when it ends."""
    samples, ended = _Samples(), threading.Event()
    if not local:
        yield samples
        nothing = Reading(None, None, ELSEWHERE)
        joules = Joules("unavailable", None, source=ELSEWHERE)
        samples.conditions = Conditions(nothing, nothing, nothing, Throttling(None, None, ELSEWHERE), joules, None)
        return
    sampler = threading.Thread(target=_sample, args=(samples, ended), name="sampler", daemon=True)
    held_before, hot_before = throttled_seconds(), hot_events()
    with window("scenario") as cost:
        sampler.start()
        try:
            yield samples
        finally:
            ended.set()
            sampler.join()
    throttling = _throttling(held_before, throttled_seconds(), hot_before, hot_events())
    samples.conditions = _conditions(samples, cost.record(), throttling)


def _sample(samples: _Samples, ended: threading.Event) -> None:
    counter, sensor, process = meter(on_accelerator()), thermometer(on_accelerator()), psutil.Process()
    before, at = counter.read() if counter else 0.0, time.monotonic()
    while True:
        last = ended.wait(EVERY)
        samples.memory.append(process.memory_info().rss)
        if sensor and (degrees := sensor()) is not None:
            samples.celsius.append(degrees)
        if counter:
            joules, now = counter.read(), time.monotonic()
            if now - at >= EVERY / 2:
                samples.watts.append((joules - before) / (now - at))
                before, at = joules, now
        if last:
            return


def _conditions(samples: _Samples, cost: CostRecord, throttling: Throttling) -> Conditions:
    if samples.watts:
        watts = Reading(cost.watts, max(samples.watts), f"{cost.joules.source}, every {EVERY:g} s")
    elif cost.watts is not None:
        watts = Reading(cost.watts, None, f"{cost.joules.quality}: {cost.joules.source}; a model has no peak")
    else:
        watts = Reading(None, None, cost.joules.source)
    return Conditions(
        watts=watts,
        celsius=_reading(samples.celsius, "hottest sensor", "this machine shows no sensor"),
        memory_bytes=_reading([float(one) for one in samples.memory], "resident memory", "unknown here"),
        throttling=throttling,
        joules=cost.joules,
        cpu_seconds=cost.cpu_seconds,
    )


def _reading(values: list[float], source: str, reason: str) -> Reading:
    return Reading(sum(values) / len(values), max(values), source) if values else Reading(None, None, reason)


def _throttling(before: float | None, now: float | None, hot: int | None, hot_now: int | None) -> Throttling:
    quota = None if before is None or now is None else round(now - before, 3)
    events = None if hot is None or hot_now is None else hot_now - hot
    sources = ["no control group with a quota counts" if quota is None else "control group"]
    sources.append("no processor counts its slowing down" if events is None else "processors' own counters")
    return Throttling(quota, events, "; ".join(sources))


def hot_events(root: Path = PROCESSORS) -> int | None:
    """Returns how often processors have slowed down since they were hot; None where none counts it."""
    counts = []
    for file in root.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        with contextlib.suppress(OSError, ValueError):
            counts.append(int(file.read_text()))
    return sum(counts) if counts else None
