"""A run's bookkeeping: its folder, its identity, its costs. Nothing here changes the trained parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from metering.cost import CostRecord, add_joules
from metering.energy import Joules
from metering.window import Cost, window


@dataclass
class ComputedRows:
    """A count of the rows that a run computed instead of reading them, and of those that earlier runs had computed."""

    rows: int = 0  # forward passes of a row, whole or in part
    stored: dict[Path, set[bytes]] = field(default_factory=dict)  # by cache, the keys of the rows that this run stored
    read: set[bytes] = field(default_factory=set)  # keys of the rows that a cache held before this run


@dataclass
class Run:
    """One run in its work folder."""

    workdir: Path
    show: bool = False  # progress bars
    identity: Mapping[str, str] = field(default_factory=dict)  # values that a checkpoint must share to be resumed
    known_answers: str = ""  # verdict on the compiler (`adapters.machine`)
    computed: ComputedRows = field(default_factory=ComputedRows)
    costs: dict[str, Cost] = field(default_factory=dict)  # cost of each phase of this process
    _inside: bool = False  # a phase is open
    _outer: list[str] = field(default_factory=list)  # phases that lay in no other one

    @contextmanager
    def phase(self, name: str) -> Iterator[Cost]:
        """Measures the block as the phase `name`."""
        outer, self._inside = not self._inside, True
        try:
            with window(name) as self.costs[name]:
                yield self.costs[name]
        finally:
            if outer:
                self._inside = False
                self._outer.append(name)

    def records(self) -> dict[str, CostRecord]:
        """Returns the cost of each phase so far."""
        return {name: cost.record() for name, cost in self.costs.items()}

    def joules(self) -> Joules:
        """Returns the energy of the phases so far; a phase inside another is counted once."""
        parts = [self.costs[name].joules for name in dict.fromkeys(self._outer)]
        return (
            functools.reduce(add_joules, parts) if parts else Joules("unavailable", None, source="no phase has ended")
        )
