"""Which submodel answers: full where there is room, cheaper ones under load. Pure but for the clock; imports no jax.

    controller = Controller(("full", "exits"), Bounds(p95=0.2, max_queued=256))
    controller.update(Reading(p95=0.31, queued=40))        # a Switch, or None

Levels lie in the order they are given in, each cheaper than the one before. One reading beyond its bound asks for one
level down; only when every reading is well under its bound (the relief) does it go one level up: hysteresis.
Between two switches lie at least `dwell` seconds, so that each can show what it does before the next. A reading that
is missing asks for nothing, in either direction: without it nothing is well under its bound.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from backbone.errors import InputError
from backbone.options import check, option

log = logging.getLogger(__name__)

Submodel = Literal["full", "bfloat16", "exits"]
SUBMODELS: tuple[Submodel, ...] = get_args(Submodel)
RELIEF = 0.7  # share of the bound below which a reading asks for the better submodel again
COOLER = 5.0  # degrees below the bound, for a temperature: its zero means nothing
KEPT = 100  # switches remembered


@dataclass(frozen=True)
class Bounds:
    """Bounds beyond which a cheaper submodel answers; None: no bound."""

    p95: float | None = option(
        None, "seconds of the 95th percentile of response times, beyond which a cheaper submodel answers", above=0
    )
    max_queued: int | None = option(
        None, "rows in the queue, beyond which a cheaper submodel answers", min=1, former="most-queued"
    )
    max_watts: float | None = option(
        None,
        "watts of the processor packages or GPUs, beyond which a cheaper submodel answers",
        above=0,
        former="most-watts",
    )
    max_celsius: float | None = option(
        None,
        "degrees Celsius of the hottest sensor, beyond which a cheaper submodel answers",
        above=0,
        former="most-celsius",
    )
    dwell: float = option(30.0, "least seconds between two switches of the submodel", above=0)

    def __post_init__(self) -> None:
        check(self)

    @property
    def count(self) -> int:
        """Returns the number of readings that are bounded."""
        return sum(value is not None for name, value in asdict(self).items() if name != "dwell")


@dataclass(frozen=True)
class Reading:
    """How things are; None: unknown, or nothing happened."""

    p95: float | None = None  # seconds, of the latest responses
    queued: int | None = None  # rows
    watts: float | None = None
    celsius: float | None = None


@dataclass(frozen=True)
class Switch:
    """One change of the submodel."""

    at: float  # seconds of the clock
    before: str
    after: str
    why: str

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"at": round(self.at, 1)}


class Controller:
    """The level in use, and the switches so far."""

    def __init__(self, levels: Sequence[str], bounds: Bounds, clock: Callable[[], float] = time.time):
        """Starts at the first level; raises InputError for levels that decide nothing or bounds that do nothing."""
        if unknown := [level for level in levels if level not in SUBMODELS]:
            raise InputError(f"--submodels: {unknown[0]!r} is none of {', '.join(SUBMODELS)}")
        if not levels or len(set(levels)) != len(levels):
            raise InputError(f"--submodels: each once and at least one, got {', '.join(levels) or 'none'}")
        if len(levels) > 1 and not bounds.count:
            raise InputError("--submodels: what decides between them? set --p95, --max-queued, --max-watts or others")
        if len(levels) == 1 and bounds.count:
            raise InputError("--submodels: a bound needs a cheaper one to go to, for example --submodels full,exits")
        self.levels, self.bounds, self._clock = tuple(levels), bounds, clock
        self.switches: deque[Switch] = deque(maxlen=KEPT)
        self.count = 0  # of all switches
        self._level, self._since = 0, clock()

    @property
    def submodel(self) -> str:
        """What is in use."""
        return self.levels[self._level]

    def update(self, reading: Reading) -> Switch | None:
        """Decides by a reading; the switch, if there is one."""
        now = self._clock()
        over = self._over(reading)
        if now - self._since < self.bounds.dwell:
            return None
        if over and self._level + 1 < len(self.levels):
            return self._go(self._level + 1, now, "; ".join(over))
        if not over and self._level and self._relieved(reading):
            return self._go(self._level - 1, now, "every reading is well below its bound")
        return None

    def _pairs(self, reading: Reading) -> list[tuple[str, float, float, float]]:
        """Name, value, bound and relief of what is read and bounded."""
        bounds = self.bounds
        found = []
        for name, value, bound in (
            ("p95 seconds", reading.p95, bounds.p95),
            ("queued rows", reading.queued, bounds.max_queued),
            ("watts", reading.watts, bounds.max_watts),
        ):
            if value is not None and bound is not None:
                found.append((name, float(value), float(bound), RELIEF * bound))
        if reading.celsius is not None and bounds.max_celsius is not None:
            found.append(("celsius", reading.celsius, bounds.max_celsius, bounds.max_celsius - COOLER))
        return found

    def _over(self, reading: Reading) -> list[str]:
        return [
            f"{name} {value:.4g} above {bound:g}" for name, value, bound, _ in self._pairs(reading) if value > bound
        ]

    def _relieved(self, reading: Reading) -> bool:
        pairs = self._pairs(reading)
        return len(pairs) == self.bounds.count and all(value <= relief for _, value, _, relief in pairs)

    def _go(self, level: int, now: float, why: str) -> Switch:
        switch = Switch(now, self.submodel, self.levels[level], why)
        self._level, self._since = level, now
        self.switches.append(switch)
        self.count += 1
        log.warning("submodel: %s to %s: %s", switch.before, switch.after, why)
        return switch
