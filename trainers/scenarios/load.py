"""The three scenarios of MLPerf Inference that a server or a device meets, in small.

- `single_stream`: the next query comes when the last one is answered. Its figure is a percentile of latency.
- `server`: queries arrive at random instants (Poisson) whatever the system does. Its figure is whether a rate keeps a
  percentile of latency within a bound. A latency counts from the intended instant, so nothing that waits is left out.
- `offline`: every query is there at the start. Its figure is rows a second.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from backbone.errors import InputError
from trainers.scenarios.arrivals import poisson_arrivals, row_order
from trainers.scenarios.early_stopping import needed_queries
from trainers.scenarios.request import Scenario
from trainers.scenarios.systems import System
from trainers.scenarios.timers import exact_loop

PERCENTILES = (0.5, 0.9, 0.95, 0.99)
LONGEST = 10  # times the requested seconds, after which a run ends without enough queries


@dataclass(frozen=True)
class Trace:
    """What a run of a scenario saw."""

    seconds: float  # from the first query to the last answer
    latencies: tuple[float, ...] = ()  # seconds of each answered query, in the order of the answers
    queries: int = 0  # queries sent
    answers: int = 0  # rows answered
    failures: tuple[str, ...] = ()  # reasons of the queries without an answer
    latest: float = 0.0  # seconds by which the generator itself was late, at worst


@dataclass
class _Log:
    """The latencies and failures of a run while it goes on."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def timed(self, since: float, answer: Awaitable[float]) -> None:
        """Waits for the instant of an answer, and notes the seconds since another one."""
        try:
            self.latencies.append(await answer - since)
        except OSError as error:
            self.failures.append(str(error))


async def single_stream(system: System, rows: int, seconds: float, seed: int) -> Trace:
    """Asks one row after another, for `seconds` and until there are enough queries for the highest percentile."""
    log, order = _Log(), row_order(rows, seed)
    enough, start = max(rows, needed_queries(1, PERCENTILES[-1])), time.perf_counter()
    sent = 0
    while True:
        now = time.perf_counter()
        spent = now - start
        if sent and ((spent >= seconds and sent >= enough) or spent >= LONGEST * seconds):
            break
        await log.timed(now, system.ask(next(order)))
        sent += 1
    return Trace(time.perf_counter() - start, tuple(log.latencies), sent, len(log.latencies), tuple(log.failures))


async def server(system: System, rows: int, seconds: float, seed: int, rate: float) -> Trace:
    """Asks at the instants of a Poisson process, for `seconds` and at least as many as prove the highest percentile.

    Raises what `system` raises beside OSError, and InputError for a rate at which nothing would be asked.
    """
    enough = max(math.ceil(rate * seconds), min(needed_queries(1, PERCENTILES[-1]), int(LONGEST * rate * seconds)))
    arrivals = poisson_arrivals(rate, enough, seed)
    arrivals = arrivals[arrivals <= LONGEST * seconds]
    if not len(arrivals):
        raise InputError(
            f"--rate: at {rate:g} a second no query arrives within {LONGEST * seconds:g} s; raise --seconds"
        )
    order, log = row_order(rows, seed), _Log()
    under_way: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if not task.cancelled() and (error := task.exception()):
            errors.append(error)

    latest, start = 0.0, time.perf_counter()
    for at in start + arrivals:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        if errors:
            break
        latest = max(latest, time.perf_counter() - at)
        task = asyncio.create_task(log.timed(at, system.ask(next(order))))
        under_way.add(task)
        task.add_done_callback(ended)
    while under_way and not errors:
        await asyncio.wait(set(under_way), return_when=asyncio.FIRST_EXCEPTION)
    if errors:
        raise errors[0]
    spent = time.perf_counter() - start
    return Trace(spent, tuple(log.latencies), len(arrivals), len(log.latencies), tuple(log.failures), latest)


async def offline(system: System, rows: int, seconds: float, seed: int) -> Trace:
    """Asks every row at once, again until `seconds` have passed."""
    order, start, answers, queries, log = row_order(rows, seed), time.perf_counter(), 0, 0, _Log()
    while queries == 0 or time.perf_counter() - start < seconds:
        await log.timed(time.perf_counter(), system.ask_all([next(order) for _ in range(rows)]))
        queries += 1
        if log.failures:
            break
        answers += rows
    return Trace(time.perf_counter() - start, (), queries, answers, tuple(log.failures))


def run(scenario: Scenario, system: System, rows: int, *, seconds: float, seed: int, rate: float = 0.0) -> Trace:
    """Runs one scenario; `rate` is that of the arrivals, queries a second."""
    calls: dict[str, Callable[[], Awaitable[Trace]]] = {
        "single_stream": lambda: single_stream(system, rows, seconds, seed),
        "server": lambda: server(system, rows, seconds, seed, rate),
        "offline": lambda: offline(system, rows, seconds, seed),
    }

    async def called() -> Trace:
        try:
            return await calls[scenario]()
        finally:
            system.close()

    with asyncio.Runner(loop_factory=exact_loop) as runner:
        return runner.run(called())


def percentile(latencies: tuple[float, ...], share: float) -> float:
    """Returns an empirical percentile, seconds."""
    return float(np.percentile(latencies, 100 * share))
