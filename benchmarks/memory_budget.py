"""Ten budgets of `plan.max_memory_mb`, each given to a run of its own: is the measured peak within it?

    python -m benchmarks.memory_budget --data ../shared/data [--budgets 10] [--tokens 128] [--rows 400]

Every run is a process that trains LoRA in every block of MiniLM on `rows` rows of fdu_mtl books, one epoch. The lowest
budget is just above the floor that the refusal of 1 MB names, the highest the peak of a run whose budget never binds.
The budgets between grow by one factor. The peak is the largest resident memory of the training steps, above the level
after imports, as `result.json` has it (`costs.train.peak_bytes`). Seconds are those of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parents import read, written
from benchmarks.results import ROOT, RawRuns, parsed, write

FREE = 1_000_000  # a budget that never binds, MB
ABOVE = 1.1  # lowest budget, by the floor: what is resident differs a little from run to run


def run(budget: float, rows: Path, options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Trains within a budget in a process of its own; returns its result, None where it was refused, and the log."""
    settings = (
        *("plan.stages=all", "precision=float32", "epochs=1", "select=last", f"plan.max_memory_mb={budget}"),
        *(f"data.train={rows}", f"data.max_tokens={options.tokens}", "backbone=minilm"),
    )
    words = [word for text in settings for word in ("--set", text)]
    workdir = ("--workdir", str(folder / f"run{budget}"), "--json")
    command = [sys.executable, "-m", "topgraft", "train", "text_classification", *words, *workdir]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stderr)
    return (json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None), done.stderr


def cell(budget: float, rows: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns a budget beside the peak of its run, and the form of its steps."""
    result, log = run(budget, rows, options, folder)
    if result is None:
        return {"budget_mb": budget, "refused": log.strip().splitlines()[-1]}
    peak = result["costs"]["train"]["peak_bytes"] / 1e6
    form = re.search(r"memory: (.*)", log)
    return {
        "budget_mb": budget,
        "peak_mb": round(peak, 1),
        "kept": peak <= budget,
        "form": form[1] if form else "",
        "step_seconds": sum(stage["wall_seconds"] for stage in result["stages"]),
    }


def main() -> None:
    """Runs the budgets that are missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--budgets", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, default=400)
    options, provenance = parsed(parser)
    runs = RawRuns("memory_budget", ("budget_mb",), provenance)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = written(folder / "rows.csv", read(Path(options.data), "books", "train")[: options.rows])
        free = cell(FREE, rows, options, folder)["peak_mb"]
        refused = re.search(r"the floor of this run, (\d+) MB", run(1, rows, options, folder)[1])
        assert refused is not None
        floor = float(refused[1])
        for budget in np.geomspace(ABOVE * floor, free, options.budgets).round().tolist():
            if (budget,) not in runs.done:
                made = cell(budget, rows, options, folder)
                runs.add(made)
                print(json.dumps(made), flush=True)
    kept = [bool(one.get("kept")) for one in runs.done.values()]
    summary = {"floor_mb": floor, "free_peak_mb": free, "budgets": len(kept), "kept": sum(kept)}
    print(write("memory_budget", summary | {"runs": list(runs.done.values())}, provenance))


if __name__ == "__main__":
    main()
