"""Speeds of compiled programs beside the machine's peaks, and which of them a later measurement has lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from metering.libraries import ProductUse

MIN_LOSS = 0.15  # share of its speed that a program must lose, however narrow the spread of the baseline


@dataclass(frozen=True)
class Peak:
    """The measured ceilings for products of one dtype."""

    factors: str  # dtype of both factors
    gflops: float  # rate of a large product, 10^9 FLOP/s
    gb_per_second: float  # rate of reading one array and writing another, 10^9 bytes/s


@dataclass(frozen=True)
class ProgramSpeed:
    """The speed of one program. A round's figure is its fastest pass."""

    program: str
    factors: str  # dtype of the factors of its products
    ms: float  # median of the rounds, milliseconds
    best_ms: float  # fastest round, milliseconds
    spread: float  # largest less smallest round, as a share of the median
    gflops: float  # counted operations at the median, 10^9 FLOP/s
    gb_per_second: float  # counted bytes at the median, 10^9 bytes/s
    attainable_gflops: float  # rate of the roofline at the program's intensity, 10^9 FLOP/s
    products: tuple[ProductUse, ...]  # library of each product

    @property
    def libraries(self) -> dict[str, int]:
        """Returns the number of products by library."""
        return {
            name: sum(one.count for one in self.products if one.library == name)
            for name in sorted({one.library for one in self.products})
        }

    @property
    def allowed_loss(self) -> float:
        """Returns the share of its speed that a later measurement may lose: twice the spread, at least `MIN_LOSS`."""
        return max(MIN_LOSS, 2 * self.spread)

    @property
    def steady(self) -> bool:
        """Returns whether a loss can be noticed at all: an allowed loss of the whole speed hides every one."""
        return self.allowed_loss < 1


@dataclass(frozen=True)
class Work:
    """A program's name and counted work."""

    program: str
    factors: str  # dtype of the factors of its products
    flops: float
    bytes: float
    products: tuple[ProductUse, ...]


def speed_of(work: Work, seconds: Sequence[float], peaks: Mapping[str, Peak]) -> ProgramSpeed:
    """Returns the speed of a program from the fastest pass of each round, in seconds, and the peaks by dtype."""
    median, peak = sorted(seconds)[len(seconds) // 2], peaks[work.factors]
    attainable = min(peak.gflops, work.flops / work.bytes * peak.gb_per_second)
    return ProgramSpeed(
        program=work.program,
        factors=work.factors,
        ms=1e3 * median,
        best_ms=1e3 * min(seconds),
        spread=(max(seconds) - min(seconds)) / median,
        gflops=work.flops / median / 1e9,
        gb_per_second=work.bytes / median / 1e9,
        attainable_gflops=attainable,
        products=work.products,
    )


def lost(before: ProgramSpeed, now: ProgramSpeed) -> float:
    """Returns the share of its speed that a program has lost, by its fastest round; negative for a gain.

    Other work on a machine makes rounds slower and never faster, so the fastest one says least about it.
    """
    return 1 - before.ms / now.best_ms


def is_slower(before: ProgramSpeed, now: ProgramSpeed) -> bool:
    """Returns whether a program has lost more of its speed than the spread of its baseline explains."""
    return lost(before, now) > before.allowed_loss


def joined(first: ProgramSpeed, second: ProgramSpeed) -> ProgramSpeed:
    """Returns two measurements of a program as one: the faster of both, with the fastest round."""
    faster = min(first, second, key=lambda one: one.best_ms)
    return replace(faster, ms=min(first.ms, second.ms))
