"""A run's bookkeeping: its folder, its identity, its costs. Nothing here changes the trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from metering.cost import CostRecord
from metering.window import Cost, window


@dataclass
class ComputedRows:
    """A count of the rows that a run computed instead of reading them."""

    rows: int = 0  # forward passes of a row, whole or in part


@dataclass
class Run:
    """One run in its work folder."""

    workdir: Path
    show: bool = False  # progress bars
    identity: Mapping[str, str] = field(default_factory=dict)  # values that a checkpoint must share to be resumed
    computed: ComputedRows = field(default_factory=ComputedRows)
    costs: dict[str, Cost] = field(default_factory=dict)  # cost of each phase of this process

    @contextmanager
    def phase(self, name: str) -> Iterator[Cost]:
        """Measures the block as the phase `name`."""
        with window(name) as self.costs[name]:
            yield self.costs[name]

    def records(self) -> dict[str, CostRecord]:
        """Returns the cost of each phase so far."""
        return {name: cost.record() for name, cost in self.costs.items()}
