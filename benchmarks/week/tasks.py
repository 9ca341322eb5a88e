"""Twenty tasks on a tiny trunk: rows, configs, the command that retrains them, and what is live."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT
from benchmarks.week.clock import Clock
from benchmarks.week.places import Database
from benchmarks.week.plan import TASKS
from registry.database import Registry, open_registry
from registry.entries import Live
from tests.tiny import make_tiny_backbone, write_csv
from tests.trainers.retrain.corruptions import Rows

LEASE = 20  # seconds
# a hundred and eighty held-out rows leave wide intervals: the gate of these tasks allows more than its default
CONFIG = """
from adapters.specs import Probe
from trainers.config import Data, TrainConfig
from trainers.config.retrain import Gate, Retrain


def get_config():
    data = Data(train={train!r}, dev_fraction=0.2, gate_fraction=0.2, max_tokens=48)
    retrain = Retrain(gate=Gate(tolerance=0.1, forgetting=0.1))
    return TrainConfig(name={name!r}, backbone={backbone!r}, adapter=Probe(), data=data, retrain=retrain)
"""


class Tasks:
    """The folder of a week, and everything in it that is no database."""

    def __init__(self, folder: Path, clock: Clock, database: Database):
        self.folder, self.database = folder, database
        self.volume = folder / "volume"  # disk of store and home
        self.store, self.home = self.volume / "store", self.volume / "home"
        self.trunks = [folder / "trunk0", folder / "trunk1"]
        kept = {"TOPGRAFT_HOME": str(self.home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment = os.environ | kept | clock.variables | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    @property
    def where(self) -> list[str]:
        """Returns the options that name registry and store."""
        return ["--registry", self.database.url, "--store", str(self.store)]

    def make(self) -> None:
        """Makes trunks and folders, where they are missing."""
        for number, trunk in enumerate(self.trunks):
            if not trunk.exists():
                make_tiny_backbone(trunk, seed=1 + number)
        for name in ("rows", "good", "configs"):
            (self.folder / name).mkdir(exist_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)

    def rows_file(self, task: str) -> Path:
        """Returns the file that a task is retrained from."""
        return self.folder / "rows" / f"{task}.csv"

    def on_trunk(self, number: int) -> None:
        """Writes the config of each task."""
        for task in TASKS:
            text = CONFIG.format(train=str(self.rows_file(task)), name=task, backbone=str(self.trunks[number]))
            (self.folder / "configs" / f"{task}.py").write_text(text)

    def start(self, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Starts `retrain --all`."""
        configs = [str(self.folder / "configs" / f"{task}.py") for task in TASKS]
        words = ["retrain", *configs, "--all", *self.where, "--lease", str(LEASE), "--wait", str(3 * LEASE), *options]
        return self._command(words)

    def _command(self, words: Sequence[str]) -> subprocess.Popen[str]:
        log = (self.folder / "command.log").open("a")
        command = [sys.executable, "-m", "topgraft", *words, "--json", "--quiet"]
        with log:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )

    def finish(self, process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
        """Returns the outcome of each task; none where the command died."""
        out = process.communicate()[0].strip().splitlines()
        if process.returncode < 0 or not out:
            return {}
        return {outcome["task"]: outcome for outcome in json.loads(out[-1])["tasks"]}

    def verb(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Calls another verb; returns its status and its object."""
        process = self._command([*words, *self.where])
        out = process.communicate()[0].strip().splitlines()
        return process.returncode, json.loads(out[-1]) if out else {}

    @contextlib.contextmanager
    def registry(self) -> Iterator[Registry]:
        """Opens the registry."""
        with contextlib.closing(open_registry(self.database.url, create=False)) as registry:
            yield registry

    def lives(self) -> Mapping[str, Live]:
        """Returns what is live, by task."""
        with self.registry() as registry:
            return registry.lives()


def read_rows(file: Path) -> Rows:
    """Reads rows that `write_rows` wrote."""
    with file.open(newline="", encoding="utf-8") as opened:
        return [(text, label) for text, label in list(csv.reader(opened))[1:]]


def write_rows(file: Path, table: Rows) -> None:
    """Writes a table of texts and labels; the file is the former one until it is the new one."""
    write_csv(file.with_suffix(".new"), table)
    file.with_suffix(".new").replace(file)
