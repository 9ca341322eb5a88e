"""Two rules of autoscaling on a recorded day: CPU percentage, and latency at the least energy. A simulation.

    python -m benchmarks.autoscaling --data ../shared/data [--peak 8] [--precision int8] [--service FIXED ROW]

Arrivals are the tweets of airline_tweets of 18 February 2015, in their minutes. Each comes as often as brings the
busiest hour to `--peak` replicas' worth of full batches. Times of batches are measured first, on one core: a server's
runtime answers the texts of these tweets by a probe on MiniLM, in its own buckets and batch sizes. A replica takes what
waits, up to 32 rows, and all replicas share one queue.

Watts are inputs, for most machines have no counter that a replica could read. A busy replica takes 1, an idle one a
share of it, of which several are tried: about half is usual (Barroso and Hoelzle 2007, "The case for
energy-proportional computing"). A ratio of two rules needs no more. A replica that starts is busy for
`--start-seconds`, and answers nothing.

- `cpu`: Kubernetes' HorizontalPodAutoscaler. Wanted are the present replicas times their busy share of the last minute
  over a target, with a tolerance of 0.1. The largest number of the last five minutes counts.
- `latency`: docs/deploy/replicas.yaml. The load is the rate of rows that arrive, the higher of the last two looks, over
  that of a replica in full batches. Wanted are load + margin x (load / 3 + sqrt(load)), and what answers the rows that
  wait within 15 seconds, rounded up. The largest number of the last minute counts.

Each rule's parameter is swept. The figure is the ratio of the least energies whose 99th percentile of the day keeps a
bound of one, two or four full batches. A tweet comes thousands of times, so the rate of a minute is the mean of
`--smooth` around it. With 1, as the tweets came, the load of neighbouring minutes differs several times: no rule that
starts replicas in half a minute holds any bound.
"""

from __future__ import annotations

import argparse
import csv
import functools
import heapq
import math
import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import ROOT, parsed, write

DAY, STEP, BATCH = 86_400, 15, 32  # seconds of a day, and between two decisions; most rows of a batch
MINUTE = 60 // STEP  # decisions of a minute
TARGETS = (0.6, 0.7, 0.8, 0.85, 0.88, 0.9)  # busy shares at which `cpu` aims; beyond 0.9 its tolerance never starts one
MARGINS = (0.2, 0.3, 0.37, 0.45, 0.55, 0.7)  # of `latency`
DRAIN = 15.0  # seconds in which `latency` wants the rows answered that wait
BOUNDS = (1, 2, 4)  # bounds on the 99th percentile, in full batches
IDLE_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # power of an idle replica over that of a busy one
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # rows of the measured batches
WARM_UP, ROUNDS = 3, 30  # batches of each size


@dataclass(frozen=True)
class Service:
    """The time of a batch by its rows."""

    seconds: tuple[float, ...]  # of 0, 1, ... rows, up to a full batch

    @classmethod
    def line(cls, fixed: float, row: float, batch: int = BATCH) -> Service:
        """Returns one whose batches take `fixed` seconds, and `row` more for each row."""
        return cls(tuple(fixed + rows * row for rows in range(batch + 1)))

    @classmethod
    def measured(cls, medians: Mapping[int, float]) -> Service:
        """Returns one from the seconds of some numbers of rows; between them it goes in lines, and never falls."""
        rows = np.arange(max(medians) + 1)
        seconds = np.interp(rows, sorted(medians), [medians[size] for size in sorted(medians)])
        return cls(tuple(np.maximum.accumulate(seconds).tolist()))

    @property
    def batch(self) -> int:
        """Largest number of rows."""
        return len(self.seconds) - 1

    @property
    def rate(self) -> float:
        """Rows a second of one replica in full batches."""
        return self.batch / self.seconds[-1]


@dataclass(frozen=True)
class Seen:
    """The view of a rule at a decision."""

    replicas: int  # running or starting
    busy: float  # mean busy share of the running replicas in the last minute
    rate: float  # rows a second that arrived in the last 30 seconds: answered ones and what the queue grew by
    queued: int  # rows whose batch has not begun


@dataclass(frozen=True)
class Outcome:
    """A day under a rule."""

    p99_ms: float  # of all latencies
    replica_hours: float  # hours of running and starting replicas
    busy_hours: float  # hours in batches or starting
    starts: int
    mean_wait_ms: float  # from arrival to the start of the batch
    rows_a_batch: float  # mean

    def energy(self, idle_share: float) -> float:
        """Returns hours at the power of a busy replica."""
        return self.busy_hours + idle_share * (self.replica_hours - self.busy_hours)


Rule = Callable[[Seen], int]
Days = dict[float, Outcome]  # by the parameter of the rule


class Replicas:
    """Replicas behind one queue. Those that are told to end finish their batch."""

    def __init__(self, service: Service, count: int):
        self.cost = service.seconds
        self.batch = service.batch
        self.free = [0.0] * count  # heap: when each replica has finished its batch
        self.starting = deque[float]()  # when each one is ready
        self.waiting: list[float] = []  # arrivals without a batch
        self.busy = 0.0  # seconds of batches that began
        self.batches = 0

    @property
    def count(self) -> int:
        """Running or starting ones."""
        return len(self.free) + len(self.starting)

    def live(self, arrivals: list[float], until: float) -> tuple[np.ndarray, np.ndarray]:
        """Answers until an instant; returns waits and latencies float64 [N] of the rows whose batch began."""
        rows, free, cost, batch = self.waiting + arrivals, self.free, self.cost, self.batch
        head, total, starts, ends, sizes = 0, len(rows), [], [], []
        while self.starting and self.starting[0] <= until:
            heapq.heappush(free, self.starting.popleft())
        while head < total and free:
            arrived, start = rows[head], free[0]
            start = max(start, arrived)
            if start >= until:
                break
            tail = bisect_right(rows, start, head, min(head + batch, total))
            done = start + cost[tail - head]
            heapq.heapreplace(free, done)
            starts.append(start)
            ends.append(done)
            sizes.append(tail - head)
            head = tail
        self.waiting = rows[head:]
        self.busy += sum(ends) - sum(starts)
        self.batches += len(starts)
        arrived_at = np.array(rows[:head])
        return np.repeat(starts, sizes) - arrived_at, np.repeat(ends, sizes) - arrived_at

    def resize(self, wanted: int, now: float, start_seconds: float) -> tuple[int, float]:
        """Starts or ends replicas; returns the number of starts, and the seconds that ended ones still work."""
        starts, still = max(0, wanted - self.count), 0.0
        self.starting.extend([now + start_seconds] * starts)
        for _ in range(self.count - wanted):
            if len(self.free) > 1:  # the idle ones first; one that starts ends where too few run
                still += max(0.0, heapq.heappop(self.free) - now)
            else:
                self.starting.pop()
        return starts, still


def simulate(minutes: Iterator[list[float]], service: Service, rule: Rule, start_seconds: float = 30.0) -> Outcome:
    """Lives through lists of arrivals, one for each minute, in seconds and ascending. It begins with one replica.

    A rule decides every 15 seconds; at least one replica stays.
    """
    replicas, now, alive, starts = Replicas(service, 1), 0.0, 0.0, 0
    counts, shares = deque[int](maxlen=2), deque[float](maxlen=MINUTE)
    latencies, waits = [], 0.0
    for minute in minutes:
        begin = 0
        for _ in range(MINUTE):
            until, before = now + STEP, replicas.busy
            end = bisect_right(minute, until, begin)
            waited, latency = replicas.live(minute[begin:end], until)
            latencies.append(latency.astype(np.float32))
            waits += float(waited.sum())
            counts.append(end - begin)
            shares.append(min(1.0, (replicas.busy - before) / STEP / len(replicas.free)))
            alive, now, begin = alive + STEP * replicas.count, until, end
            rate = sum(counts) / STEP / len(counts)
            seen = Seen(replicas.count, float(np.mean(shares)), rate, len(replicas.waiting))
            started, still = replicas.resize(max(1, rule(seen)), now, start_seconds)
            starts, alive = starts + started, alive + still
    everything = np.concatenate(latencies)
    return Outcome(
        p99_ms=1e3 * float(np.quantile(everything, 0.99)),
        replica_hours=alive / 3600,
        busy_hours=(replicas.busy + starts * start_seconds) / 3600,
        starts=starts,
        mean_wait_ms=1e3 * waits / len(everything),
        rows_a_batch=len(everything) / replicas.batches,
    )


def by_cpu(target: float) -> Rule:
    """Returns Kubernetes' rule with a busy share as the target."""
    history: deque[int] = deque(maxlen=5 * MINUTE)

    def rule(seen: Seen) -> int:
        ratio = seen.busy / target
        history.append(seen.replicas if abs(ratio - 1) <= 0.1 else math.ceil(seen.replicas * ratio))
        return max(history)

    return rule


def by_latency(margin: float, capacity: float) -> Rule:
    """Returns the rule of docs/deploy/replicas.yaml; `capacity` in rows a second of one replica."""
    rates: deque[float] = deque(maxlen=2)
    history: deque[int] = deque(maxlen=MINUTE)

    def rule(seen: Seen) -> int:
        rates.append(seen.rate)
        load = max(rates) / capacity
        spare = margin * (load / 3 + math.sqrt(load)) + seen.queued / capacity / DRAIN
        history.append(math.ceil(load + spare))
        return max(history)

    return rule


@dataclass(frozen=True)
class Tweets:
    """The tweets of 18 February."""

    by_minute: np.ndarray  # number in each minute, int64 [1440]
    texts: list[str]  # in the order of the file


def tweets_of_day(data: Path) -> Tweets:
    """Reads airline_tweets."""
    with (data / "airline_tweets" / "Tweets.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tweet_created"].startswith("18-02-2015")]
    clocks = [row["tweet_created"].split()[1].split(":") for row in rows]
    minutes = np.bincount([60 * int(hour) + int(minute) for hour, minute in clocks], minlength=DAY // 60)
    return Tweets(minutes, [row["text"] for row in rows])


def times_of(tweets: np.ndarray, rate: float, peak: float) -> float:
    """Returns how often a tweet comes, so that the busiest hour has `peak` times `rate` rows a second."""
    return peak * rate / (tweets.reshape(24, 60).sum(axis=1).max() / 3600)


def arrivals(tweets: np.ndarray, times: float, seed: int, smooth: int = 10) -> Iterator[list[float]]:
    """Yields the instants of each minute, in seconds, ascending: Poisson within the minute's rate.

    The rate of a minute is the mean of `smooth` around it, since a tweet that comes thousands of times is no burst.
    """
    padded = np.pad(tweets, (smooth // 2, (smooth - 1) // 2), mode="wrap")
    rates = np.convolve(padded, np.full(smooth, 1 / smooth), mode="valid")
    for minute, mean in enumerate(rates * times):
        draw = np.random.default_rng([seed, minute])
        yield np.sort(60.0 * minute + draw.uniform(0, 60, draw.poisson(mean))).tolist()


def measured_service(texts: Sequence[str], precision: str) -> tuple[Service, dict[int, float]]:
    """Measures batches of texts on one core, as a server answers them; returns the service, and the median seconds."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:1])  # before jax starts its threads
    from backbone.home import use_compilation_cache
    from benchmarks.onnx_files import LABELS, graft_of
    from serving.bank import Envelope, Group
    from serving.runtime import Runtime
    from serving.server.settings import Settings

    use_compilation_cache()
    graft, seconds = graft_of(precision), {rows: list[float]() for rows in SIZES}
    envelope = Envelope((Group(graft.model.methods, slots=1),), len(LABELS))
    with Runtime(graft.backbone, envelope, batch_sizes=Settings.batch_sizes) as runtime:
        runtime.load("task", graft)
        for number in range(WARM_UP + ROUNDS):  # all sizes in each round, since a machine changes its pace
            for rows in SIZES:
                requests = [("task", text) for text in texts[number * rows : (number + 1) * rows]]
                start = time.perf_counter()
                runtime.predict(requests)
                if number >= WARM_UP:
                    seconds[rows].append(time.perf_counter() - start)
    medians = {rows: float(np.median(values)) for rows, values in seconds.items()}
    os.sched_setaffinity(0, cores)  # the processes of the simulation have all of them
    return Service.measured(medians), medians


def compared(cpu: Days, latency: Days, bound_ms: float) -> dict[str, Any]:
    """Returns, by idle share, each rule's least energy that keeps the bound, with its parameter, and their ratio."""
    figures: dict[str, Any] = {}
    for share in IDLE_SHARES:
        least: dict[str, Any] = {}
        for name, days in (("cpu", cpu), ("latency", latency)):
            kept = [(one.energy(share), parameter) for parameter, one in days.items() if one.p99_ms <= bound_ms]
            least[name] = dict(zip(("busy_hours", "parameter"), min(kept), strict=True)) if kept else None
        both = all(least.values())
        ratio = least["latency"]["busy_hours"] / least["cpu"]["busy_hours"] if both else None
        figures[str(share)] = {**least, "ratio": ratio}
    return figures


@dataclass(frozen=True)
class Case:
    """A rule on the recorded day."""

    name: str  # of the rule
    parameter: float
    service: Service
    start_seconds: float
    minutes: Callable[[], Iterator[list[float]]]

    def day(self) -> Outcome:
        """Lives through the day."""
        capacity = self.service.rate
        rule = by_cpu(self.parameter) if self.name == "cpu" else by_latency(self.parameter, capacity)
        return simulate(self.minutes(), self.service, rule, self.start_seconds)


def swept(cases: Sequence[Case]) -> dict[str, Days]:
    """Returns the day of each case, by rule and parameter; as many at a time as there are cores."""
    days: dict[str, Days] = {case.name: {} for case in cases}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for case, day in zip(cases, pool.map(Case.day, cases), strict=True):
            days[case.name][case.parameter] = day
            print(case.name, case.parameter, day, flush=True)
    return days


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data = os.environ.get("TOPGRAFT_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the public sets")
    parser.add_argument("--peak", type=float, default=8.0, help="replicas' worth of work in the busiest hour")
    parser.add_argument("--precision", default="int8", help="precision of the measured trunk")
    parser.add_argument("--service", type=float, nargs=2, metavar=("FIXED", "ROW"), help="seconds; measured if absent")
    parser.add_argument("--start-seconds", type=float, default=30.0, help="seconds until a replica answers")
    parser.add_argument("--smooth", type=int, default=10, help="minutes whose mean is the rate of one")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the arrivals within their minutes")
    parser.add_argument("--name", default="autoscaling", help="name of the result file")
    options, provenance = parsed(parser)
    tweets = tweets_of_day(options.data)
    measured = options.service is None
    service, medians = (
        measured_service(tweets.texts, options.precision) if measured else (Service.line(*options.service), {})
    )
    times = times_of(tweets.by_minute, service.rate, options.peak)
    print(f"{medians}, {service.rate:.0f} rows a second, {tweets.by_minute.sum() * times:,.0f} arrivals", flush=True)
    minutes = functools.partial(arrivals, tweets.by_minute, times, options.seed, options.smooth)
    rules = [*(("cpu", target) for target in TARGETS), *(("latency", margin) for margin in MARGINS)]
    days = swept([Case(*rule, service, options.start_seconds, minutes) for rule in rules])
    bounds = {batches: 1e3 * batches * service.seconds[-1] for batches in BOUNDS}
    content = {
        "service": {**asdict(service), "rows_a_second": service.rate, "measured_seconds": medians},
        "precision": options.precision if measured else None,
        "arrivals": round(float(tweets.by_minute.sum() * times)),
        "watts": "inputs: a busy replica takes 1, an idle one the share that names an entry of least_energy",
        "days": {name: {str(key): asdict(day) for key, day in some.items()} for name, some in days.items()},
        "bounds_in_full_batches": {
            str(batches): {"bound_ms": bound, "least_energy": compared(days["cpu"], days["latency"], bound)}
            for batches, bound in bounds.items()
        },
    }
    print(write(options.name, content, provenance))


if __name__ == "__main__":
    main()
