"""What a phase of a program cost: wall seconds, CPU seconds and peak memory.

    with window("train") as cost:
        ...
    cost.wall_seconds

Work on an accelerator must be waited for before a window closes; that is the caller's part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Cost:
    """Filled in when the window closes."""

    name: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0  # user and system time of this process, all threads
    resident_bytes: int = 0  # resident memory when the window closed

    def asdict(self) -> dict[str, float | int | str]:
        """For manifests and JSON; counters of the operating system, so measured."""
        return {
            "wall_seconds": round(self.wall_seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "resident_bytes": self.resident_bytes,
            "quality": "measured_counter",
        }


def cpu_seconds() -> float:
    """CPU seconds of this process since it started, all threads."""
    times = os.times()
    return times.user + times.system


def wall_seconds() -> float:
    """Seconds since this process started, interpreter and imports included."""
    return time.time() - psutil.Process().create_time()


@contextmanager
def window(name: str) -> Iterator[Cost]:
    """Measures the block."""
    cost = Cost(name)
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield cost
    finally:
        cost.wall_seconds = time.perf_counter() - wall
        cost.cpu_seconds = cpu_seconds() - cpu
        cost.resident_bytes = psutil.Process().memory_info().rss
