"""Runs each scenario once for each fault, each time in a child of a process that has imported everything.

    LD_PRELOAD=calls.so python -m tests.faults.driver WORLD [--only SCENARIO ...] [--sample N] [--stride N]

Lines of JSON on stdout say what became of each fault. Lines `["SCENARIO", "NAME", NUMBER, "KIND"]` on stdin name
those that are known already.

After a fault everything is read: each part is that of before the verb or that of after it. Then the verb is called
again and `gc` runs, a month later by the files' times. Then everything is as without the fault, file by file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import topgraft
from registry.entries import RegistryError
from tests.faults import outcome
from tests.faults.forked import Ended, forked
from tests.faults.library import SERVER, SQL, Calls, Point
from tests.faults.scenarios import SCENARIOS, Scenario, collect, later
from tests.faults.statements import Statements
from tests.faults.world import World

Fault = tuple[Any, ...]  # scenario, name and number of a point, kind
POINTS = "points.tsv"  # file beside the root to which a run writes its points
# files of libraries: Orbax's checkpoints, prepared rows of tensorflow-datasets, and logs that no run reads
LIBRARIES = ("checkpoints/", "home/data/", "tensorboard/", "metrics.jsonl")


@dataclass(frozen=True)
class Reference:
    """A scenario without a fault."""

    points: tuple[Point, ...]  # all of them, in order
    before: outcome.Parts
    end: outcome.Parts
    files: tuple[str, ...]  # below the root, after gc
    rows: dict[str, str] = field(default_factory=dict)  # hash of each row of a cache


@dataclass(frozen=True)
class Result:
    """What became of one fault."""

    scenario: str
    name: str  # of the point
    number: int
    kind: str
    struck: bool  # the run came to the point
    problems: tuple[str, ...]  # violations
    seconds: float


class Driver:
    """The enumeration in one world."""

    def __init__(self, world: World, port: int = 0):
        self.world, self.calls, self._file, self._server = world, Calls(), world, replace(world, port=port)

    def enter(self, scenario: Scenario) -> None:
        """Goes to the database of a scenario."""
        self.world = self._server if scenario.on_server else self._file

    def child(self, function: Any, seconds: float = 120.0) -> Ended:
        return forked(self.world.folder, function, seconds)

    def must(self, function: Any) -> Any:
        """Returns the value of a function in a child; raises RuntimeError where it fails."""
        ended = self.child(function)
        if ended.killed or ended.late or ended.raised:
            raise RuntimeError(ended.said)
        return ended.value

    def reference(self, scenario: Scenario) -> Reference:
        """Runs a scenario without a fault, and keeps the state before it as its template."""
        self.enter(scenario)
        self.world.empty()
        self.must(lambda: scenario.begin(self.world))
        self.world.keep(scenario.name)
        before = self.must(lambda: outcome.seen(self.world))
        points = self.world.folder / POINTS
        points.unlink(missing_ok=True)
        if (status := self.must(lambda: self.struck_at(scenario, None, ""))) != [0, False]:
            raise RuntimeError(f"{scenario.name}: {status}")
        names = [line.split("\t") for line in points.read_text().splitlines()]
        end, files, rows = self.must(lambda: self.settled(scenario))
        return Reference(tuple(Point(name, int(number)) for name, number in names), before, end, tuple(files), rows)

    def struck_at(self, scenario: Scenario, point: Point | None, kind: str) -> tuple[int, bool]:
        """Calls the verb with a fault, in a child; returns its status, and whether the fault has struck."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        lines = os.open(self.world.folder / POINTS, flags) if point is None else -1
        statements = Statements(lines, point, kind)
        self.calls.arm(self.world.root, lines, point, kind)
        try:
            status = scenario.act(self.world)
        finally:
            struck = self.calls.disarm()
        return status, struck or statements.struck

    def settled(self, scenario: Scenario) -> tuple[outcome.Parts, list[str], dict[str, str]]:
        """Calls the verb again, then gc, in a child; returns what there is then: parts, files, rows of caches."""
        later(self.world)
        status = scenario.act(self.world)
        assert status in scenario.again, f"the second run ended with status {status}"
        parts, rows = outcome.seen(self.world), outcome.cached_rows(self.world)
        self.world.age()
        if self.world.database.exists():
            assert collect(self.world) == 0, "gc failed"
        return parts, outcome.listing(self.world), rows

    def fault(self, scenario: Scenario, known: Reference, point: Point, kind: str) -> Result:
        """Returns what became of one fault."""
        started = time.monotonic()
        self.enter(scenario)
        self.world.restore(scenario.name)
        ended = self.child(lambda: self.struck_at(scenario, point, kind))
        struck = ended.killed or ended.late or bool(ended.raised) or bool(ended.value and ended.value[1])
        problems = []
        if ended.late:
            problems.append("the run hangs")
        elif ended.raised:
            problems.append(f"the run ends with a traceback: {ended.raised}")
        elif not ended.killed and struck and kind in ("before", "after", "torn"):
            problems.append("the fault did not kill the run")
        problems += self.judged(scenario, known)
        return Result(
            scenario.name, point.name, point.number, kind, struck, tuple(problems), round(time.monotonic() - started, 2)
        )

    def judged(self, scenario: Scenario, known: Reference) -> list[str]:
        """Returns what is wrong after the fault, and after the second run and gc; in a child."""

        def judge() -> list[str]:
            problems = [f"after the fault: {problem}" for problem in self.after(known)]
            return problems + [f"at last: {problem}" for problem in self.at_last(scenario, known)]

        ended = self.child(judge)
        if ended.value is None:
            said = "the second run hangs" if ended.late else ended.raised or ended.said[-300:]
            return [f"at last: {said} {errors(ended.said)}"]
        problems: list[str] = ended.value
        return problems

    def after(self, known: Reference) -> list[str]:
        """Returns what is wrong before anybody has done anything."""
        try:
            parts = outcome.seen(self.world)
        except (ValueError, RegistryError, AssertionError) as error:
            return [repr(error)]
        problems = outcome.between(parts, known.before, known.end)
        return [*problems, *wrong_rows(outcome.cached_rows(self.world), known.rows)]

    def at_last(self, scenario: Scenario, known: Reference) -> list[str]:
        """Returns what is wrong after the second run and gc."""
        parts, files, rows = self.settled(scenario)
        parts, files = json.loads(json.dumps([parts, files]))
        problems = [f"{name} is {parts[name]}" for name in parts if parts[name] != known.end[name]]
        problems += [f"orphan {file}" for file in files if file not in known.files]
        problems += [f"missing {file}" for file in known.files if file not in files]
        return [*problems, *wrong_rows(rows, known.rows)]


def errors(said: str) -> str:
    """Returns the lines of the command about errors."""
    return " | ".join(line for line in said.splitlines() if line.startswith("topgraft "))


def wrong_rows(rows: dict[str, str], known: dict[str, str]) -> list[str]:
    """Returns the rows of caches that differ from computed ones."""
    return [f"row {key} of a cache is wrong" for key, value in rows.items() if known.get(key, value) != value]


def chosen(points: Sequence[Point], *, statements: bool) -> list[Point]:
    """Returns every point; of each library the first, the middle and the last of each kind of call.

    With `statements` those of a server alone: what happens to files was enumerated beside a registry in a file.
    """
    if statements:
        return [point for point in dict.fromkeys(points) if point.call == SERVER]
    some: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        if library := library_of(point):
            some[library, point.call].append(point)
    kept = {calls[place] for calls in some.values() for place in (0, len(calls) // 2, -1)}
    return [point for point in dict.fromkeys(points) if not library_of(point) or point in kept]


def library_of(point: Point) -> str:
    """Returns which library writes the file; empty for a file of ours."""
    return next((name for name in LIBRARIES if name in point.file and point.call != SQL), "")


def imported(driver: Driver, scenarios: Sequence[Scenario]) -> None:
    """Imports what the scenarios import, so that no child does."""
    for scenario in scenarios:
        driver.enter(scenario)
        driver.world.empty()

        def names(scenario: Scenario = scenario) -> list[str]:
            scenario.begin(driver.world)
            scenario.act(driver.world)
            return sorted(sys.modules)

        for name in driver.must(names):
            if name.split(".")[0] not in ("__main__", "tests"):
                with contextlib.suppress(Exception):  # a name that is no module of its own
                    importlib.import_module(name)


def enumerated(
    driver: Driver, scenarios: Sequence[Scenario], done: set[Fault], *, stride: int, sample: int, share: Sequence[int]
) -> Iterator[Mapping[str, Any]]:
    """Yields the points of each scenario, then the result of each fault that is not done.

    Every `stride`-th fault of each scenario comes before the others; with `sample` that many of each, and no others. Of
    all of them these are the share of one driver among several.
    """
    passes: list[list[tuple[Scenario, Reference, Point, str]]] = [[], []]
    for scenario in scenarios:
        known = driver.reference(scenario)
        points = chosen(known.points, statements=scenario.on_server)
        yield {
            "scenario": scenario.name,
            "verb": scenario.verb,
            "calls": len(known.points),
            "points": [asdict(point) for point in points],
        }
        runs = [(scenario, known, point, kind) for point in points for kind in point.kinds]
        if sample:
            runs = runs[len(runs) // (2 * sample) :: max(1, len(runs) // sample)][:sample]
        for place, run in enumerate(runs):
            passes[place % stride > 0].append(run)
    left = [run for run in (*passes[0], *passes[1]) if (run[0].name, run[2].name, run[2].number, run[3]) not in done]
    for place, (scenario, known, point, kind) in enumerate(left):
        if place % share[1] == share[0]:
            yield asdict(driver.fault(scenario, known, point, kind))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("world", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--sample", type=int, default=0, help="faults of each scenario; 0: all")
    parser.add_argument("--stride", type=int, default=1, help="every N-th fault before the others")
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    parser.add_argument(
        "--share", type=int, nargs=2, default=(0, 1), help="number of this driver, and how many there are"
    )
    parser.add_argument("--port", type=int, default=0, help="port of a PostgreSQL; 0: none, and no scenario on one")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    done: set[Fault] = {tuple(json.loads(line)) for line in sys.stdin}
    driver = Driver(World(options.world.resolve()), options.port)
    driver.must(driver.world.write_inputs)
    topgraft.parser()  # what it remembers of the verbs is there in every child
    there = [one for one in SCENARIOS if options.port or not one.on_server]
    scenarios = [one for one in there if not options.only or one.name in options.only]
    imported(driver, scenarios)
    for line in enumerated(driver, scenarios, done, stride=options.stride, sample=options.sample, share=options.share):
        print(json.dumps(line), flush=True)
        if time.monotonic() > deadline:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
