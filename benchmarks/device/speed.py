"""The frozen pass and steps of training, in every precision, beside PyTorch: both sides take turns on one device.

A fill runs the blocks below the top two on full batches. Steps train LoRA of rank 8 on query and value: of the top
two blocks, on states that are kept on the host or on the device, or of every block. Figures are milliseconds and
joules of a step, each side in turns of about the same length.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.device.part import Part, problem
from benchmarks.peft_lora import Worker

ROUNDS = 5
TURN = 0.12  # seconds of a turn, about
# the most telling first, since a time that is over costs the last
PRECISIONS = ("bfloat16", "float32", "int8", "bfloat16 every block", "float32_exact", "float32 every block")


def prepared(workers: dict[str, Worker], **cell: str) -> dict[str, dict[str, Any]]:
    """Prepares a cell on every side that still lives, both at once, and returns the answers by side."""

    def ask(name: str) -> dict[str, Any]:
        try:
            return workers[name].ask(cmd="prepare", **cell)
        except (RuntimeError, OSError) as error:
            return {"problem": problem(error), "ended": True}

    with ThreadPoolExecutor() as pool:
        answers = dict(zip(workers, pool.map(ask, workers), strict=True))
    for name, answer in answers.items():
        if "ended" in answer:
            del workers[name]
    return answers


def in_turns(workers: dict[str, Worker], answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns milliseconds and joules of a step, by side of the comparison and by what is run."""
    turns = [(name, run) for name in workers for run in answers[name].get("sides", ())]
    steps = {}
    for name, run in turns:
        trial = workers[name].ask(cmd="run", side=run, steps=3)
        steps[name, run] = max(3, round(3 * TURN / max(trial.get("seconds", TURN), 1e-6)))
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
    for _ in range(ROUNDS):
        for name, run in turns:
            answer = workers[name].ask(cmd="run", side=run, steps=steps[name, run])
            if "seconds" in answer:
                runs[name, run].append({key: value and value / steps[name, run] for key, value in answer.items()})
    return {name: {run: summary(runs[name, run]) for side, run in turns if side == name} for name in workers}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the median and all raw figures of one run."""
    if not runs:
        return {"problem": "no turn ended"}
    milliseconds = [1e3 * run["seconds"] for run in runs]
    joules = [run["joules"] for run in runs if run["joules"] is not None]
    return {
        "milliseconds": statistics.median(milliseconds),
        "joules": statistics.mean(joules) if joules else None,  # a counter of long steps is right on average
        "raw_milliseconds": milliseconds,
    }


def main() -> None:
    part = Part("speed", __doc__.split("\n")[0])
    options = ["--tiny"] if part.tiny else []
    commands = {name: [sys.executable, "-m", f"benchmarks.device.{name}_side", *options] for name in ("our", "torch")}
    has_torch = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    workers = {"topgraft": Worker(commands["our"])} | ({"torch": Worker(commands["torch"])} if has_torch else {})
    cells = [(shape, precision) for precision in PRECISIONS for shape in ("bert_base", "minilm")]
    figures: dict[str, Any] = {}
    part.add(torch=has_torch)
    for shape, precision in cells:
        answers = prepared(workers, shape=shape, precision=precision)
        cell = figures.setdefault(shape, {}).setdefault(precision, {"prepared": answers})
        part.add(cells=figures)
        cell["sides"] = in_turns(workers, answers)
        part.add(cells=figures)
    for worker in workers.values():
        worker.__exit__()


if __name__ == "__main__":
    main()
