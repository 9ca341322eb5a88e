"""Arrivals, and the three scenarios on a system whose times are known."""

from __future__ import annotations

import asyncio
import itertools
import time

import numpy as np
import pytest

from backbone.errors import InputError
from trainers.scenarios.arrivals import poisson_arrivals, row_order
from trainers.scenarios.early_stopping import needed_queries
from trainers.scenarios.load import run
from trainers.scenarios.timers import exact_loop


class Sleeper:
    """A system that answers one row at a time, each in `seconds`; every `failing`-th query fails."""

    name, local = "sleeper", True

    def __init__(self, seconds: float, failing: int = 0):
        self.seconds, self.failing, self.rows, self.free = seconds, failing, [], 0.0

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def scores(self):
        return {"accuracy": 1.0}, len(set(self.rows))

    async def ask(self, row: int) -> float:
        self.rows.append(row)
        if self.failing and len(self.rows) % self.failing == 0:
            raise ConnectionError("no answer")
        self.free = max(self.free, time.perf_counter()) + self.seconds
        await asyncio.sleep(self.free - time.perf_counter())
        return time.perf_counter()

    async def ask_all(self, rows) -> float:
        self.rows.extend(rows)
        await asyncio.sleep(self.seconds * len(rows))
        return time.perf_counter()


def test_arrivals_are_poisson_and_seeded():
    gaps = np.diff(poisson_arrivals(50.0, 20_000, 3), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03), "an exponential's deviation is its mean"
    np.testing.assert_array_equal(poisson_arrivals(50.0, 9, 3), poisson_arrivals(50.0, 9, 3))
    assert (poisson_arrivals(50.0, 9, 3) != poisson_arrivals(50.0, 9, 4)).all()


def test_every_row_comes_once_before_any_comes_again():
    order = list(itertools.islice(row_order(7, 1), 21))
    assert [sorted(order[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert order[:7] != order[7:14]


def test_a_single_stream_asks_as_many_as_the_highest_percentile_needs():
    trace = run("single_stream", system := Sleeper(0.0005), 5, seconds=0.2, seed=0)
    assert trace.queries >= needed_queries(1, 0.99)
    assert trace.answers == trace.queries == len(system.rows)
    assert min(trace.latencies) >= 0.0005
    assert run("single_stream", Sleeper(0.02), 5, seconds=0.02, seed=0).queries <= 11, "it ends without enough"


def test_a_server_is_asked_whatever_it_does():
    """At twice the rate that it can answer, the last query waits about as long as the run."""
    trace = run("server", Sleeper(0.004), 50, seconds=0.4, seed=0, rate=500.0)
    assert trace.queries >= 662
    assert max(trace.latencies) > 0.8 * (trace.queries * 0.004 - trace.queries / 500)
    calm = run("server", Sleeper(0.0), 50, seconds=0.2, seed=0, rate=4000.0)
    assert np.median(calm.latencies) < 0.5
    assert calm.answers == calm.queries


def test_a_latency_counts_from_the_intended_instant():
    """A system that blocks the generator itself makes it late; the queries that were due by then have waited."""

    class Blocking(Sleeper):
        async def ask(self, row: int) -> float:
            self.rows.append(row)
            if len(self.rows) == 20:
                time.sleep(0.3)
            return time.perf_counter()

    trace = run("server", Blocking(0.0), 50, seconds=0.7, seed=0, rate=1000.0)
    assert sum(latency > 0.1 for latency in trace.latencies) > 100
    assert 0.2 < trace.latest < 5, "the largest delay, though the last query was on time"
    assert trace.latencies[-1] < 0.2


def test_a_server_is_asked_no_longer_than_ten_times_the_seconds():
    start = time.perf_counter()
    trace = run("server", Sleeper(0.0), 5, seconds=0.05, seed=0, rate=4.0)
    assert 1 <= trace.queries == trace.answers <= 10
    for rate, seconds in ((1e-9, 0.05), (100.0, 1e-9)):
        with pytest.raises(InputError, match="no query arrives"):
            run("server", Sleeper(0.0), 5, seconds=seconds, seed=0, rate=rate)
    assert time.perf_counter() - start < 5


def test_an_error_of_the_program_ends_the_run():
    class Broken(Sleeper):
        async def ask(self, row: int) -> float:
            await super().ask(row)
            if len(self.rows) > 9:
                raise KeyError("answers")
            return 0.0

    for scenario in ("single_stream", "server"):
        with pytest.raises(KeyError, match="answers"):
            run(scenario, system := Broken(0.0), 5, seconds=30.0, seed=0, rate=300.0)
        assert len(system.rows) < 300, "at once, not when all have been asked"


def test_a_single_stream_asks_every_row_and_counts_answers_alone():
    class Busy(Sleeper):
        async def ask(self, row: int) -> float:
            self.rows.append(row)
            time.sleep(0.0003)  # fewer than all rows within the seconds, all of them within ten times as long
            return time.perf_counter()

    trace = run("single_stream", system := Busy(0.0), 900, seconds=0.2, seed=0)
    assert trace.queries == 900 == len(set(system.rows))
    trace = run("single_stream", Sleeper(0.0, failing=4), 5, seconds=0.1, seed=0)
    assert trace.answers == len(trace.latencies) == trace.queries - len(trace.failures)
    assert len(trace.failures) == trace.queries // 4
    assert run("single_stream", Sleeper(0.0), 5, seconds=1e-9, seed=0).queries == 1


def test_what_is_not_answered_is_counted():
    trace = run("server", Sleeper(0.0, failing=10), 50, seconds=0.05, seed=0, rate=4000.0)
    assert len(trace.failures) == trace.queries // 10
    assert trace.answers == trace.queries - len(trace.failures)


def test_offline_answers_whole_rounds_of_the_rows():
    trace = run("offline", system := Sleeper(0.001), 20, seconds=0.05, seed=0)
    assert trace.answers == 20 * trace.queries == len(system.rows)
    assert trace.seconds >= max(0.05, 0.001 * trace.answers)
    assert trace.latencies == ()
    assert run("offline", Sleeper(0.0), 20, seconds=0.05, seed=0).queries > 1


def test_a_latency_ends_when_the_answer_was_there_not_when_it_was_read():
    class Read(Sleeper):
        async def ask(self, row: int) -> float:
            answered = await super().ask(row)
            await asyncio.sleep(0.05)
            return answered

    trace = run("single_stream", Read(0.001), 5, seconds=0.1, seed=0)
    assert np.median(trace.latencies) < 0.05
    assert trace.seconds > 0.05 * trace.queries


def test_timers_end_within_a_millisecond():
    """Those of epoll end up to a millisecond late, half of one in the mean; waiting itself takes no CPU time."""

    async def late() -> list[float]:
        seconds = []
        for _ in range(200):
            end = time.perf_counter() + 0.0031
            await asyncio.sleep(end - time.perf_counter())
            seconds.append(time.perf_counter() - end)
        return seconds

    spent = time.process_time()
    with asyncio.Runner(loop_factory=exact_loop) as runner:
        measured = runner.run(late())
    assert min(measured) > -1e-4
    assert np.quantile(measured, 0.1) < 5e-4, "0.9 ms by timers of whole milliseconds"
    assert time.process_time() - spent < 0.5
