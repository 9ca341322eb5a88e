"""The shipped default against features with a linear model, at any number of rows.

    python -m benchmarks.defaults --peers .venv-peers/bin/python --data ../shared/data [--set banking77] [--rows 5 10 0]

Our side is `topgraft train text_classification` on a CSV with no setting of its own. Its home holds the backbone and
the compiled programs of a run before, and no cached states. The peer is PyTorch in bfloat16 with scikit-learn's
logistic regression: its seconds with C = 10, its accuracy with C chosen by cross-validation. Seconds run from process
start to the stored model. Sides alternate. Cells are kept in `results/defaults.jsonl` as they are made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.never_twice import evaluated, features_run, fresh_home, trained, write_rows
from benchmarks.peers.tasks import TASKS, Rows
from benchmarks.results import RawRuns, parsed, write

SETS = ("banking77", "trec6", "emotion", "irony", "sst2_10", "movie_reviews", "airline_tweets")
SIDES = ("topgraft", "features, C = 10", "features, C chosen")


def drawn(rows: Rows, per_class: int, draw: int) -> Rows:
    """Draws rows of each class; 0 keeps all of them."""
    if not per_class:
        return rows
    order = np.random.default_rng(draw).permutation(len(rows))
    chosen: dict[Any, list[int]] = defaultdict(list)
    for i in order:
        if len(chosen[rows[i][1]]) < per_class:
            chosen[rows[i][1]].append(i)
    return [rows[i] for places in chosen.values() for i in sorted(places)]


def ours(home: Path, rows: Path, data: str, draw: int) -> dict[str, Any]:
    """Trains in one process from start to stored graft, then takes its accuracy on the test rows by another."""
    for name in ("boundaries", "data"):
        shutil.rmtree(home / name, ignore_errors=True)
    result = trained("text_classification", home, data, (f"data.train={rows / 'train.csv'}", f"seed={draw}"))
    accuracy = evaluated(result["graft"], home, data, (f"data.test={rows / 'test.csv'}", "data.train="))
    steps = [[step["name"], step["score"], step["kept"]] for step in result["climb"]]
    return {"accuracy": accuracy, "steps": steps} | {name: result[name] for name in ("seconds", "cpu_seconds")}


def cells(options: argparse.Namespace) -> Sequence[tuple[str, int, int]]:
    """Lists set, rows a class and draw; there is one draw of all rows."""
    sets = options.set or SETS
    draws = {rows: range(options.draws) if rows else range(1) for rows in options.rows}
    return [(name, rows, draw) for rows in options.rows for draw in draws[rows] for name in sets]


def summary(runs: RawRuns) -> dict[str, dict[str, Any]]:
    """Takes means over the draws: accuracy and seconds of each side, by set and rows a class."""
    table: dict[str, dict[str, Any]] = {}
    for name, rows in dict.fromkeys(key[:2] for key in runs.done):
        sides = {
            side: [run for key, run in runs.done.items() if key[:2] + key[3:] == (name, rows, side)] for side in SIDES
        }
        table[f"{name}, {rows or 'all'} rows a class"] = {
            side: {
                field: float(np.mean([run[field] for run in of_side]))
                for field in ("accuracy", "seconds", "cpu_seconds")
            }
            for side, of_side in sides.items()
            if of_side
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="Python of the environment with torch and scikit-learn")
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--set", choices=SETS, action="append")
    parser.add_argument("--rows", type=int, nargs="*", default=[5, 10, 0], help="rows of each class; 0 means all")
    parser.add_argument("--draws", type=int, default=3)
    options, provenance = parsed(parser)
    data, runs = str(Path(options.data).resolve()), RawRuns("defaults", ("set", "rows", "draw", "side"), provenance)
    with tempfile.TemporaryDirectory() as name:
        home, warm = fresh_home(Path(name)), False
        for task, per_class, draw in cells(options):
            folder = Path(name) / f"{task}-{per_class}-{draw}"
            folder.mkdir()
            train, test = TASKS[task](Path(data))
            write_rows(folder, drawn(train, per_class, draw), test)
            for side in SIDES:
                if (task, per_class, draw, side) in runs.done:
                    continue
                if side == "topgraft" and not warm:
                    ours(home, folder, data, draw)  # leaves its compiled programs
                    warm = True
                extra = () if "chosen" in side else ("--strength", "10")
                run = ours(home, folder, data, draw) if side == "topgraft" else features_run(
                    options.peers, folder, "--dtype", "bfloat16", *extra
                )  # fmt: skip
                line = runs.add({"set": task, "rows": per_class, "draw": draw, "side": side, **run})
                print(json.dumps({k: v for k, v in line.items() if k != "provenance"}), file=sys.stderr, flush=True)
    table = summary(runs)
    print(json.dumps(table, indent=1))
    print(write("defaults", {"summary": table, "raw": "defaults.jsonl"}, provenance))


if __name__ == "__main__":
    os.environ.pop("TOPGRAFT_HOME", None)
    main()
