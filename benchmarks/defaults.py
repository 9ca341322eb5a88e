"""The shipped default against features with a linear model and against SetFit, at any number of rows.

    python -m benchmarks.defaults --peers .venv-peers/bin/python --data ../shared/data [--set banking77] [--rows 5 10 0]

Our side is `topgraft train text_classification` on a CSV with no setting of its own. Labels are written as words. The
peers are PyTorch in bfloat16 with scikit-learn's logistic regression: its seconds with C = 10, its accuracy with C
chosen by cross-validation; and SetFit at few rows of at most six labels, for its accuracy alone. Seconds run from
process start to the stored model. Our home holds the backbone and the compiled programs of a run on the same rows. That
run is kept as `first run`. Our home has no cached states. PEFT has a benchmark of its own, `never_twice`.

Sides alternate. Cells are kept in `results/defaults.jsonl` as they are made: one draw of few rows of every set, then
all rows, then further draws, then SetFit. With few rows at most 2,000 test rows are scored, drawn by seed 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from backbone.exchange.importing import minilm_folder
from benchmarks.never_twice import evaluated, features_run, fresh_home, trained, write_rows
from benchmarks.peers.tasks import NAMES, TASKS, Rows
from benchmarks.results import ROOT, RawRuns, parsed, write

FIRST, SETFIT = "first run", "setfit"
SIDES = ("topgraft", "features, C = 10", "features, C chosen")  # sides of every cell
PEERS = ("features, C chosen", SETFIT)  # peers in accuracy
MAX_LABELS = 6  # labels of a set that SetFit is tried on
MAX_TEST = 2000  # test rows beside few train rows
RATIO, DIFFERENCE = "seconds to those of features", "seconds more than features"
SMALL = 1000  # train rows below which seconds are compared by their difference


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


def setfit_run(peers: str, folder: Path, seed: int) -> dict[str, float]:
    """SetFit on the rows of a folder, by the peers' Python."""
    command = [peers, "-m", "benchmarks.peers.setfit_recipe", "--model", str(minilm_folder()), "--seed", str(seed)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run([*command, str(folder)], check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(output.stdout)
    return result


class Bench:
    """A folder with the rows of each cell, and a home for each set."""

    def __init__(self, folder: Path, options: argparse.Namespace, runs: RawRuns):
        self.folder, self.peers, self.runs = folder, options.peers, runs
        self.data = str(Path(options.data).resolve())
        self.homes: dict[str, Path] = {}
        self.warm: set[tuple[str, int]] = set()  # sets and rows a class whose programs the home holds

    def rows(self, task: str, per_class: int, draw: int) -> Path:
        """Writes the rows of a cell, once, and returns their folder."""
        folder = self.folder / f"{task}-{per_class}-{draw}"
        if not folder.exists():
            folder.mkdir()
            train, test = TASKS[task](Path(self.data))
            if per_class:
                test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:MAX_TEST]]
            write_rows(folder, drawn(train, per_class, draw), test, NAMES[task](Path(self.data)))
        return folder

    def add(self, task: str, per_class: int, draw: int, side: str) -> None:
        """Makes the run of one side of a cell, and keeps it."""
        rows = self.rows(task, per_class, draw)
        if side == SETFIT:
            run = setfit_run(self.peers, rows, draw)
        elif side == "topgraft":
            run = self.ours(task, per_class, draw, rows)
        else:
            extra = () if "chosen" in side else ("--strength", "10")
            run = features_run(self.peers, rows, "--dtype", "bfloat16", *extra)
        self.keep({"set": task, "rows": per_class, "draw": draw, "side": side, **run})

    def keep(self, run: dict[str, Any]) -> None:
        self.runs.add(run)
        print(json.dumps(run), file=sys.stderr, flush=True)

    def ours(self, task: str, per_class: int, draw: int, rows: Path) -> dict[str, Any]:
        """Trains in one process from start to stored graft, then takes its accuracy on the test rows by another."""
        if task not in self.homes:
            self.homes[task] = fresh_home(self.folder)
        home, place = self.homes[task], (task, per_class)
        if place not in self.warm:  # leaves its compiled programs
            first = {"set": task, "rows": per_class, "draw": draw, "side": FIRST, **self.trained(home, rows, draw)[0]}
            if (*place, draw, FIRST) not in self.runs.done:
                self.keep(first)
            self.warm.add(place)
        run, graft = self.trained(home, rows, draw)
        return {"accuracy": evaluated(graft, home, self.data, (f"data.test={rows / 'test.csv'}", "data.train="))} | run

    def trained(self, home: Path, rows: Path, draw: int) -> tuple[dict[str, Any], str]:
        """Returns a run without its accuracy, and the folder of its graft."""
        for name in ("boundaries", "data"):
            shutil.rmtree(home / name, ignore_errors=True)
        result = trained("text_classification", home, self.data, (f"data.train={rows / 'train.csv'}", f"seed={draw}"))
        steps = [[step["name"], step["score"], step["kept"]] for step in result["climb"]]
        run = {name: result[name] for name in ("seconds", "cpu_seconds")}
        with (rows / "train.csv").open(encoding="utf-8") as file:
            count = sum(1 for _ in file) - 1
        return {**run, "train_rows": count, "steps": steps}, result["graft"]


def cells(options: argparse.Namespace) -> list[tuple[str, int, int, str]]:
    """Lists set, rows a class, draw and side, the most telling first; there is one draw of all rows."""
    sets = options.set or tuple(NAMES)
    few = [rows for rows in options.rows if rows]
    small = [name for name in sets if len(NAMES[name](Path(options.data))) <= MAX_LABELS]
    draws = [(draw, rows) for draw in range(options.draws) for rows in few]
    draws.insert(len(few), (0, 0))
    every = [(name, rows, draw, side) for draw, rows in draws for name in sets for side in SIDES]
    every += [(name, rows, draw, SETFIT) for draw in range(options.draws) for rows in few for name in small]
    return [cell for cell in every if cell[1] in options.rows]


def difference(runs: RawRuns, name: str, rows: int, peer: str) -> dict[str, float] | None:
    """Returns the mean gain over a peer, paired by draw, in points of accuracy; from two draws on with its interval."""
    pairs = []
    for key in runs.done:
        if key[:2] + key[3:] == (name, rows, peer) and (other := (*key[:3], "topgraft")) in runs.done:
            pairs.append(100 * (runs.done[other]["accuracy"] - runs.done[key]["accuracy"]))
    if not pairs:
        return None
    values = {"mean": float(np.mean(pairs))}
    if len(pairs) > 1:
        reach = float(scipy.stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5)
        values |= {"low": values["mean"] - reach, "high": values["mean"] + reach}
    return {field: round(value, 2) for field, value in values.items()} | {"draws": len(pairs)}


def summary(runs: RawRuns) -> dict[str, dict[str, Any]]:
    """Takes means over the draws: accuracy and seconds of each side, by set and rows a class."""
    table: dict[str, dict[str, Any]] = {}
    for name, rows in dict.fromkeys(key[:2] for key in runs.done):
        line: dict[str, Any] = {}
        for side in (*SIDES, FIRST, SETFIT):
            of_side = [run for key, run in runs.done.items() if key[:2] + key[3:] == (name, rows, side)]
            fields = [field for field in ("accuracy", "seconds", "cpu_seconds") if of_side and field in of_side[0]]
            if of_side:
                line[side] = {field: round(float(np.mean([run[field] for run in of_side])), 4) for field in fields}
            if side in PEERS and (gain := difference(runs, name, rows, side)):
                line[f"topgraft less {side}"] = gain
        table[f"{name}, {rows or 'all'} rows a class"] = line | seconds(runs, name, rows)
    return table


def seconds(runs: RawRuns, name: str, rows: int) -> dict[str, Any]:
    """Returns our seconds against those of features with C = 10, paired by draw, and how often we were as accurate."""
    ours = {key[2]: run for key, run in runs.done.items() if key[:2] + key[3:] == (name, rows, "topgraft")}
    peers = {key[2]: run for key, run in runs.done.items() if key[:2] + key[3:] == (name, rows, SIDES[1])}
    draws = sorted(ours.keys() & peers.keys())
    if not draws:
        return {}
    few = ours[draws[0]]["train_rows"] < SMALL
    compare = np.subtract if few else np.divide
    values = [float(compare(ours[draw]["seconds"], peers[draw]["seconds"])) for draw in draws]
    reached = [ours[draw]["accuracy"] >= peers[draw]["accuracy"] for draw in draws]
    return {
        DIFFERENCE if few else RATIO: round(float(np.mean(values)), 2),
        "accuracy of features reached": float(np.mean(reached)),
    }


def floors(table: dict[str, Any]) -> dict[str, Any]:
    """Returns the mean over the cells of the gain over the better peer, and the cells that lie below -1 point.

    Where a benchmark has them, also the geometric mean of the ratios of seconds, and the largest difference.
    """
    gains, below = [], []
    for cell, line in table.items():
        of_peers = [gain for name, gain in line.items() if name.startswith("topgraft less ")]
        if of_peers:
            gains.append(min(gain["mean"] for gain in of_peers))
            below += [cell for gain in of_peers if gain.get("high", 0.0) < -1]
    result: dict[str, Any] = {
        "mean over cells": round(float(np.mean(gains)), 2) if gains else None,
        "cells below -1": sorted(set(below)),
    }
    ratios, more = ([line[name] for line in table.values() if name in line] for name in (RATIO, DIFFERENCE))
    if ratios:
        result[RATIO] = round(float(scipy.stats.gmean(ratios)), 2)
    if more:
        result[f"{DIFFERENCE}, largest"] = max(more)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="Python of the environment with torch and scikit-learn")
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--set", choices=tuple(NAMES), action="append")
    parser.add_argument("--rows", type=int, nargs="*", default=[5, 10, 0], help="rows of each class; 0 means all")
    parser.add_argument("--draws", type=int, default=3)
    options, provenance = parsed(parser)
    runs = RawRuns("defaults", ("set", "rows", "draw", "side"), provenance)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options, runs)
        for cell in cells(options):
            if cell not in runs.done:
                bench.add(*cell)
                table = summary(runs)  # whoever stops it has the table of what was made
                write("defaults", {"floors": floors(table), "summary": table, "raw": "defaults.jsonl"}, provenance)
    table = summary(runs)
    print(json.dumps({"floors": floors(table), "summary": table}, indent=1))
    print(write("defaults", {"floors": floors(table), "summary": table, "raw": "defaults.jsonl"}, provenance))


if __name__ == "__main__":
    os.environ.pop("TOPGRAFT_HOME", None)
    main()
