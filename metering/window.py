"""The cost of a phase of a program: wall and CPU seconds, peak memory, FLOPs, bytes and joules.

    with window("train") as cost:
        ...
        cost.add(flops=2e9)
    cost.wall_seconds, cost.joules.value

Windows may nest: work counted in one is counted in those around it. The caller waits for work on an accelerator
before a window closes. A figure that cannot be had is null, never 0.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from metering.cost import CostRecord
from metering.counts import Count
from metering.energy import Counter, Joules, meter, modelled

_PROC = Path("/proc/self")


@dataclass
class Cost:
    """The cost of a phase while it is counted; times and joules are filled in when its window closes."""

    name: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0  # user and system time of this process, all threads
    peak_bytes: int | None = None  # largest resident memory above the level after imports; None: not known here
    flops: float | None = None  # operations counted on paper; None: nobody counted
    bytes_moved: float | None = None  # bytes counted on paper; None: nobody counted
    joules: Joules = field(default_factory=lambda: Joules("unavailable", None, source="the window is open"))

    def add(self, *, flops: float = 0.0, bytes_moved: float = 0.0) -> None:
        """Adds counted work."""
        self.flops = (self.flops or 0.0) + flops
        self.bytes_moved = (self.bytes_moved or 0.0) + bytes_moved

    @property
    def watts(self) -> float | None:
        """Returns the average power, of the quality of the joules; None if either is unknown."""
        return self.joules.value / self.wall_seconds if self.joules.value and self.wall_seconds else None

    def record(self) -> CostRecord:
        """Returns the figures, rounded, for manifests and JSON."""
        return CostRecord(
            wall_seconds=round(self.wall_seconds, 3),
            cpu_seconds=round(self.cpu_seconds, 3),
            peak_bytes=self.peak_bytes,
            flops=self.flops,
            bytes_moved=self.bytes_moved,
            watts=None if self.watts is None else round(self.watts, 2),
            joules=self.joules.rounded(),
        )


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process since it started, all threads."""
    times = os.times()
    return times.user + times.system


def wall_seconds() -> float:
    """Returns the seconds since this process started, interpreter and imports included."""
    return time.time() - psutil.Process().create_time()


class _Peaks:
    """The peak resident memory of nested phases, by resetting the kernel's high-water mark (Linux)."""

    def __init__(self) -> None:
        self._open: list[Cost] = []
        self._base: int | None = None

    def _peak(self) -> int | None:
        try:
            for line in (_PROC / "status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return None

    def _note(self) -> None:
        peak = self._peak()
        if peak is not None and self._base is not None:
            for cost in self._open:
                cost.peak_bytes = max(cost.peak_bytes or 0, peak - self._base)

    def enter(self, cost: Cost) -> None:
        if self._base is None:
            self._base = psutil.Process().memory_info().rss
        self._note()
        try:
            (_PROC / "clear_refs").write_text("5")
        except OSError:
            self._base = None  # not Linux, or not allowed: no peak of a phase can be had
        self._open.append(cost)

    def leave(self, cost: Cost) -> None:
        self._note()
        self._open.remove(cost)

    @property
    def innermost(self) -> Cost | None:
        """Returns the window that was opened last among those that are open."""
        return self._open[-1] if self._open else None


_peaks = _Peaks()


def count_work(count: Callable[[], Count]) -> None:
    """Adds work to the innermost open window; without one, `count` is not called."""
    if (cost := _peaks.innermost) is not None:
        work = count()
        cost.add(flops=work.flops, bytes_moved=work.bytes)


def platform() -> str:
    """Returns what jax runs on here: cpu, gpu or tpu; cpu where jax is not in use."""
    jax = sys.modules.get("jax")
    return "cpu" if jax is None else str(jax.default_backend())


def on_accelerator() -> bool:
    """Returns whether jax runs on a GPU or TPU here; False where jax is not in use."""
    return platform() != "cpu"


def _counted(counter: Counter, joules: float, seconds: float) -> Joules:
    """Returns what a counter rose by; nothing is known where it did not rise, since its steps are longer."""
    if joules > 0:
        return Joules("measured_counter", joules, source=counter.name)
    return Joules("unavailable", None, source=f"{counter.name} did not rise in {seconds:.3g} s")


@contextmanager
def window(name: str) -> Iterator[Cost]:
    """Measures the block; the cost that it yields is complete when the block ends."""
    cost, accelerator = Cost(name), on_accelerator()
    counter = meter(accelerator)
    _peaks.enter(cost)
    joules = counter.read() if counter else 0.0
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield cost
    finally:
        cost.wall_seconds = time.perf_counter() - wall
        cost.cpu_seconds = cpu_seconds() - cpu
        if counter:
            cost.joules = _counted(counter, counter.read() - joules, cost.wall_seconds)
        else:
            cost.joules = modelled(cost.cpu_seconds, accelerator)
        _peaks.leave(cost)
        if (around := _peaks.innermost) is not None and cost.flops is not None:
            around.add(flops=cost.flops, bytes_moved=cost.bytes_moved or 0.0)
