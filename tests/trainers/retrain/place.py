"""A config on the tiny backbone, with a registry and a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import topgraft
from backbone.records import encode
from registry import place as places
from registry.database import Registry, open_registry
from tests.tiny import as_json, rows, write_config, write_csv
from trainers.retrain.outcome import Job, Options

ROOT = Path(__file__).resolve().parents[3]
DEV = 0.4
# a hundred held-out rows leave wide intervals; what the gate says of narrow ones is tested beside
SETTINGS = (f"data.dev_fraction={DEV}", "retrain.gate.tolerance=0.5", "retrain.gate.forgetting=0.5")
TABLE = rows(240, seed=1)
CHILD = """
import json, os, sys
from backbone.records import decode, encode
from trainers.retrain.attempt import attempt
from trainers.retrain.outcome import Job
job, at, what = decode(Job, json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])
def on_step(step):
    if step == at:
        os.kill(os.getpid(), what)
print(json.dumps(encode(attempt(job, on_step))))
"""


class Place:
    """A config on the tiny backbone with a registry and a store of its own."""

    def __init__(self, folder: Path, backbone: Path, capsys):
        self.folder, self._capsys = folder, capsys
        self.config = write_config(folder / "config.py", backbone, folder, adapter="Probe()")
        self.url, self.store = f"sqlite:///{folder / 'registry.db'}", folder / "store"

    def data(self, table: list[tuple[str, str]]) -> None:
        write_csv(self.folder / "train.csv", table)

    def overrides(self, *settings: str) -> list[str]:
        return [part for text in (*SETTINGS, *settings) for part in ("--set", text)]

    def run(self, *settings: str, options: tuple[str, ...] = ()) -> dict:
        place = ("--registry", self.url, "--store", str(self.store))
        words = ["retrain", str(self.config), *self.overrides(*settings), *place, *options, "--json", "--quiet"]
        status = topgraft.main(words)
        out, err = self._capsys.readouterr()
        result = as_json(out)
        assert result["exit"] == status, err
        assert (result["action"] == "error") == ("topgraft retrain: " in err)
        return result

    def job(self, lease: float = 4.0) -> Job:
        """What `run` does, for a process or for `attempt`; waits for the lease of a run that died."""
        options = Options(lease_seconds=lease, wait_seconds=60.0)
        place = places.Place(self.url, str(self.store))
        return Job(config=str(self.config), overrides=SETTINGS, place=place, options=options)

    def child(self, at: str, what: int, lease: float = 4.0) -> subprocess.Popen:
        """A process that sends itself the signal `what` before the step `at`."""
        command = [sys.executable, "-c", CHILD, json.dumps(encode(self.job(lease))), at, str(int(what))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    @property
    def registry(self) -> Registry:
        return open_registry(self.url)

    def live(self) -> int | None:
        live = self.registry.live("tiny")
        return live.version if live else None
