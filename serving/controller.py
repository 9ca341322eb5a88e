"""The controller that chooses the submodel: full where there is room, cheaper ones under load. Imports no jax.

    controller = Controller(("full", "exits"), Bounds(p95=0.2, max_queued=256))
    controller.update(Reading(p95=0.31, queued=40))        # a Switch, or None

Levels are in the order of their cost, the most expensive first. A server measures them (`serving.ladder`): which tasks
answer more cheaply, and what that costs and loses. One reading beyond its bound asks for a level below: a p95 of twice
its bound for one of half the cost. Only when every reading is well under its bound (the relief) does the controller go
up, as far as the relief allows: hysteresis. Between two switches lie at least `dwell` seconds, so that each can show
its effect before the next. A reading that is missing asks for nothing in either direction: without it nothing is well
under its bound. Levels that were not measured are passed one by one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from backbone.console.options import check, option
from backbone.errors import InputError
from serving.ladder import Level

log = logging.getLogger(__name__)

Submodel = Literal["full", "exits", "pruned"]
SUBMODELS: tuple[Submodel, ...] = get_args(Submodel)
RELIEF = 0.7  # share of the bound below which a reading asks for the better submodel again
COOLER = 5.0  # degrees below the bound for the relief of a temperature: its zero means nothing
KEPT = 100  # switches kept for the page


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
        """Returns how many readings are bounded."""
        return sum(value is not None for name, value in asdict(self).items() if name != "dwell")


@dataclass(frozen=True)
class Reading:
    """Readings of a moment; None: unknown, or nothing happened."""

    p95: float | None = None  # 95th percentile of the latest responses, seconds
    queued: int | None = None  # rows
    watts: float | None = None  # power
    celsius: float | None = None  # temperature


@dataclass(frozen=True)
class Switch:
    """One change of the submodel."""

    at: float  # time of the clock, seconds, to 0.1
    before: str  # submodel before
    after: str  # submodel after
    why: str  # reading that asked for it


class Controller:
    """The level in use, and the switches so far."""

    def __init__(self, levels: Sequence[str], bounds: Bounds, clock: Callable[[], float] = time.time):
        """Starts at the first level; raises InputError for levels without a bound, and for bounds without levels."""
        if unknown := [level for level in levels if level not in SUBMODELS]:
            raise InputError(f"--submodels: {unknown[0]!r} is none of {', '.join(SUBMODELS)}")
        if not levels or len(set(levels)) != len(levels):
            raise InputError(f"--submodels: each once and at least one, got {', '.join(levels) or 'none'}")
        if len(levels) > 1 and not bounds.count:
            raise InputError("--submodels: what decides between them? set --p95, --max-queued, --max-watts or others")
        if len(levels) == 1 and bounds.count:
            raise InputError("--submodels: a bound needs a cheaper one to go to, for example --submodels full,exits")
        self.levels, self.bounds, self._clock = tuple(Level(name, name) for name in levels), bounds, clock
        self.switches: deque[Switch] = deque(maxlen=KEPT)
        self.count = 0  # switches since the start
        self._level, self._since = 0, clock()

    @property
    def level(self) -> Level:
        """Returns the level in use."""
        return self.levels[self._level]

    @property
    def submodel(self) -> str:
        """Returns the name of the level in use."""
        return self.level.name

    @property
    def chooses(self) -> bool:
        """Returns whether there is anything to choose between."""
        return self.bounds.count > 0

    def take(self, levels: Sequence[Level]) -> None:
        """Takes measured levels, the best first, and stays as far from full quality as before.

        A former level that was not measured is followed by the cheapest one, or by the best.
        """
        if not levels or tuple(levels) == self.levels:
            return
        cost, measured = self.level.cost, [level.cost or 0.0 for level in levels]
        same = [number for number, level in enumerate(levels) if level.submodels == self.level.submodels]
        if cost is None:
            self._level = len(levels) - 1 if self._level else 0
        elif same:
            self._level = same[0]
        else:
            self._level = min(range(len(levels)), key=lambda number: abs(measured[number] - cost))
        self.levels = tuple(levels)

    def update(self, reading: Reading) -> Switch | None:
        """Decides by a reading; returns the switch if there is one."""
        now = self._clock()
        over = self._over(reading)
        if now - self._since < self.bounds.dwell:
            return None
        if over and self._level + 1 < len(self.levels):
            return self._go(self._down(reading), now, "; ".join(over))
        if not over and self._level and self._relieved(reading):
            return self._go(self._up(reading), now, "every reading is well below its bound")
        return None

    def _down(self, reading: Reading) -> int:
        """Returns the best level below whose cost, measured, brings every reading to its bound; else the cheapest."""
        load, here = self._load(reading), self.level.cost
        for number in range(self._level + 1, len(self.levels)):
            cost = self.levels[number].cost
            if here is None or cost is None or cost * max(load, 1.0) <= here:
                return number
        return len(self.levels) - 1

    def _up(self, reading: Reading) -> int:
        """Returns the best level above at whose cost every reading stays below its relief; at least the next one."""
        load, here = self._load(reading), self.level.cost
        for number in range(self._level):
            cost = self.levels[number].cost
            if here is not None and cost is not None and cost * load <= RELIEF * here:
                return number
        return self._level - 1

    def _load(self, reading: Reading) -> float:
        """Returns the largest reading as a share of its bound; the zero of a temperature means nothing."""
        return max((value / bound for name, value, bound, _ in self._pairs(reading) if name != "celsius"), default=0.0)

    def _pairs(self, reading: Reading) -> list[tuple[str, float, float, float]]:
        """Returns name, value, bound and relief of each reading that is known and bounded."""
        bounds, pairs = self.bounds, []
        for name, value, bound in (
            ("p95 seconds", reading.p95, bounds.p95),
            ("queued rows", reading.queued, bounds.max_queued),
            ("watts", reading.watts, bounds.max_watts),
        ):
            if value is not None and bound is not None:
                pairs.append((name, float(value), float(bound), RELIEF * bound))
        if reading.celsius is not None and bounds.max_celsius is not None:
            pairs.append(("celsius", reading.celsius, bounds.max_celsius, bounds.max_celsius - COOLER))
        return pairs

    def _over(self, reading: Reading) -> list[str]:
        return [
            f"{name} {value:.4g} above {bound:g}" for name, value, bound, _ in self._pairs(reading) if value > bound
        ]

    def _relieved(self, reading: Reading) -> bool:
        pairs = self._pairs(reading)
        return len(pairs) == self.bounds.count and all(value <= relief for _, value, _, relief in pairs)

    def _go(self, level: int, now: float, why: str) -> Switch:
        switch = Switch(round(now, 1), self.submodel, self.levels[level].name, why)
        self._level, self._since = level, now
        self.switches.append(switch)
        self.count += 1
        log.warning("submodel: %s to %s: %s", switch.before, switch.after, why)
        return switch
