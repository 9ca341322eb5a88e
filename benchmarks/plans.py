"""A freeze plan and a curriculum on Banking77 and emotion, each on and off.

    python -m benchmarks.plans --data ../shared/data [--only emotion] [--seeds 0 1 2]

Each run is one process from start to stored graft, with an empty home but for the imported backbone, so that
filling the boundary cache is in its CPU seconds; the test rows are scored afterwards. Off means `plan.stages=all`
and `curriculum.difficulty=none`, the rest is the config of that name. Raw runs are kept in `results/plans.jsonl`;
one that is there is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.never_twice import evaluated, fresh_home, load_test, trained
from benchmarks.results import RawRuns, parsed, spread, write

CURRICULUM = "curriculum.difficulty=length"
ON = {
    "emotion": {"plan": "plan.stages=geometric(0.3)", "curriculum": CURRICULUM},
    "banking77": {"plan": "plan.stages=geometric(0.5)", "curriculum": CURRICULUM},
}
OFF = {"plan": "plan.stages=all", "curriculum": "curriculum.difficulty=none"}
KEY = ("task", "plan", "curriculum", "seed")  # of a run; plan and curriculum say whether they were on


def run(task: str, on: dict[str, bool], seed: int, folder: Path, data: str) -> dict[str, Any]:
    """Accuracy on the test rows, and what the training took."""
    home = fresh_home(folder)
    chosen = [(ON[task] if on[name] else OFF)[name] for name in OFF]
    result = trained(task, home, data, (*chosen, f"seed={seed}", "checkpoint_seconds=0", "data.test="))
    accuracy = evaluated(result["graft"], home, data, load_test(task, data))
    return {"accuracy": accuracy, **{name: result[name] for name in ("seconds", "cpu_seconds")}}


def summary(done: dict[tuple[Any, ...], dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians and ranges over the seeds."""
    table = []
    for task, plan, curriculum in dict.fromkeys(key[:3] for key in done):
        runs = [found for key, found in done.items() if key[:3] == (task, plan, curriculum)]
        entry = {"task": task, "plan": plan, "curriculum": curriculum}
        table.append(entry | {name: spread([one[name] for one in runs]) for name in ("accuracy", "cpu_seconds")})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--only", choices=sorted(ON), action="append")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options, provenance = parsed(parser)
    data, raw = str(Path(options.data).resolve()), RawRuns("plans", KEY, provenance)
    with tempfile.TemporaryDirectory() as name:
        for seed, task in itertools.product(options.seeds, options.only or ON):
            for plan, curriculum in itertools.product((True, False), repeat=2):
                key = (task, plan, curriculum, seed)
                if key in raw.done:
                    continue
                on = {"plan": plan, "curriculum": curriculum}
                found = dict(zip(KEY, key, strict=True)) | run(task, on, seed, Path(name), data)
                print(json.dumps(found), file=sys.stderr, flush=True)
                raw.add(found)
    table = summary(raw.done)
    for entry in table:
        print(json.dumps(entry))
    print(write("plans", {"summary": table, "raw": "plans.jsonl"}, provenance))


if __name__ == "__main__":
    main()
