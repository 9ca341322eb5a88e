"""`topgraft retrain --all` over many small tasks of one backbone: CPU seconds of each task after the first.

    python -m benchmarks.fleet --data ../shared/data [--tasks 20] [--rows 500]

Each task has rows of its own from the train rows of CLINC150, named by their domain, and a probe on MiniLM. The home
holds the backbone and the programs of a run before, and no cached states. CPU seconds of a task are those that its
outcome says; the whole command's stand beside them. Writes `results/fleet.json`.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import answered
from benchmarks.never_twice import fresh_home
from benchmarks.peers.tasks import TASKS
from benchmarks.results import ROOT, parsed, write

CONFIG = """
from adapters.specs import Probe
from trainers.config import Data, TrainConfig


def get_config():
    data = Data(train={train!r}, dev_fraction=0.2, gate_fraction=0.2)
    return TrainConfig(name={name!r}, backbone="minilm", adapter=Probe(), data=data)
"""


def write_tasks(folder: Path, tasks: int, rows: int, data: str) -> list[str]:
    """Writes rows and config of each task, and returns the config files."""
    table = list(TASKS["clinc150_domains"](Path(data))[0])
    draw, configs = random.Random(0), []
    for number in range(tasks):
        train = folder / f"task{number}.csv"
        with train.open("w", encoding="utf-8", newline="") as file:
            chosen = draw.sample(table, rows)
            csv.writer(file).writerows([("text", "label"), *((text, f"domain {label}") for text, label in chosen)])
        config = folder / f"task{number}.py"
        config.write_text(CONFIG.format(train=str(train), name=f"task{number}"))
        configs.append(str(config))
    return configs


def retrained(folder: Path, home: Path, configs: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Retrains all tasks in a new registry; returns their outcomes, and the CPU seconds of the whole command."""
    place = Path(tempfile.mkdtemp(dir=folder))
    where = ["--registry", f"sqlite:///{place / 'registry.db'}", "--store", str(place / "store")]
    environment = os.environ | {"TOPGRAFT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    result, seconds = answered(["retrain", *configs, "--all", *where], environment)
    return result["tasks"], seconds


def main() -> None:
    """Runs once for the programs, once to measure, and writes the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--rows", type=int, default=500)
    options, provenance = parsed(parser)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = fresh_home(folder)
        configs = write_tasks(folder, options.tasks, options.rows, options.data)
        retrained(folder, home, configs[:1])
        for states in ("boundaries", "data"):
            shutil.rmtree(home / states, ignore_errors=True)
        tasks, whole = retrained(folder, home, configs)
    seconds = [task["cpu_seconds"] for task in tasks]
    content = {
        "tasks": len(tasks),
        "rows": options.rows,
        "promoted": sum(task["promoted"] for task in tasks),
        "cpu_seconds_of_the_first": seconds[0],
        "median_cpu_seconds_of_each_further": statistics.median(seconds[1:]),
        "highest_cpu_seconds_of_each_further": max(seconds[1:]),
        "cpu_seconds_of_the_command": whole,
        "cpu_seconds": seconds,
    }
    print(write("fleet", content, provenance))


if __name__ == "__main__":
    main()
