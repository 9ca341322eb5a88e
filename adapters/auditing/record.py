"""What an audit adds to the record of a machine. Imports no jax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from metering.speeds import Peak, ProgramSpeed
from metering.surroundings import Surroundings


@dataclass(frozen=True)
class MachineAudit:
    """The speeds of our programs on a machine, and what surrounds them."""

    at: str  # date and time, ISO 8601 in UTC
    load: float | None  # load average of the minute before; None: not known here
    rounds: int  # rounds of each program
    surroundings: Surroundings
    peaks: tuple[Peak, ...]  # measured ceilings by dtype
    programs: tuple[ProgramSpeed, ...]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yields the audit for people: name and value of each line."""
        around = self.surroundings
        licences = Counter(package.licence or "not stated" for package in around.packages)
        yield "packages", f"{len(around.packages)}; {', '.join(f'{n} {name}' for name, n in licences.most_common(6))}"
        pool = "number not known" if around.pool is None else f"{around.pool} for products"
        yield "threads", "; ".join([pool, *(f"{name}={value}" for name, value in around.threads.items())])
        yield "governors", ", ".join(around.governors) or "none is shown"
        for peak in self.peaks:
            yield f"peak, {peak.factors}", f"{peak.gflops:.0f} GFLOP/s, {peak.gb_per_second:.0f} GB/s"
        for one in self.programs:
            yield one.program, _speed(one)


def _speed(one: ProgramSpeed) -> str:
    """Returns a program's speed and libraries for people."""
    libraries = ", ".join(f"{name} {count}" for name, count in one.libraries.items())
    share = one.gflops / one.attainable_gflops
    return (
        f"{one.ms:.2f} ms +- {one.spread / 2:.0%}, {one.gflops:.0f} GFLOP/s ({share:.0%} of attainable), "
        f"{one.gb_per_second:.1f} GB/s; products: {libraries or 'none'}"
    )
