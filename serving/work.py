"""The energy and CPU time of a server by kind of work, and of its answers by task.

Between two samples the device thread was busy with batches for some seconds, and loads of grafts took some. A counter
of the machine counts idle power too. So its joules are shared by time: batches, loads, and the rest, which is idle. CPU
time, and joules that are modelled from it, fall to batches and loads alone, or to idle where there was neither. What
batches took is shared among tasks by the rows that they answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["answers", "loads", "idle"]
KINDS: tuple[Kind, ...] = ("answers", "loads", "idle")


@dataclass(frozen=True)
class Totals:
    """Totals of a server at one moment, each since its start."""

    time: float  # monotonic, seconds
    busy: float  # seconds of the device thread in batches
    loading: float  # seconds in which grafts were read and verified
    cpu: float  # CPU seconds
    joules: float | None  # None: nothing counts or models them
    rows: Mapping[str, int] = field(default_factory=dict)  # rows answered, by task


def shares(seconds: float, busy: float, loading: float, *, counted: bool) -> dict[Kind, float]:
    """Returns the share of each kind of work in an interval; they sum to 1.

    `counted` says that idle time takes its part, as it does from a counter of the machine.
    """
    idle = max(0.0, seconds - busy - loading) if counted or not busy + loading else 0.0
    total = busy + loading + idle
    if not total:
        return {"answers": 0.0, "loads": 0.0, "idle": 1.0}
    return {"answers": busy / total, "loads": loading / total, "idle": idle / total}


class Work:
    """What a server has spent, by kind of work and by task."""

    def __init__(self, start: Totals, *, counted: bool):
        """Begins at `start`; `counted` says that the joules come from a counter, not from a model."""
        self._last, self._counted = start, counted
        self.joules: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self.cpu: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self.task_joules: defaultdict[str, float] = defaultdict(float)  # joules of answers
        self.task_cpu: defaultdict[str, float] = defaultdict(float)  # CPU seconds of answers
        self.task_rows: Counter[str] = Counter()  # rows answered

    def add(self, now: Totals) -> None:
        """Shares out what was spent since the last call."""
        last, self._last = self._last, now
        busy, loading = now.busy - last.busy, now.loading - last.loading
        seconds = now.time - last.time
        rows = {task: count - last.rows.get(task, 0) for task, count in now.rows.items()}
        cpu = self._shared(self.cpu, now.cpu - last.cpu, shares(seconds, busy, loading, counted=False))
        joules = 0.0
        if now.joules is not None and last.joules is not None:
            split = shares(seconds, busy, loading, counted=self._counted)
            joules = self._shared(self.joules, now.joules - last.joules, split)
        total = sum(rows.values())
        for task, count in rows.items():
            if count:
                self.task_rows[task] += count
                self.task_cpu[task] += cpu * count / total
                self.task_joules[task] += joules * count / total

    def _shared(self, spent: dict[Kind, float], amount: float, split: Mapping[Kind, float]) -> float:
        """Adds an amount to the kinds, and returns the part of answers."""
        for kind, share in split.items():
            spent[kind] += max(0.0, amount) * share
        return max(0.0, amount) * split["answers"]
