"""Accuracy against seconds on Banking77 and emotion: both sides, three seeds.

    python -m benchmarks.curves --peers .venv-peers/bin/python --data ../shared/data [--only emotion] [--seeds 0 1 2]

A point of PEFT is an epoch of one run (random or length-grouped batches; scoring is not paid). A point here is a
whole run from process start to stored graft with that budget and an empty home but for the imported backbone, so
that ours pays its start and its cache again at each point. All are scored on the test rows. Runs are shared with
`never_twice` and kept in `results/never_twice.jsonl`; to be made with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from backbone.console.page import plot
from benchmarks.never_twice import EPOCHS, OURS, Bench, fresh_home
from benchmarks.results import RESULTS, parsed, write

PEERS: dict[str, tuple[str, ...]] = {
    "a: PEFT, random batches": (),
    "b: PEFT, length-grouped": ("--order", "length_grouped"),
}
BUDGETS = {
    "probe": ("plan.highest=probe",),
    "probe of all boundaries": ("plan.highest=probe_all",),
    "top two blocks, one epoch": ("plan.highest=top", "epochs=1"),
    "auto": (),
}
Point = tuple[float, float]  # seconds, accuracy


def peer_points(run: dict[str, Any]) -> list[Point]:
    """After each epoch, the stored adapter last."""
    return [(point["seconds"], point["accuracy"]) for point in (*run["curve"], run)]


def measure(bench: Bench, task: str, seed: int, folder: Path) -> dict[str, list[Point]]:
    """The points of every side, one seed; runs of both sides alternate."""
    sides: dict[str, list[Point]] = {"ours": []}
    peers = iter(PEERS.items())
    for budget, settings in BUDGETS.items():
        if entry := next(peers, None):
            side, extra = entry
            sides[side] = peer_points(
                bench.run(f"{task}/{side}", seed, functools.partial(bench.peft, task, seed, *extra))
            )
        chosen = ("plan.stages=auto", *OURS[task], *settings)

        def make(chosen: tuple[str, ...] = chosen) -> dict[str, Any]:
            return bench.ours(task, seed, fresh_home(folder), *chosen)

        ours = bench.run(f"{task}/curve: {budget}", seed, make)
        sides["ours"].append((ours["seconds"], ours["accuracy"]))
    return sides


def medians(runs: list[dict[str, list[Point]]]) -> dict[str, list[Point]]:
    """Point by point over the seeds, seconds and accuracy each by itself."""
    return {
        side: [
            (statistics.median(s for s, _ in points), statistics.median(a for _, a in points))
            for points in zip(*(run[side] for run in runs), strict=True)
        ]
        for side in runs[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="Python of the environment with torch, transformers and peft")
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--only", choices=sorted(EPOCHS), action="append")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options, provenance = parsed(parser)
    bench, tasks = Bench(options, provenance), {}
    with tempfile.TemporaryDirectory() as name:
        for task in options.only or EPOCHS:
            runs = [measure(bench, task, seed, Path(name)) for seed in options.seeds]
            tasks[task] = {"medians": medians(runs), "seeds": dict(zip(options.seeds, runs, strict=True))}
            lines = {side: sorted(points) for side, points in tasks[task]["medians"].items()}
            worst = min(accuracy for points in lines.values() for _, accuracy in points)
            drawing = plot(lines, f"accuracy on {task}, seconds", lowest=math.floor(20 * worst) / 20)
            (RESULTS / f"curves_{task}.svg").write_text(drawing, encoding="utf-8")
    print(json.dumps({task: entry["medians"] for task, entry in tasks.items()}, indent=1))
    part = f"_{'_'.join(tasks)}" if options.only else ""
    print(write(f"curves{part}", {"summary": tasks, "raw": "never_twice.jsonl"}, provenance))


if __name__ == "__main__":
    main()
