"""Early exits: throughput against extra error at batch 32, and whether the promise holds over seeds.

    python -m benchmarks.early_exit --data ../shared/data [--only sst2,emotion] [--seeds 0,1] [--set A.B=C]

Trains `sst2`, `banking77` and `emotion` with exits at boundaries 2 and 4 of 6, a fifth of the train rows held out of
the fit, others with every seed. From those rows a threshold is certified for each extra error of `--errors`. On the
test rows extra error is the share that is right in full and wrong early; beside it stand both accuracies. Throughput:
texts of the test rows in batches of 32 of one length bucket through one runtime, `full` and `exits` in turn; the
ratio of their seconds.
A promise is broken where the extra error on the test rows exceeds what was asked. At confidence 0.9 a tenth of the
runs may; `chance` is the probability that as many or more do where each does with probability 0.1 (test rows are a
sample as well, so a little more is to be expected).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from adapters.graft import Graft, load_graft
from backbone.buckets import bucket_of
from backbone.home import home, use_compilation_cache
from benchmarks.results import parsed, spread, write
from serving.bank import Envelope
from serving.runtime import Runtime
from trainers.config import EarlyExits, TrainConfig
from trainers.config.load import load_config
from trainers.data.batches import Examples
from trainers.data.examples import load_data
from trainers.data.prepare import prepare
from trainers.extras.early_exits import calibrated
from trainers.inputs import split_off_calibration
from trainers.train import train

TASKS = ("sst2", "banking77", "emotion")
ERRORS = (0.005, 0.01, 0.02, 0.05)
CONFIDENCE, BATCH = 0.9, 32
# survivors are compacted into the smallest of these
SIZES = (4, 8, 12, 16, 20, 24, 28, 32)
BUCKETS = (16, 32, 64)  # tokens; longer texts are cut


def trained(task: str, seed: int, options: argparse.Namespace, workdir: Path) -> tuple[Graft, dict[float, Any]]:
    """The graft with its exits, and exits (or None) for each extra error, from the same calibration rows."""
    loosest = (f"exits.extra_error={max(options.errors)}", f"exits.confidence={CONFIDENCE}")
    boundaries = f"exits.boundaries={options.boundaries}"
    plain = ("plan.stages=all", "curriculum.difficulty=none")
    config = load_config(task, (boundaries, *loosest, f"seed={seed}", *plain, *options.set))
    graft = load_graft(train(config, workdir, show=True).graft)
    if graft.exits is None:
        raise SystemExit(f"{task}, seed {seed}: no threshold at an extra error of {max(options.errors)}")
    data = load_data(config.data, config.head, graft.backbone)
    _, aside = split_off_calibration(config, graft.backbone, data)
    places, kernels, biases = graft.exits.boundaries, graft.exits.kernels, graft.exits.biases
    full, pooled = graft.logits_and_pooled(aside.rows, places)
    parts = np.split(pooled, len(places), axis=1)
    early = np.stack([graft.exits.logits(number, part) for number, part in enumerate(parts)], axis=1)
    found = {}
    for error in options.errors:
        asked = EarlyExits(places, error, CONFIDENCE, config.exits.share)
        found[error] = calibrated(asked, places, kernels, biases, early, full, aside.labels, graft.model.head)
    return graft, found


def test_rows(graft: Graft, config: TrainConfig) -> tuple[Examples, Sequence[str]]:
    """The test rows, tokenised and as texts, in one order."""
    data = load_data(config.data, config.head, graft.backbone, labels=graft.model.labels, splits=("test",))
    table = prepare(config.data, config.head.column, cache=home() / "data").table("test")
    return data.splits["test"], table.texts


def batches_of(graft: Graft, texts: Sequence[str], most: int) -> list[list[str]]:
    """The first `most` texts in batches of BATCH whose rows share a length bucket; what fills no batch is left out."""
    lengths = [bucket_of(min(len(ids), BUCKETS[-1]), BUCKETS) for ids in graft.encode(texts[:most])]
    found = []
    for bucket in BUCKETS:
        own = [text for text, length in zip(texts, lengths, strict=False) if length == bucket]
        found += [own[first : first + BATCH] for first in range(0, len(own) - BATCH + 1, BATCH)]
    return found


def seconds_of(runtime: Runtime, batches: Sequence[Sequence[str]], submodel: str) -> float:
    """From texts to answers, one batch after the other."""
    runtime.submodel = submodel
    begun = time.perf_counter()
    for batch in batches:
        runtime.predict([("t", text) for text in batch])
    return time.perf_counter() - begun


def runtime_for(graft: Graft) -> Runtime:
    """One for all seeds of a task, whose grafts differ in numbers only. Every batch is full: none waits for others."""
    assert graft.exits is not None
    envelope = Envelope.around([graft.model], slots=2, labels=len(graft.model.labels), exits=graft.exits.boundaries)
    return Runtime(graft.backbone, envelope, buckets=BUCKETS, batch_sizes=SIZES, max_wait=1.0)


def measured(
    graft: Graft,
    exits: dict[float, Any],
    test: Examples,
    texts: Sequence[str],
    runtime: Runtime,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One point for each extra error."""
    assert graft.exits is not None
    places, points = graft.exits.boundaries, []
    whole, pooled = graft.logits_and_pooled(test.rows, places)
    full = whole.argmax(axis=1) == test.labels
    batches = batches_of(graft, texts, options.rows)
    for error, chosen in exits.items():
        if chosen is None:
            points.append({"extra_error_asked": error, "certified": False})
            continue
        one = replace(graft, exits=chosen)
        logits, left = chosen.answers(whole, pooled, graft.backbone.spec.blocks)
        early = logits.argmax(axis=1) == test.labels
        extra = float((full & ~early).mean())
        runtime.load("t", replace(one, manifest=None), version=str(error))
        runs: dict[str, list[float]] = {"full": [], "exits": []}
        for turn in range(options.repeats + 1):
            for submodel, seconds in runs.items():
                spent = seconds_of(runtime, batches, submodel)
                if turn:
                    seconds.append(round(spent, 4))
        ratio = float(np.median(runs["full"]) / np.median(runs["exits"]))
        points.append(
            {
                "extra_error_asked": error,
                "certified": True,
                "exits": chosen.facts(),
                "extra_error": extra,
                "broken": extra > error,
                "accuracy": {"full": float(full.mean()), "exits": float(early.mean())},
                "left": {str(boundary): float((left == boundary).mean()) for boundary in places},
                "batches": len(batches),
                "seconds": runs,
                "throughput_ratio": ratio,
            }
        )
        print(error, f"ratio {ratio:.3f}, extra error {extra:.4f}, left {points[-1]['left']}", flush=True)
    return points


def curve(runs: dict[int, list[dict[str, Any]]], errors: Sequence[float]) -> list[dict[str, Any]]:
    """Over the seeds, at each extra error: throughput ratio, extra error, and how many promises were broken."""
    lines = []
    for number, error in enumerate(errors):
        points = [run[number] for run in runs.values() if run[number]["certified"]]
        line: dict[str, Any] = {"extra_error_asked": error, "seeds": len(runs), "certified": len(points)}
        if points:
            broken = sum(point["broken"] for point in points)
            line["throughput_ratio"] = spread([point["throughput_ratio"] for point in points])
            line["extra_error"] = spread([point["extra_error"] for point in points])
            line["accuracy_lost"] = spread([p["accuracy"]["full"] - p["accuracy"]["exits"] for p in points])
            line["broken"] = broken
            line["chance"] = float(scipy.stats.binom.sf(broken - 1, len(runs), 1 - CONFIDENCE))
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, commas between")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="commas between")
    parser.add_argument("--errors", default=",".join(map(str, ERRORS)), help="extra errors, ascending")
    parser.add_argument("--boundaries", default="2,4", help="of the exits")
    parser.add_argument("--rows", type=int, default=1500, help="most test rows of a pass")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each side")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a config field")
    parser.add_argument("--out", default="early_exit", help="name of the result file")
    options, provenance = parsed(parser)
    options.errors = tuple(float(error) for error in options.errors.split(","))
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    use_compilation_cache()
    found: dict[str, Any] = {}
    for task in options.only.split(","):
        runs: dict[int, list[dict[str, Any]]] = {}
        runtime = None
        for seed in map(int, options.seeds.split(",")):
            with tempfile.TemporaryDirectory() as name:
                graft, exits = trained(task, seed, options, Path(name) / "run")
            runtime = runtime or runtime_for(graft)
            rows = test_rows(graft, load_config(task, tuple(options.set)))
            runs[seed] = measured(graft, exits, *rows, runtime, options)
        if runtime is not None:
            runtime.close()
        found[task] = {"curve": curve(runs, options.errors), "runs": runs}
        head = {"batch": BATCH, "boundaries": options.boundaries, "confidence": CONFIDENCE, "settings": options.set}
        result = {**head, "rows": options.rows, "tasks": found}
        print(write(options.out, result, provenance))  # a task at a time: a run takes long


if __name__ == "__main__":
    main()
