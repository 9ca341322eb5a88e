"""Arrivals, and the three scenarios on a system whose times are known."""

from __future__ import annotations

import asyncio
import itertools
import time

import numpy as np
import pytest

from trainers.scenarios.arrivals import poisson_arrivals, row_order
from trainers.scenarios.early_stopping import needed_queries
from trainers.scenarios.load import run


class Sleeper:
    """A system that answers one row at a time, each in `seconds`; every `failing`-th query fails."""

    name, local = "sleeper", True

    def __init__(self, seconds: float, failing: int = 0):
        self.seconds, self.failing, self.rows, self.free = seconds, failing, [], 0.0

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def scores(self):
        return {"accuracy": 1.0}, len(set(self.rows))

    async def ask(self, row: int) -> None:
        self.rows.append(row)
        if self.failing and len(self.rows) % self.failing == 0:
            raise ConnectionError("no answer")
        self.free = max(self.free, time.perf_counter()) + self.seconds
        await asyncio.sleep(self.free - time.perf_counter())

    async def ask_all(self, rows) -> None:
        self.rows.extend(rows)
        await asyncio.sleep(self.seconds * len(rows))


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
