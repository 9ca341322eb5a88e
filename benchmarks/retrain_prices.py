"""The price of a retraining, told before it starts, beside what it took: thirty runs that no price was fitted to.

    python -m benchmarks.retrain_prices --data ../shared/data [--set irony] [--method probe]

A task begins with 1,000 rows of a set's train rows, and five times some more come in. Before each retraining
`topgraft retrain --dry-run` predicts its CPU seconds, from earlier runs of its kind where there are some, else from
timed steps of the plan. Then it runs, and the CPU seconds of the whole process are taken. Compiled programs are kept
from run to run, as a pipeline keeps them. Raw runs are kept in `results/retrain_prices.jsonl` as they are made; the
medians are in `results/retrain_prices.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import answered
from benchmarks.never_twice import fresh_home
from benchmarks.peers.tasks import TASKS
from benchmarks.results import ROOT, RawRuns, parsed, write

SETS = ("irony", "sst2_10", "cola")  # the exponents of a price were set on trec6, emotion and airline_tweets
METHODS = {  # settings of each task
    "probe": ("plan.highest=probe",),
    "lora": ("adapter.method=lora", "plan.stages=all", "epochs=2"),
}
FIRST = 1000  # rows of the first version
MORE = (20, 200, 50, 400, 20)  # rows that come in before each priced run
ENDED = (0, 10, 11)  # statuses of a retraining that trained


class Task:
    """A task with a home, a registry and a store of its own."""

    def __init__(self, name: str, method: str, folder: Path, home: Path, data: str):
        self.folder, self.method = folder, method
        self.rows = list(TASKS[name](Path(data))[0])
        random.Random(0).shuffle(self.rows)
        self.environment = os.environ | {"TOPGRAFT_HOME": str(home), "PYTHONPATH": str(ROOT)}

    def retrain(self, rows: int, *options: str) -> tuple[dict[str, Any], float]:
        """Retrains on the first `rows` rows; returns the outcome and the CPU seconds of the process."""
        with (self.folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(
                [("text", "label"), *((text, f"label {label}") for text, label in self.rows[:rows])]
            )
        settings = (f"data.train={self.folder / 'train.csv'}", "data.dev_fraction=0.2", "data.gate_fraction=0.2")
        # promoted whatever the gate finds, so that every run has the same beginning: the version before it
        gate = ("retrain.gate.tolerance=1", "retrain.gate.forgetting=1", "retrain.gate.label_drop=1")
        chosen = [part for text in (*settings, *gate, *METHODS[self.method]) for part in ("--set", text)]
        place = ["--registry", f"sqlite:///{self.folder / 'registry.db'}", "--store", str(self.folder / "store")]
        words = ["retrain", "text_classification", *place, *chosen, *options]
        return answered(words, self.environment, ENDED)


def measure(name: str, method: str, home: Path, data: str, runs: RawRuns) -> None:
    """Makes the priced runs of one task."""
    if all((name, method, number) in runs.done for number in range(len(MORE))):
        return
    with tempfile.TemporaryDirectory() as folder:
        task = Task(name, method, Path(folder), home, data)
        task.retrain(FIRST)
        rows = FIRST
        for number, more in enumerate(MORE):
            rows += more
            dry, _ = task.retrain(rows, "--dry-run")
            outcome, seconds = task.retrain(rows)
            run = {
                "set": name,
                "method": method,
                "number": number,
                "rows": rows,
                "new_rows": more,
                "action": outcome["action"],
                "source": dry["predicted"]["source"],
                "predicted_cpu_seconds": dry["predicted"]["cpu_seconds"],
                "cpu_seconds": seconds,
                "rows_computed": outcome["rows_computed"],
            }
            runs.add(run)
            print(json.dumps(run), flush=True)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Takes the medians: how far prices were off, and what runs with 20 new rows took."""
    off = [abs(run["predicted_cpu_seconds"] / run["cpu_seconds"] - 1) for run in runs]
    small = {
        method: statistics.median(r["cpu_seconds"] for r in runs if r["method"] == method and r["new_rows"] == 20)
        for method in {run["method"] for run in runs}
    }
    by_source = {
        source: statistics.median(
            o for o, run in zip(off, runs, strict=True) if ("earlier" in run["source"]) == earlier
        )
        for source, earlier in (("from earlier runs", True), ("from the plan", False))
        if any(("earlier" in run["source"]) == earlier for run in runs)
    }
    return {
        "runs": len(runs),
        "median_relative_difference": round(statistics.median(off), 3),
        "worst_relative_difference": round(max(off), 3),
        "median_relative_difference_by_source": {source: round(value, 3) for source, value in by_source.items()},
        "cpu_seconds_with_20_new_rows": small,
    }


def main() -> None:
    """Runs what is missing, and writes the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--set", choices=SETS, nargs="*", default=SETS)
    parser.add_argument("--method", choices=tuple(METHODS), nargs="*", default=tuple(METHODS))
    options, provenance = parsed(parser)
    runs = RawRuns("retrain_prices", ("set", "method", "number"), provenance)
    with tempfile.TemporaryDirectory() as folder:
        home = fresh_home(Path(folder))
        for method in options.method:
            for name in options.set:
                measure(name, method, home, options.data, runs)
    print(write("retrain_prices", summary(list(runs.done.values())), provenance))


if __name__ == "__main__":
    main()
