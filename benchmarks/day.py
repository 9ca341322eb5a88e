"""The controller over a day against the best fixed choice in hindsight: mean score at the same p95.

    python -m benchmarks.day --data ../shared/data [--only sst2,emotion] [--seconds 1200] [--peak 1.5] [--runs 3]

The load follows the tweets of 18 February 2015 in airline_tweets, a day scaled to `--seconds`: the rate of each quarter
of an hour is its number of tweets, and the busiest one has `--peak` of what a server in full answers in a closed loop.
Arrivals are Poisson. The grafts and texts are those of `benchmarks.stress`. The same arrivals go to three servers: one
always in full, one always with early exits, and one whose controller chooses (`--submodels full,exits`), with three
times the p95 of a calm server as its bound. A latency counts from the instant that was intended, and a failed request
is a wrong answer.

The best fixed choice in hindsight is that of the largest mean score among those whose p95 over the day is at most the
bound, or that of the controller where this is larger; without any, that of the smallest p95.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import RawRuns, parsed, spread, write
from benchmarks.stress import CALM, DWELL, Response, add_options, capacity, load, material, poisson, server, work_folder

DAY, BINS = "18-02-2015", 96  # day of the tweets, and its quarters of an hour
FIXED, CONTROLLED = ("full", "exits"), "controller"
FAILED = 3600.0  # seconds that a failed request counts as


def shape(root: Path) -> np.ndarray:
    """Returns the tweets of each quarter of an hour, as shares of the busiest one's, float [96]."""
    with (root / "airline_tweets" / "Tweets.csv").open(encoding="utf-8", newline="") as stream:
        times = [row["tweet_created"] for row in csv.DictReader(stream) if row["tweet_created"].startswith(DAY)]
    minutes = [int(hour) * 60 + int(minute) for hour, minute in (time.split()[1].split(":")[:2] for time in times)]
    counts = Counter(minute * BINS // (24 * 60) for minute in minutes)
    values = np.array([counts[number] for number in range(BINS)], float)
    return np.asarray(values / values.max())


def arrivals(rates: Sequence[float], seconds: float, seed: int) -> list[float]:
    """Returns the seconds of arrivals over a day of `seconds`, by the rate of each of its parts."""
    part = seconds / len(rates)
    return [
        number * part + at
        for number, rate in enumerate(rates)
        for at in (poisson(rate, part, seed * len(rates) + number) if rate else ())
    ]


def facts(responses: Sequence[Response]) -> dict[str, float]:
    """Returns what a server did over the day."""
    return {
        "p95": float(np.percentile([one.seconds if one.status == 200 else FAILED for one in responses], 95)),
        "score": float(np.mean([one.right for one in responses])),
        "failed": sum(one.status != 200 for one in responses),
        "early": float(np.mean([one.submodel != "full" for one in responses])),
        "requests": len(responses),
    }


def best_fixed(sides: dict[str, dict[str, float]], bound: float) -> str:
    """Returns the fixed choice that hindsight would have made."""
    limit = max(bound, sides[CONTROLLED]["p95"])
    fits = [name for name in FIXED if sides[name]["p95"] <= limit]
    return max(fits, key=lambda name: sides[name]["score"]) if fits else min(FIXED, key=lambda n: sides[n]["p95"])


def measure(seed: int, options: argparse.Namespace, work: Path, runs: RawRuns) -> None:
    """Makes one run, unless there is one."""
    if (seed, options.only, options.seconds, options.peak) in runs.done:
        return
    made = material(tuple(options.only.split(",")), seed, work)
    with server(made, work / "calm.log") as service:
        most = asyncio.run(capacity(service.url, made.rows, 10.0))
        calm = asyncio.run(load(service.url, made.rows, poisson(0.6 * most, CALM, seed)))
    bound = 3 * float(np.percentile([one.seconds for one in calm], 95))
    times = arrivals((options.peak * most * shape(Path(options.data))).tolist(), options.seconds, seed)
    chosen = {name: ("--submodels", name) for name in FIXED}
    chosen[CONTROLLED] = ("--submodels", ",".join(FIXED), "--p95", f"{bound:.4f}", "--dwell", str(DWELL))
    sides = {}
    for name, words in chosen.items():
        with server(made, work / f"{name}.log", *words) as service:
            sides[name] = facts(asyncio.run(load(service.url, made.rows, times)))
    best = best_fixed(sides, bound)
    run = {
        "seed": seed,
        "only": options.only,
        "seconds": options.seconds,
        "peak": options.peak,
        "capacity_per_second": most,
        "bound_seconds": bound,
        "sides": sides,
        "best_fixed": best,
        "points_against_best_fixed": 100 * (sides[CONTROLLED]["score"] - sides[best]["score"]),
    }
    runs.add(run)
    print(json.dumps(run), flush=True)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Says what the controller's choice loses against the best fixed one."""
    return {
        "runs": len(runs),
        "best_fixed": Counter(run["best_fixed"] for run in runs),
        "points_against_best_fixed": spread([run["points_against_best_fixed"] for run in runs]),
        "p95_over_bound": spread([run["sides"][CONTROLLED]["p95"] / run["bound_seconds"] for run in runs]),
        "failed": sum(side["failed"] for run in runs for side in run["sides"].values()),
    }


def main() -> None:
    """Runs what is missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=1200.0, help="length of the day")
    parser.add_argument("--peak", type=float, default=1.5, help="rate of the busiest quarter, of the capacity in full")
    add_options(parser)
    options, provenance = parsed(parser)
    runs = RawRuns("day", ("seed", "only", "seconds", "peak"), provenance)
    with work_folder(options) as work:
        for seed in range(options.runs):
            measure(seed, options, work, runs)
    print(write("day", summary(list(runs.done.values())), provenance))


if __name__ == "__main__":
    main()
