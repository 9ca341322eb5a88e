"""The registry with 10,000 versions: look-up of what is live, a list page, a poll; and 8 promoters x 200.

    python -m benchmarks.registry [--versions 10000] [--promoters 8] [--each 200]

On SQLite in a file and on a PostgreSQL started for this run (fsync off: what is timed is reading). Each figure
is over single calls of the open registry, cold caches left out. The promoters race on one task; their run fails
unless the log holds exactly what they won.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy

from benchmarks.results import ROOT, parsed, write
from registry.database import open_registry
from tests.registry.actors import invented
from tests.registry.postgres import binaries, running

FLOORS = {"live": 5.0, "page": 50.0}  # milliseconds, of the median
CALLS = 300


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of `CALLS` calls: median, 99th percentile and the slowest."""
    call()
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - began))
    taken.sort()
    return {"median": taken[CALLS // 2], "p99": taken[int(0.99 * CALLS)], "slowest": taken[-1]}


def look_ups(url: str, versions: int) -> dict[str, Any]:
    """One task with all the versions, the last of them live."""
    with contextlib.closing(open_registry(url)) as registry:
        invented(registry, "task", versions)
        for generation, number in enumerate((1, versions)):
            told = {"actor": "a", "reason": "r", "verdict": "PASS"}
            registry.promote("task", number, expected_generation=generation, **told)
        assert len(registry.versions("task", before=versions // 2)) == 50
        return {
            "live": timed(lambda: registry.live("task")),
            "page": timed(lambda: registry.versions("task", before=versions // 2)),
            "change": timed(registry.change),
            "version": timed(lambda: registry.version("task", versions // 2)),
        }


def race(url: str, promoters: int, each: int) -> dict[str, Any]:
    """Processes that promote against each other."""
    command = [sys.executable, "-m", "tests.registry.actors", "promoters", url, str(promoters), str(each)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ)
    return json.loads(done.stdout) | {"seconds": time.perf_counter() - began}


def measure(urls: Callable[[str], str], options: argparse.Namespace) -> dict[str, Any]:
    """Both, on one kind of database; `urls` names an empty one."""
    found = look_ups(urls("look_ups"), options.versions)
    return found | {"race": race(urls("race"), options.promoters, options.each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--promoters", type=int, default=8)
    parser.add_argument("--each", type=int, default=200)
    parser.add_argument("--name", default="registry", help="of the result file")
    options, provenance = parsed(parser)
    programs = binaries()
    if programs is None:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as folder:
        found = {"sqlite": measure(lambda name: f"sqlite:///{Path(folder) / name}.db", options)}
    with running(programs) as server:
        found["postgresql"] = measure(lambda name: server.schema(), options)
    server_version = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True)
    missed = [
        f"{kind} {what}" for kind in found for what, floor in FLOORS.items() if found[kind][what]["median"] >= floor
    ]
    content = {
        "floors_ms": FLOORS,
        "missed": missed,
        "milliseconds_and_race": found,
        "settings": vars(options),
        "versions": {
            "sqlite": sqlite3.sqlite_version,
            "postgresql": server_version.stdout.strip(),
            "sqlalchemy": sqlalchemy.__version__,
            "psycopg": psycopg.__version__,
        },
    }
    print(json.dumps(content, indent=1))
    print(write(options.name, content, provenance))


if __name__ == "__main__":
    main()
