"""A router over ten grafts, the domains of CLINC150: accuracy against the right graft, cost against one graft.

    python -m benchmarks.routing --data ../shared/data [--seed 0 1] [--boundary 2 4] [--rows 2000] [--work FOLDER]

Each domain of 15 intents trains LoRA in the blocks above a boundary, from `configs/clinc150.py` with the rows of its
intents alone. `topgraft route` makes a router over the ten grafts from their own train rows, with its defaults. On test
rows of all domains, three shares of right intents are compared: by the graft of the right domain (the oracle), by the
graft that the router names where every row is answered, and by the router under its promise. There the share of rows
with an answer of the wrong graft stands beside the bound. Rows out of scope (`oos_test`) say how many are answered all
the same.

Cost is that of a served row: one runtime holds all grafts, batches of 32 texts of one length bucket run in turn by a
router and by the graft that it names. Both orders alternate; the ratio is that of the medians, in seconds and in CPU
seconds of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.router import Router
from adapters.graft import Graft
from adapters.routing import RoutedGrafts, load_router
from backbone.buckets import bucket_of
from backbone.home import use_compilation_cache
from benchmarks.results import RawRuns, parsed, spread, write
from serving.bank import Envelope
from serving.runtime import Runtime
from trainers.config.load import load_config
from trainers.config.routing import Routing
from trainers.route import route
from trainers.train import train

BATCH = 32  # rows of a timed batch
WARM, TIMED = 2, 10  # passes over the batches before and while the clock runs


def domains(root: Path) -> dict[str, list[str]]:
    """Returns the intents of each domain."""
    return dict(json.loads((root / "clinc150" / "domains.json").read_text()))


def trained(domain: str, intents: Sequence[str], seed: int, boundary: int, work: Path) -> Path:
    """Returns the folder of a domain's graft."""
    settings = (f"plan.stages=top({6 - boundary})", "head_start=shrunk_probe", f"seed={seed}", f"name={domain}")
    config = load_config("clinc150", settings)
    config = replace(config, data=replace(config.data, keep_labels=tuple(intents)))
    folder = work / f"{domain}-{seed}-{boundary}"
    return Path(train(config, folder, resume=folder.exists()).graft)


def accuracies(
    routed: RoutedGrafts, rows: Sequence[tuple[str, str]], of: dict[str, str], outside: Sequence[str]
) -> dict[str, float]:
    """Scores the oracle's graft, the router without a threshold, and the router under its promise."""
    texts, intents = [text for text, _ in rows], np.array([intent for _, intent in rows])
    right = np.array([of[intent] for intent in intents])
    by_graft = {
        name: np.array([answer.label for answer in graft.predict(texts)]) for name, graft in routed.grafts.items()
    }
    free = replace(routed, router=_without_threshold(routed.router))
    named = np.array([choice.task or "" for choice in free.choices(texts)])
    answered = np.array([choice.task is not None for choice in routed.choices(texts)])
    oracle = np.array([by_graft[name][i] for i, name in enumerate(right)]) == intents
    chosen = np.array([by_graft[name][i] if name else "" for i, name in enumerate(named)]) == intents
    return {
        "oracle": float(oracle.mean()),
        "routed": float(chosen.mean()),
        "named_right": float((named == right).mean()),
        "answered": float(answered.mean()),
        "wrong_graft": float((answered & (named != right)).mean()),
        "right_of_answered": float(chosen[answered].mean()),
        "outside_answered": float(np.mean([choice.task is not None for choice in routed.choices(outside)])),
    }


def _without_threshold(router: Router) -> Router:
    return replace(router, record=replace(router.record, promise=replace(router.record.promise, threshold=0.0)))


def seconds(routed: RoutedGrafts, texts: Sequence[str]) -> dict[str, float]:
    """Returns the median seconds of a pass over the batches, by the router and by the grafts that it names.

    Beside them stand the CPU seconds of the process.
    """
    routed = replace(routed, router=_without_threshold(routed.router))
    grafts: dict[str, Graft] = dict(routed.grafts)
    envelope = Envelope.around([graft.model for graft in grafts.values()], slots=len(grafts), labels=15)
    buckets = (16, 32, 64)
    lengths = [bucket_of(min(len(ids), 64), buckets) for ids in next(iter(grafts.values())).encode(texts)]
    batches = [
        part[first : first + BATCH]
        for bucket in buckets
        for part in [[text for text, length in zip(texts, lengths, strict=True) if length == bucket]]
        for first in range(0, len(part) - BATCH + 1, BATCH)
    ]
    times: dict[str, list[float]] = {"router": [], "graft": []}
    cpu: dict[str, list[float]] = {"router": [], "graft": []}
    runtime = Runtime(
        routed.backbone, envelope, buckets=buckets, batch_sizes=(1, 8, BATCH), max_wait=1.0, router=routed.router
    )
    with runtime:
        for name, graft in grafts.items():
            runtime.load(name, replace(graft, manifest=None))
        named = [[str(choice.task) for choice in routed.choices(batch)] for batch in batches]
        for turn in range(WARM + TIMED):
            sides = list(times) if turn % 2 else list(times)[::-1]
            for side in sides:
                start, cpu_start = time.perf_counter(), time.process_time()
                for batch, tasks in zip(batches, named, strict=True):
                    if side == "graft":
                        runtime.predict(list(zip(tasks, batch, strict=True)))
                    else:
                        _routed(runtime, batch)
                if turn >= WARM:
                    times[side].append(time.perf_counter() - start)
                    cpu[side].append(time.process_time() - cpu_start)
    wall = {f"{side}_seconds": statistics.median(spent) for side, spent in times.items()}
    return wall | {f"{side}_cpu_seconds": statistics.median(spent) for side, spent in cpu.items()}


def _routed(runtime: Runtime, batch: Sequence[str]) -> None:
    """Answers a batch as `/route` does."""
    rows = runtime.submit_routing(batch)
    assert runtime.router is not None
    choices = runtime.router.chosen(np.stack([row.future.result() for row in rows]))
    submitted = [(str(choice.task), text) for choice, text in zip(choices, batch, strict=True)]
    for pending in runtime.submit(submitted, routed=rows):
        pending.answer()


def measure(seed: int, boundary: int, options: argparse.Namespace, work: Path, runs: RawRuns) -> None:
    """Makes one run, unless there is one."""
    if (seed, boundary, options.rows) in runs.done:
        return
    root = Path(options.data)
    names = domains(root)
    paths = [trained(domain, intents, seed, boundary, work) for domain, intents in names.items()]
    with tempfile.TemporaryDirectory() as folder:
        result = route(paths, Path(folder) / "router", Routing())
        routed = load_router(result.path)
    content = json.loads((root / "clinc150" / "data_full.json").read_text())
    rows = [tuple(row) for row in content["test"]]
    order = np.random.default_rng(seed).permutation(len(rows))[: options.rows]
    chosen = [rows[i] for i in order]
    of = {intent: domain for domain, intents in names.items() for intent in intents}
    run = {
        "seed": seed,
        "boundary": boundary,
        "rows": options.rows,
        "boundaries": list(result.boundaries),
        "extra_blocks": result.extra_blocks,
        "max_wrong": result.promise.max_wrong,
        "certified": result.promise.wrong / result.promise.rows,
        "route_cpu_seconds": result.cpu_seconds,
        **accuracies(routed, chosen, of, [text for text, _ in content["oos_test"]]),
        **seconds(routed, [text for text, _ in chosen]),
    }
    runs.add(run)
    print(json.dumps(run), flush=True)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Says, for each boundary, what routing costs in accuracy and in time."""
    cells = {}
    for boundary in sorted({run["boundary"] for run in runs}):
        here = [run for run in runs if run["boundary"] == boundary]
        cells[str(boundary)] = {
            "seeds": len(here),
            "points_against_oracle": spread([100 * (run["routed"] - run["oracle"]) for run in here]),
            "cost_against_one_graft": spread([run["router_seconds"] / run["graft_seconds"] for run in here]),
            "cpu_against_one_graft": spread([run["router_cpu_seconds"] / run["graft_cpu_seconds"] for run in here]),
            **{
                name: spread([run[name] for run in here])
                for name in ("oracle", "routed", "named_right", "answered", "wrong_graft", "outside_answered")
            },
        }
    return {"batch": BATCH, "boundaries": cells}


def main() -> None:
    """Runs what is missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--seed", type=int, nargs="*", default=(0, 1, 2), dest="seeds")
    parser.add_argument("--boundary", type=int, nargs="*", default=(4,), dest="boundaries")
    parser.add_argument("--rows", type=int, default=4500, help="test rows")
    parser.add_argument("--work", default=None, help="folder that keeps the trained grafts (default: none is kept)")
    options, provenance = parsed(parser)
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    use_compilation_cache()
    runs = RawRuns("routing", ("seed", "boundary", "rows"), provenance)
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for boundary in options.boundaries:
                measure(seed, boundary, options, Path(options.work or folder), runs)
    print(write("routing", summary(list(runs.done.values())), provenance))


if __name__ == "__main__":
    main()
