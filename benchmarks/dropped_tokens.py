"""Dropped tokens at 128 tokens: speed against the error that dropping adds, on reviews of books and of films.

    python -m benchmarks.dropped_tokens --data ../shared/data [--only books] [--seed 0 1] [--keep 64] [--work FOLDER]

Of the train rows of a domain of fdu_mtl, six tenths by seed train a graft, a probe or LoRA in the top two blocks. The
others certify (`topgraft drop-tokens`, at `--at`). Each number of tokens that may stay is a run of its own. Accuracy is
that of the test rows, before and after. Speed is that of a served row: one runtime holds both grafts, and batches of 32
test rows of the bucket of 128 tokens run in turn by each of them, in seconds and in CPU seconds of the process.

The summary takes, for each domain and method, the fewest tokens whose added error on the certifying rows is at most a
point, and says what they do on the test rows. Beside it stands how many runs certify `--extra-error`.
"""

from __future__ import annotations

import argparse
import csv
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

from adapters.graft import Graft, load_graft
from adapters.specs import Probe
from backbone.buckets import bucket_of
from backbone.home import use_compilation_cache
from benchmarks.results import RawRuns, parsed, spread, write
from serving.bank import Envelope
from serving.runtime import Runtime
from trainers.config import Data
from trainers.config.dropping import Dropping
from trainers.config.load import load_config
from trainers.drop_tokens import drop_tokens
from trainers.train import train

DOMAINS, METHODS = ("books", "dvd"), ("probe", "lora")
TOKENS, BATCH = 128, 32  # tokens of the bucket, and rows of a batch, that are timed
SHARE = 0.6  # share of the train rows that trains
WARM, TIMED = 1, 5  # passes over the batches before and while the clock runs
POINT = 0.01  # error that dropping may add


def rows_of(root: Path, domain: str, split: str) -> list[tuple[str, str]]:
    """Returns (text, label) of each row."""
    lines = (root / "fdu_mtl" / f"{domain}.task.{split}").read_text(encoding="latin-1").splitlines()
    parts = [line.split("\t", 1) for line in lines if "\t" in line]
    return [(text.strip(), label) for label, text in parts if text.strip()]


def written(file: Path, rows: Sequence[tuple[str, str]]) -> str:
    """Writes a table of texts and labels."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return str(file)


def trained(domain: str, method: str, seed: int, root: Path, work: Path) -> tuple[Path, str]:
    """Returns the folder of a graft, and the file of the rows that certify."""
    folder = work / f"{domain}-{method}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    known = list(dict.fromkeys(rows_of(root, domain, "train")))
    order = np.random.default_rng(seed).permutation(len(known))
    cut = int(SHARE * len(known))
    fit = written(folder / "train.csv", [known[i] for i in order[:cut]])
    certify = written(folder / "certify.csv", [known[i] for i in order[cut:]])
    settings = (f"seed={seed}", f"name={domain}", "plan.stages=top(2)", "curriculum.difficulty=none")
    config = load_config("text_classification", (f"data.train={fit}", *settings))
    config = replace(config, data=Data(train=(fit,), max_tokens=TOKENS))
    if method == "probe":
        config = replace(config, adapter=Probe(boundaries=(2, 4, 6)))
    run = folder / "run"
    return Path(train(config, run, resume=run.exists()).graft), certify


def accuracy(graft: Graft, rows: Sequence[tuple[str, str]]) -> float:
    """Returns the share of rows with the right label."""
    answers = graft.predict([text for text, _ in rows])
    return float(np.mean([answer.label == label for answer, (_, label) in zip(answers, rows, strict=True)]))


def seconds(whole: Graft, fewer: Graft, texts: Sequence[str]) -> dict[str, float]:
    """Returns the median seconds, and CPU seconds, of a pass over the batches by each graft."""
    envelope = Envelope.around([whole.model, fewer.model], slots=1, labels=len(whole.model.labels))
    lengths = [bucket_of(min(len(ids), TOKENS), whole.backbone.lengths) for ids in whole.encode(texts)]
    chosen = [text for text, length in zip(texts, lengths, strict=True) if length == TOKENS]
    batches = [chosen[first : first + BATCH] for first in range(0, len(chosen) - BATCH + 1, BATCH)]
    wall: dict[str, list[float]] = {"whole": [], "fewer": []}
    cpu: dict[str, list[float]] = {"whole": [], "fewer": []}
    with Runtime(whole.backbone, envelope, buckets=(TOKENS,), batch_sizes=(BATCH,), max_wait=1.0) as runtime:
        for name, graft in (("whole", whole), ("fewer", fewer)):
            runtime.load(name, graft)
        for turn in range(WARM + TIMED):
            for name in list(wall) if turn % 2 else list(wall)[::-1]:
                start, cpu_start = time.perf_counter(), time.process_time()
                for batch in batches:
                    runtime.predict([(name, text) for text in batch])
                if turn >= WARM:
                    wall[name].append(time.perf_counter() - start)
                    cpu[name].append(time.process_time() - cpu_start)
    spent = {f"{name}_seconds": statistics.median(times) for name, times in wall.items()}
    return spent | {f"{name}_cpu_seconds": statistics.median(times) for name, times in cpu.items()}


def measure(cell: tuple[str, str, int], options: argparse.Namespace, work: Path, runs: RawRuns) -> None:
    """Makes the runs of one domain, method and seed that are missing."""
    domain, method, seed = cell
    missing = [keep for keep in options.keep if (*cell, options.at, keep) not in runs.done]
    if not missing:
        return
    root = Path(options.data)
    path, certify = trained(domain, method, seed, root, work)
    whole, test = load_graft(path), rows_of(root, domain, "test")
    before = accuracy(whole, test)
    for keep in missing:
        settings = Dropping(rows=(certify,), at=(options.at,), keep=(keep,), extra_error=options.extra_error)
        with tempfile.TemporaryDirectory() as folder:
            certified = drop_tokens(path, Path(folder) / "certified", settings)
            loose = replace(settings, extra_error=0.99)  # writes it whatever it loses
            result = drop_tokens(path, Path(folder) / "fewer", loose)
            fewer = load_graft(result.path, whole.backbone)
        run = {
            "domain": domain,
            "method": method,
            "seed": seed,
            "at": options.at,
            "keep": keep,
            "rows": result.rows,
            "worse": result.tried[0].worse,
            "better": result.tried[0].better,
            "p_value": certified.tried[0].p_value,
            "certified": bool(certified.path),
            "operations": result.operations,
            "test_before": before,
            "test_after": accuracy(fewer, test),
            **seconds(whole, fewer, [text for text, _ in test]),
        }
        runs.add(run)
        print(json.dumps(run), flush=True)


def summary(runs: Sequence[dict[str, Any]], extra_error: float) -> dict[str, Any]:
    """Takes, for each domain and method, the fewest tokens that the certifying rows allow in each seed."""
    cells: dict[str, Any] = {}
    for domain, method in dict.fromkeys((run["domain"], run["method"]) for run in runs):
        here = [run for run in runs if (run["domain"], run["method"]) == (domain, method)]
        chosen = []
        for seed in sorted({run["seed"] for run in here}):
            allowed = [r for r in here if r["seed"] == seed and (r["worse"] - r["better"]) / r["rows"] <= POINT]
            chosen += [min(allowed, key=lambda run: run["keep"])] if allowed else []
        values: dict[str, Any] = {"seeds": len(chosen)}
        if chosen:
            values |= {
                "keep": [run["keep"] for run in chosen],
                "certified": sum(run["certified"] for run in chosen),
                "speed_by_operations": spread([1 / run["operations"] for run in chosen]),
                "speed": spread([run["whole_seconds"] / run["fewer_seconds"] for run in chosen]),
                "speed_by_cpu": spread([run["whole_cpu_seconds"] / run["fewer_cpu_seconds"] for run in chosen]),
                "test_error_added": spread([run["test_before"] - run["test_after"] for run in chosen]),
                "test_before": spread([run["test_before"] for run in chosen]),
            }
        cells[f"{domain}, {method}"] = values
    return {"tokens": TOKENS, "batch": BATCH, "error_allowed": POINT, "extra_error": extra_error, "cells": cells}


def main() -> None:
    """Runs what is missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--only", nargs="*", default=DOMAINS, help="domains")
    parser.add_argument("--method", nargs="*", default=METHODS, dest="methods")
    parser.add_argument("--seed", type=int, nargs="*", default=(0, 1, 2, 3, 4), dest="seeds")
    parser.add_argument("--at", type=int, default=2, help="boundary")
    parser.add_argument("--keep", type=int, nargs="*", default=(80, 64, 48), help="tokens that stay")
    parser.add_argument("--extra-error", type=float, default=0.04, help="bound that is certified")
    parser.add_argument("--work", default=None, help="folder that keeps the trained grafts (default: none is kept)")
    options, provenance = parsed(parser)
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    use_compilation_cache()
    runs = RawRuns("dropped_tokens", ("domain", "method", "seed", "at", "keep"), provenance)
    with tempfile.TemporaryDirectory() as folder:
        for domain in options.only:
            for method in options.methods:
                for seed in options.seeds:
                    measure((domain, method, seed), options, Path(options.work or folder), runs)
    print(write("dropped_tokens", summary(list(runs.done.values()), options.extra_error), provenance))


if __name__ == "__main__":
    main()
