"""LoRA here and in PEFT on five tasks of four kinds: same recipe, same rows, same measure, one seed.

    python -m benchmarks.peft_tasks --peers .venv-peers/bin/python --data ../shared/data

STS-B (a number for a pair), MRPC (a label for a pair), CoLA, CLINC150 in scope and SNIPS slots (a tag for each
word). Rank 8, alpha 16 on query and value, batch 32, 3 epochs, learning rate 2e-3 (CoLA 1e-3), linear decay. Here
the backbone has no dropout and the head, zero at first, reads the mean of the states; PEFT is as it comes, with
pooler and dropout; tags are read from every state on both sides. The result file holds scores and times, and is
written after each task.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from backbone.exchange.importing import minilm_folder
from benchmarks.results import ROOT, parsed, write

# measure and learning rate; the config of the same name holds the same
TASKS = {
    "stsb": ("pearson", 2e-3),
    "mrpc": ("accuracy", 2e-3),
    "cola": ("matthews", 1e-3),
    "clinc150": ("accuracy", 2e-3),
    "snips_slots": ("entity_f1", 2e-3),
}


def _last_line(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The JSON on the last line of a command's output."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="Python with torch, transformers, peft and seqeval")
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options, provenance = parsed(parser)
    data = str(Path(options.data).resolve())
    environment = os.environ | {"TOPGRAFT_DATA": data, "PYTHONPATH": str(ROOT)}
    found: dict[str, Any] = {}
    for task in options.tasks:
        measure, rate = TASKS[task]
        with tempfile.TemporaryDirectory() as folder:
            ours = [sys.executable, "-m", "topgraft", "train", task, "--workdir", f"{folder}/run", "--json", "--quiet"]
            ours += ["--set", f"seed={options.seed}", "--set", f"epochs={options.epochs}"]
            here = _last_line(ours, environment)
        theirs = [options.peers, "-m", "benchmarks.peers.peft_recipe", "--model", str(minilm_folder())]
        theirs += ["--task", task, "--data", data, "--lr", str(rate), "--seed", str(options.seed)]
        there = _last_line([*theirs, "--epochs", str(options.epochs)], environment)
        left, right = here["metrics"]["test"], there["test"]
        found[task] = {
            "measure": measure,
            "topgraft": left[measure],
            "peft": right[measure],
            "points": 100 * (left[measure] - right[measure]),
            "topgraft_metrics": left,
            "peft_metrics": right,
            "topgraft_train": here["costs"]["train"],
            "peft_train": there["train"],
            "versions": there["versions"],
        }
        print(f"{task}: {measure} {left[measure]:.4f} here, {right[measure]:.4f} in PEFT", file=sys.stderr, flush=True)
        path = write("peft_tasks", {"epochs": options.epochs, "tasks": found}, provenance)
    print(path)


if __name__ == "__main__":
    main()
