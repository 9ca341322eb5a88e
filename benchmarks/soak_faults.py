"""Every fault of every verb: train, cache, retrain, export and those of a registry (tests/faults).

    python -m benchmarks.soak_faults [--minutes 60] [--only SCENARIO ...] [--stride N] [--jobs 2] [--fresh]

A small C library below Python numbers each call that changes a file, and the statements are numbered at the driver, for
PostgreSQL with its connections and commits. A run is repeated for each number and kind of fault: the process dies
before it or after it, the disk is full from then on, the device fails once (a server: the connection is lost), half of
the bytes are written, a commit is done and not answered. Then everything is read, the verb is called again, `gc` runs,
and everything is compared with a run without a fault.

The result file is written after each fault. A later call on the same code goes on from it, `--stride N` with every
N-th fault first. Status 1 if a fault left something wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from typing import Any

from benchmarks.results import RESULTS, ROOT, Provenance, parsed, same_origin, write
from tests.faults.library import KINDS, Point, compiled, compiler, loaded_first
from tests.faults.world import World
from tests.registry.machine import MEMORY
from tests.registry.postgres import binaries, running

LETTERS = {"fine": "+", "not reached": "-", "violation": "!", "not run": "."}  # of a fault in the result file


class Table:
    """What became of the faults, by scenario and point: one letter for each kind."""

    def __init__(self, name: str, provenance: Provenance, *, fresh: bool):
        self.name, self.provenance = name, provenance
        file = RESULTS / f"{name}.json"
        stored = json.loads(file.read_text()) if file.exists() and not fresh else None
        known = stored is not None and same_origin(stored["provenance"], asdict(provenance))
        self.scenarios: dict[str, dict[str, Any]] = stored["scenarios"] if stored and known else {}
        self.violations: list[dict[str, Any]] = stored["violations"] if stored and known else []

    def begin(self, line: dict[str, Any]) -> None:
        """Takes the points of a scenario; what is known of them stays."""
        before = self.scenarios.get(line["scenario"], {"faults": {}, "seconds": 0.0})
        points = [f"{point['number']} {point['name']}" for point in line["points"]]
        untouched = LETTERS["not run"] * len(KINDS)
        self.scenarios[line["scenario"]] = {
            "verb": line["verb"],
            "calls": line["calls"],
            "seconds": before["seconds"],
            "faults": {point: before["faults"].get(point, untouched) for point in points},
        }

    def add(self, line: dict[str, Any]) -> None:
        """Takes the result of one fault."""
        scenario = self.scenarios[line["scenario"]]
        fate = "violation" if line["problems"] else "fine" if line["struck"] else "not reached"
        point, place = f"{line['number']} {line['name']}", KINDS.index(line["kind"])
        letters = scenario["faults"][point]
        scenario["faults"][point] = letters[:place] + LETTERS[fate] + letters[place + 1 :]
        scenario["seconds"] = round(scenario["seconds"] + line["seconds"], 2)
        if line["problems"]:
            self.violations.append(line)

    def done(self) -> Iterator[tuple[str, str, int, str]]:
        """Yields the faults that have a fate."""
        for name, scenario in self.scenarios.items():
            for point, letters in scenario["faults"].items():
                there = point_of(point)
                for kind, letter in zip(KINDS, letters, strict=True):
                    if letter != LETTERS["not run"]:
                        yield name, there.name, there.number, kind

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns the counts of each verb."""
        verbs: dict[str, Counter[str]] = {}
        for scenario in self.scenarios.values():
            counts = verbs.setdefault(scenario["verb"], Counter())
            faults = scenario["faults"]
            counts["points"] += len(faults)
            counts["faults"] += sum(len(point_of(text).kinds) for text in faults)
            for fate, letter in LETTERS.items():
                counts[fate] += sum(letters.count(letter) for letters in faults.values())
            counts["seconds"] += round(scenario["seconds"])
        return {
            verb: {
                "points": counts["points"],
                "faults": counts["faults"],
                "runs": counts["fine"] + counts["not reached"] + counts["violation"],
                "not_reached": counts["not reached"],
                "violations": counts["violation"],
                "minutes": round(counts["seconds"] / 60, 1),
            }
            for verb, counts in verbs.items()
        }

    def save(self) -> Path:
        """Writes the result file."""
        content = {"kinds": KINDS, "verbs": self.summary(), "violations": self.violations, "scenarios": self.scenarios}
        return write(self.name, content, self.provenance)


def point_of(text: str) -> Point:
    """Returns a point of the result file."""
    number, _, name = text.partition(" ")
    return Point(name, int(number))


class Job:
    """A driver in a process that has loaded the library first, with a world and a PostgreSQL of its own."""

    def __init__(self, number: int, table: Table, options: argparse.Namespace, lines: Queue[dict[str, Any] | None]):
        self._number, self._options, self._lines, self.status = number, options, lines, 0
        self._done = "".join(json.dumps(fault) + "\n" for fault in table.done())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        programs = binaries()
        with tempfile.TemporaryDirectory(prefix="topgraft-faults-", dir=MEMORY) as place:
            world = World(Path(place))
            try:
                with running(programs) if programs else contextlib.nullcontext() as server:
                    self._drive(world, server.port if server else 0)
            finally:
                self._lines.put(None)

    def _drive(self, world: World, port: int) -> None:
        options = self._options
        words = [sys.executable, "-m", "tests.faults.driver", str(world.folder), "--port", str(port)]
        words += ["--stride", str(options.stride), "--minutes", str(options.minutes)]
        words += ["--share", str(self._number), str(options.jobs)]
        words += [word for name in options.only for word in ("--only", name)]
        library = loaded_first(compiled(world.folder))
        environment = os.environ | world.variables() | library | {"PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(words, text=True, env=environment, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(self._done)
            process.stdin.close()
            for line in process.stdout:
                self._lines.put(json.loads(line))
        self.status = process.returncode

    def join(self) -> int:
        """Waits for its end, and returns its status."""
        self._thread.join()
        return self.status


def lines(table: Table, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the lines of all drivers as they come."""
    queue: Queue[dict[str, Any] | None] = Queue()
    jobs = [Job(number, table, options, queue) for number in range(options.jobs)]
    at_work = len(jobs)
    while at_work:
        line = queue.get()
        if line is None:
            at_work -= 1
        else:
            yield line
    if status := max(job.join() for job in jobs):
        sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO", help="this scenario alone")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="every N-th fault before the others")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults at a time (default: one a core)")
    parser.add_argument("--fresh", action="store_true", help="forget what the result file says")
    parser.add_argument("--name", default="soak_faults", help="of the result file")
    options, provenance = parsed(parser, arguments)
    if compiler() is None:
        print("no compiler of C (cc, gcc or clang): faults below Python need one", file=sys.stderr)
        return 0
    table = Table(options.name, provenance, fresh=options.fresh)
    saved = time.monotonic()
    for line in lines(table, options):
        if "points" in line:
            table.begin(line)
            print(f"{line['scenario']}: {len(line['points'])} points of {line['calls']} calls", flush=True)
        else:
            table.add(line)
            if line["problems"]:
                print(json.dumps(line), flush=True)
        if time.monotonic() - saved > 10:
            table.save()
            saved = time.monotonic()
    print(json.dumps(table.summary(), indent=1))
    print(table.save())
    return 1 if table.violations else 0


if __name__ == "__main__":
    sys.exit(main())
