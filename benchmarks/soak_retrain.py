"""Retraining killed at random instants, and run twice at once, on each database: what is live stays whole.

    python -m benchmarks.soak_retrain [--kills 50] [--pairs 10] [--registry postgresql://USER@HOST/NAME ...]

Every round changes the rows of a small task, starts `topgraft retrain`, kills it -9 at a random instant of its usual
time, checks that what is live is the old or the new version and loads, then runs again until nothing is left to do.
SQLite is always soaked; each `--registry` is soaked as well, under task names of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

from adapters.graft import load_graft
from backbone.storage import load_backbone
from benchmarks.results import ROOT, write
from registry.verbs import Place
from tests.tiny import make_tiny_backbone, rows, write_config, write_csv

LEASE = 2.0  # seconds
SETTINGS = ("data.dev_fraction=0.4", "retrain.gate.tolerance=0.5", "retrain.gate.forgetting=0.5")


class Soak:
    """A task, its registry and its store."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.task = folder, f"soak-{uuid.uuid4().hex[:8]}"
        self.backbone = make_tiny_backbone(folder / "backbone")
        self.config = write_config(folder / "config.py", self.backbone, folder, adapter="Probe()")
        self.place = Place(url or f"sqlite:///{folder / 'registry.db'}", str(folder / "store"))
        self.environment = os.environ | {"TOPGRAFT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}

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

    def live(self) -> int | None:
        """The live version, after it was loaded."""
        registry = self.place.open(create=True)
        try:
            live = registry.live(self.task)
            if live is None:
                return None
            load_graft(self.place.artefacts().path(live.content_id), load_backbone(self.backbone))
            log = registry.promotions(self.task)
            assert [entry.generation for entry in log] == list(range(1, len(log) + 1))
            assert (log[-1].to_version, log[-1].generation) == (live.version, live.generation)
            assert all(a.to_version == b.from_version for a, b in pairwise(log))
            return live.version
        finally:
            registry.close()

    def killed(self, number: int, usual: float, draw: random.Random) -> dict[str, Any]:
        """One kill, and the run after it."""
        before = self.live()
        self.data(number)
        process, after = self.start(), draw.uniform(0, usual)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        between = self.live()
        assert between in (before, (before or 0) + 1), (before, between)
        self.finish(self.start())
        end = self.live()
        assert end == (before or 0) + 1, (before, end)
        return {"after": round(after, 3), "before": before, "between": between, "end": end}

    def pair(self, number: int) -> dict[str, Any]:
        """Two runs at once: one promotes, the other finds nothing to do."""
        before = self.live()
        self.data(number)
        actions = sorted(self.finish(process)["action"] for process in [self.start(), self.start()])
        assert self.live() == (before or 0) + 1
        assert actions.count("nothing") == 1, actions
        return {"before": before, "actions": actions}


def soak(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds on one database; an assertion that fails ends the soak."""
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        one = Soak(Path(name), url)
        one.finish(one.start())
        one.data(0)
        begun = time.monotonic()
        one.finish(one.start())
        usual = time.monotonic() - begun
        kills = [one.killed(number, usual, draw) for number in range(1, options.kills + 1)]
        pairs = [one.pair(options.kills + number) for number in range(1, options.pairs + 1)]
    return {"usual_seconds": round(usual, 2), "kills": kills, "pairs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=10, help="rounds of two runs at once")
    parser.add_argument("--registry", action="append", default=[], help="URL of another database to soak")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for url in ("", *options.registry):
        found[url.partition(":")[0] or "sqlite"] = soak(url, options)
        print(write("soak_retrain", {"databases": found, "command": sys.argv[1:]}))


if __name__ == "__main__":
    main()
