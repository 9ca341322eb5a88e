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
    """Returns the energy of two phases together. If their meters differ (after a restart), the sum is modelled."""
    value = _sum(first.value, second.value)
    quality = second.quality
    if first.quality != second.quality:
        quality = "unavailable" if value is None else "modelled"
    return Joules(quality, value, _sum(first.low, second.low), _sum(first.high, second.high), second.source)


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else round(first + second, 3)
