"""The cost of a finished phase as a record, for manifests, results and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from metering.energy import Joules, Quality


@dataclass(frozen=True, kw_only=True)
class CostRecord:
    """The cost of a phase. Times are the operating system's; joules carry a quality of their own."""

    wall_seconds: float  # seconds of the clock
    cpu_seconds: float  # user and system time of the process, all threads
    peak_bytes: int | None  # largest resident memory above the level after imports; None: unknown here
    flops: float | None  # counted floating-point operations; None: nobody counted
    bytes_moved: float | None  # counted bytes read and written; None: nobody counted
    watts: float | None  # average power, of the quality of the joules
    joules: Joules  # energy
    quality: Quality = "measured_counter"  # quality of the times


def add_costs(first: CostRecord, second: CostRecord) -> CostRecord:
    """Returns the cost of two phases together. A figure that one of them lacks is None."""
    wall = round(first.wall_seconds + second.wall_seconds, 3)
    joules = add_joules(first.joules, second.joules)
    peaks = [cost.peak_bytes for cost in (first, second) if cost.peak_bytes is not None]
    return CostRecord(
        wall_seconds=wall,
        cpu_seconds=round(first.cpu_seconds + second.cpu_seconds, 3),
        peak_bytes=max(peaks, default=None),
        flops=_sum(first.flops, second.flops),
        bytes_moved=_sum(first.bytes_moved, second.bytes_moved),
        watts=round(joules.value / wall, 2) if joules.value is not None and wall else None,
        joules=joules,
    )


def add_joules(first: Joules, second: Joules) -> Joules:
    """Returns the energy of two phases together.

    Figures of one quality and one source are added. Others are not: the result is unavailable, and its parts keep a
    sum for each quality and source. A part without a figure says why.
    """
    sums: dict[tuple[Quality, str], Joules] = {}
    for part in (*(first.parts or (first,)), *(second.parts or (second,))):
        key = (part.quality, "" if part.value is None else part.source)
        sums[key] = _added(sums[key], part) if key in sums else part
    if len(sums) == 1:
        return next(iter(sums.values()))
    qualities = ", ".join(dict.fromkeys(quality for quality, _ in sums))
    return Joules("unavailable", None, source=f"parts that cannot be added: {qualities}", parts=tuple(sums.values()))


def _added(first: Joules, second: Joules) -> Joules:
    """Returns the sum of two figures of one quality and source."""
    value, low, high = _sum(first.value, second.value), _sum(first.low, second.low), _sum(first.high, second.high)
    return Joules(first.quality, value, low, high, first.source)


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else round(first + second, 3)
