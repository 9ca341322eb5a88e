"""Corpora and images that do not fit into memory: resident memory, rows per second of input, resuming.

    python -m benchmarks.streaming --data ../shared/data --gigabytes 5 --images 2000000

Text is the novels of the shared data over and over, one word in twenty replaced at random, in text files of 256 MB.
Images are grey noise of 28 x 28 pixels above ten patterns, in Parquet files. Each kind is trained on by
`train-backbone` with `stream=true` in a process of its own, whose peak of resident memory counts, in a new home. It is
stopped early and resumed. Rows per second are those of the same batches three times: read alone (no step), trained on
from the device (no input), and both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow
from pyarrow import parquet

from backbone.meshes.mesh import Mesh
from backbone.trees import map_leaves
from benchmarks.results import ROOT, RawRuns, parsed
from trainers.config import Data, Optimizer
from trainers.data.encoded_images import pnm
from trainers.fitting.step import first_state, partition
from trainers.pretraining.config import (
    BackboneConfig,
    Corpus,
    MaskedTokens,
    NewBert,
    NewVit,
    SupervisedImages,
    WordPiece,
)
from trainers.pretraining.loop import BackboneTask
from trainers.train_backbone import _first_params, train_backbone

TOKENS, SIDE, CLASSES = 128, 28, 10
FILE_BYTES, TABLE_ROWS = 1 << 28, 100_000
KINDS = ("text", "images")


def texts(data: Path, folder: Path, size: int) -> None:
    """Writes text files of `size` bytes altogether."""
    sources = sorted((data / "english_novels" / "corpus").glob("*.txt"))
    paragraphs = [p for source in sources for p in source.read_text(encoding="utf-8").split("\n\n") if p.strip()]
    words = [word for paragraph in paragraphs[:2000] for word in paragraph.split()]
    draw, written, number = random.Random(0), 0, 0
    folder.mkdir(parents=True)
    while written < size:
        with (folder / f"{number:04d}.txt").open("w", encoding="utf-8") as file:
            start = written
            while written < size and written - start < FILE_BYTES:
                chosen = draw.choice(paragraphs).split()
                for _ in range(max(1, len(chosen) // 20)):
                    chosen[draw.randrange(len(chosen))] = draw.choice(words)
                written += file.write(" ".join(chosen) + "\n\n")
        number += 1


def pictures(folder: Path, count: int) -> None:
    """Writes Parquet files of `count` encoded images with their labels."""
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 128, (CLASSES, SIDE, SIDE))
    folder.mkdir(parents=True)
    for first in range(0, count, TABLE_ROWS):
        rows = min(TABLE_ROWS, count - first)
        labels = draw.integers(0, CLASSES, rows)
        noise = draw.integers(0, 128, (rows, SIDE, SIDE))
        pixels = (patterns[labels] + noise).astype(np.uint8)
        table = {"image": [pnm(one) for one in pixels], "label": [str(label) for label in labels]}
        parquet.write_table(pyarrow.table(table), folder / f"{first // TABLE_ROWS:04d}.parquet", row_group_size=10_000)


def config_of(kind: str, folder: Path, steps: int) -> BackboneConfig:
    """Returns the config of a kind's run."""
    common: dict[str, Any] = {
        "name": kind, "stream": True, "max_held_out": 512, "steps": steps, "evaluate_every": steps, "mesh": Mesh(),
        "optimizer": Optimizer(learning_rate=1e-3, warmup_fraction=0.1),
    }  # fmt: skip
    if kind == "text":
        return BackboneConfig(
            corpus=Corpus(files=(str(folder),), tokens=TOKENS, held_out_fraction=0.01),
            tokenizer=WordPiece(vocabulary=8000),
            network=NewBert(blocks=4, width=256, heads=4, mlp_width=1024),
            objective=MaskedTokens(fraction=0.4),
            batch_size=8,
            **common,
        )
    files = tuple(str(path) for path in sorted(folder.glob("*.parquet")))
    return BackboneConfig(
        data=Data(train=files, format="parquet", image="image", label="label", dev_fraction=0.01),
        tokenizer=None,
        network=NewVit(size=SIDE, patch=7, channels=1, blocks=4, width=128, heads=4, mlp_width=512),
        objective=SupervisedImages(),
        batch_size=64,
        **common,
    )


def trained(kind: str, folder: Path, workdir: Path, steps: int) -> dict[str, Any]:
    """Trains a run that is stopped early, and its rest; the seconds until it stops hold the making of the stream."""
    import resource
    from dataclasses import replace

    config, before = config_of(kind, folder, steps), time.perf_counter()
    first = train_backbone(replace(config, max_seconds=1e-3), workdir)
    middle = time.perf_counter()
    whole = train_backbone(config, workdir, resume=True)
    return {
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds_until_stopped": middle - before,
        "seconds_after": time.perf_counter() - middle,
        "stopped_after_steps": first.steps,
        "steps": whole.steps,
        "held_out_loss": whole.held_out_loss,
        "train_rows": whole.train_rows,
        "train_tokens": whole.train_tokens,
    }


def rates(kind: str, folder: Path, workdir: Path, steps: int) -> dict[str, Any]:
    """Measures rows per second of input without steps, of steps without input, and of both, on the stream there."""
    config = config_of(kind, folder, steps)
    workdir.mkdir(parents=True)
    material = config.objective.read(config, workdir, None)
    task = BackboneTask(config, material)
    params = map_leaves(np.asarray, _first_params(config, material, None))
    live, frozen = partition(params, task.is_live)
    fixed, step = task.fixed(frozen), task.make_step(task.optimizer())

    def run(batches: Iterator[Any], train: bool) -> float:
        state = jax.device_put(first_state(task.layout.params(live), task.optimizer()))
        first = next(batches)
        state = step(state, fixed, first)
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]
        before = time.perf_counter()
        for batch in batches:
            if train:
                state = step(state, fixed, batch)
        jax.block_until_ready((state, batch))  # type: ignore[no-untyped-call]
        return (steps - 1) * config.batch_size / (time.perf_counter() - before)

    fixed_batch = next(task.batches(0, 1, None))
    return {
        "input_alone": run(task.batches(0, steps, None), False),
        "steps_alone": run((fixed_batch for _ in range(steps)), True),
        "both": run(task.batches(0, steps, None), True),
    }


def measured(kind: str, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """All figures of a kind, each part in a process of its own with one home."""
    folder = place / kind
    if kind == "text":
        texts(options.data, folder, int(options.gigabytes * 1e9))
    else:
        pictures(folder, options.images)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOPGRAFT_HOME": str(place / "home")}
    result: dict[str, Any] = {"source_bytes": sum(path.stat().st_size for path in folder.iterdir())}
    for part in ("train", "rates"):
        command = [sys.executable, "-m", "benchmarks.streaming", "--data", str(options.data), "--part", part]
        command += ["--kind", kind, "--place", str(place), "--steps", str(options.steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
        result[part] = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="bytes of text")
    parser.add_argument("--images", type=int, default=2_000_000, help="rows of images")
    parser.add_argument("--steps", type=int, default=400, help="steps of each run")
    parser.add_argument("--place", type=Path, help="folder for the files; the default is a temporary one")
    parser.add_argument("--kind", choices=KINDS, help="internal: the kind of a part")
    parser.add_argument("--part", choices=("train", "rates"), help="internal: print one part")
    if "--part" in sys.argv:
        options = parser.parse_args()
        part = {"train": trained, "rates": rates}[options.part]
        workdir = options.place / f"{options.kind}-{options.part}"
        print(json.dumps(part(options.kind, options.place / options.kind, workdir, options.steps)))
        return
    options, provenance = parsed(parser)
    runs = RawRuns("streaming", ("kind", "gigabytes", "images", "steps"), provenance)
    for kind in KINDS:
        sizes = {"kind": kind, "gigabytes": options.gigabytes, "images": options.images, "steps": options.steps}
        if tuple(sizes.values()) in runs.done:
            continue
        with tempfile.TemporaryDirectory(dir=options.place) as place:
            print(json.dumps(runs.add({**sizes, **measured(kind, options, Path(place))})))


if __name__ == "__main__":
    main()
