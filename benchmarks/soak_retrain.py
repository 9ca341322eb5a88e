"""Retraining killed at random instants, and run twice at once, on each database: what is live stays whole.

    python -m benchmarks.soak_retrain [--kills 50] [--pairs 3] [--registry postgresql://USER@HOST/NAME ...]

Every round changes the rows of a small task, starts `topgraft retrain`, kills it -9 at a random instant of its usual
time, checks that what is live is the old or the new version and loads, and that the log is whole; then runs again
until nothing is left to do. SQLite in a file and a PostgreSQL started for this run (fsync off: processes die here,
not machines) share the kills and are soaked at the same time; `--registry` names other databases in their
place, soaked under task names of their own. All of it takes 5 to 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from adapters.graft import load_graft
from backbone.storage import load_backbone
from benchmarks.results import ROOT, parsed, write
from registry.place import Place
from tests.registry.postgres import binaries, running
from tests.tiny import make_tiny_backbone, rows, write_config, write_csv

LEASE = 2.0  # seconds
MANY = 10_000  # more runs and versions than a soak makes
SETTINGS = ("data.dev_fraction=0.4", "retrain.gate.tolerance=0.5", "retrain.gate.forgetting=0.5")


@dataclass(frozen=True)
class State:
    """What the registry has of a task."""

    live: int  # version; 0 without one
    versions: int
    runs: int


class Soak:
    """A task, its registry and its store."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.task = folder, f"soak-{uuid.uuid4().hex[:8]}"
        self.backbone = make_tiny_backbone(folder / "backbone")
        self.config = write_config(folder / "config.py", self.backbone, folder, adapter="Probe()")
        self.place = Place(url or f"sqlite:///{folder / 'registry.db'}", str(folder / "store"))
        # every compiled program is kept: the rounds compile what the first run did
        kept = {"TOPGRAFT_HOME": str(folder / "home"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment = os.environ | kept | {"PYTHONPATH": str(ROOT)}

    def data(self, number: int) -> None:
        write_csv(self.folder / "train.csv", rows(240, seed=1) + rows(10 + number, seed=1000 + number))

    def start(self) -> subprocess.Popen[str]:
        words = ["retrain", str(self.config), "--registry", self.place.registry, "--store", self.place.store]
        words += [part for text in (f"name={self.task}", *SETTINGS) for part in ("--set", text)]
        command = [sys.executable, "-m", "topgraft", *words, "--lease", str(LEASE), "--wait", "60", "--json", "--quiet"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, _ = process.communicate()
        result = json.loads(out.strip().splitlines()[-1])
        assert result["exit"] == 0, result
        return dict(result)

    def state(self) -> State:
        """What is there, after the live version was loaded and the log was read."""
        registry = self.place.open(create=True)
        try:
            runs, versions = len(registry.runs(self.task, MANY)), len(registry.versions(self.task, MANY))
            live = registry.live(self.task)
            if live is None:
                return State(0, versions, runs)
            load_graft(self.place.artefacts().path(live.content_id), load_backbone(self.backbone))
            log = registry.promotions(self.task)
            assert [entry.generation for entry in log] == list(range(1, len(log) + 1))
            assert (log[-1].to_version, log[-1].generation) == (live.version, live.generation)
            assert all(a.to_version == b.from_version for a, b in pairwise(log))
            return State(live.version, versions, runs)
        finally:
            registry.close()

    def killed(self, number: int, usual: float, draw: random.Random) -> dict[str, Any]:
        """One kill, and the run after it."""
        before = self.state()
        self.data(number)
        process, after = self.start(), draw.uniform(0, usual)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        between = self.state()
        assert between.live in (before.live, before.live + 1), (before, between)
        self.finish(self.start())
        end = self.state()
        assert (end.live, end.versions) == (before.live + 1, before.versions + 1), (before, end)
        return {"after": round(after, 3), "left": left(before, between), "live": [before.live, between.live, end.live]}

    def pair(self, number: int) -> dict[str, Any]:
        """Two runs at once: one promotes, the other finds nothing to do."""
        before = self.state()
        self.data(number)
        actions = sorted(self.finish(process)["action"] for process in [self.start(), self.start()])
        assert self.state().live == before.live + 1
        assert actions.count("nothing") == 1, actions
        return {"live": before.live, "actions": actions}


def left(before: State, between: State) -> str:
    """How far a run had come that was killed."""
    if between.live != before.live:
        return "promoted"
    return "published" if between.versions > before.versions else "begun" if between.runs > before.runs else "nothing"


def soak(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds on one database; an assertion that fails ends the soak."""
    draw, started = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        one = Soak(Path(name), url)
        one.finish(one.start())
        one.data(0)
        begun = time.monotonic()
        one.finish(one.start())
        usual = time.monotonic() - begun
        kills = [one.killed(number, usual, draw) for number in range(1, options.kills + 1)]
        pairs = [one.pair(options.kills + number) for number in range(1, options.pairs + 1)]
    return {
        "usual_seconds": round(usual, 2),
        "seconds": round(time.monotonic() - started, 1),
        "killed_when": dict(Counter(kill["left"] for kill in kills)),
        "kills": kills,
        "pairs": pairs,
    }


@contextlib.contextmanager
def databases(chosen: Sequence[str]) -> Iterator[list[str]]:
    """The URLs that were chosen; without any "" for a new SQLite file, and a PostgreSQL of our own."""
    if chosen:
        yield list(chosen)
        return
    programs = binaries()
    if programs is None:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql; --registry names another database")
    with running(programs) as server:
        yield ["", server.schema()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="in all; the databases share them")
    parser.add_argument("--pairs", type=int, default=3, help="rounds of two runs at once, of each database")
    parser.add_argument("--registry", action="append", default=[], help="URL of a database to soak instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="soak_retrain", help="of the result file")
    options, provenance = parsed(parser)
    with databases(options.registry) as urls, ThreadPoolExecutor(len(urls)) as threads:
        options.kills = -(-options.kills // len(urls))
        names = [url.partition(":")[0].partition("+")[0] or "sqlite" for url in urls]
        found = dict(zip(names, threads.map(lambda url: soak(url, options), urls), strict=True))
    for name, one in found.items():
        print(name, {key: value for key, value in one.items() if key not in ("kills", "pairs")})
    print(write(options.name, {"databases": found}, provenance))


if __name__ == "__main__":
    main()
