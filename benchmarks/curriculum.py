"""Curricula against their control: the same pacing with rows in random order.

    python -m benchmarks.curriculum --data ../shared/data [--only emotion] [--seeds 0 1 2 3 4]

LoRA in the top block on a cached boundary, so that a run takes seconds and many can be made. Every
difficulty runs with clean labels and with 20 % of the train labels flipped, at full budget (`EPOCHS` passes)
and at a quarter of it. What is reported is test accuracy, each curriculum minus its control on the
same seed, as a mean with a 95 % interval of Student's t over the seeds. Raw runs are kept in
`results/curriculum.jsonl`; one that is there is not repeated. Accuracy does not depend on what else the
machine does, so nothing here is timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

from adapters.model import GraftModel
from adapters.specs import Lora
from backbone.home import boundaries_folder, resolve_backbone, use_compilation_cache
from backbone.storage import Backbone, load_backbone
from backbone.trees import map_leaves
from benchmarks.results import RawRuns, parsed, write
from trainers.config import Curriculum, Optimizer, Plan, TrainConfig
from trainers.config.load import load_config
from trainers.data.examples import TaskData, load_data
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.difficulty import difficulty_of
from trainers.fitting.loop import fit
from trainers.fitting.state import LoopState
from trainers.fitting.task import GraftTask
from trainers.runs.checkpoints import Checkpoints
from trainers.runs.logs import Scalars
from trainers.scoring.metrics import gather

EPOCHS = {"emotion": 4.0, "banking77": 2.0}  # full budget
BUDGETS = {"full": 1.0, "quarter": 0.25}  # of it
NOISE = {"clean": 0.0, "flipped 20 %": 0.2}  # of the train labels
PACED = Curriculum(difficulty="length", pacing="root", start=0.2, duration=0.5)
CURRICULA = {
    "none": Curriculum(),
    "control, root": replace(PACED, control=True),
    "length, root": PACED,
    "rarity, root": replace(PACED, difficulty="rarity"),
    "probe loss, root": replace(PACED, difficulty="probe_loss"),
    "control, linear": replace(PACED, pacing="linear", control=True),
    "probe loss, linear": replace(PACED, difficulty="probe_loss", pacing="linear"),
}
KEY = ("task", "labels", "budget", "curriculum", "seed")  # of a run
RANDOM_SUBSETS = "random quarter in each epoch (RS2)"  # beside "none" at a quarter of the budget


@dataclass(frozen=True)
class Bench:
    """One task: rows, backbone and the cached boundary below the top block."""

    config: TrainConfig
    backbone: Backbone
    data: TaskData

    @classmethod
    def of(cls, name: str) -> Bench:
        config = load_config(name, ("data.dev=", "data.dev_fraction=0"))
        backbone = load_backbone(resolve_backbone(config.backbone))
        return cls(config, backbone, load_data(config.data, config.head, backbone))

    @functools.cached_property
    def model(self) -> GraftModel:
        top = self.backbone.spec.blocks - 1
        return GraftModel(self.backbone.network, (Lora(blocks=f"{top}:"),), self.config.head, self.data.labels)

    @functools.cached_property
    def store(self) -> Boundaries:
        boundaries = Boundaries(self.model, self.backbone, {}, boundaries_folder(), "float32", 2**34)
        boundaries.fill(list(self.data.splits.values()), (self.backbone.spec.blocks - 1,), show=True)
        return boundaries

    def labels(self, noise: float, seed: int) -> np.ndarray:
        """Train labels int32 [N], a share of them replaced by another class."""
        labels = self.data.splits["train"].labels.copy()
        draw = np.random.default_rng([seed, 77])
        flipped = draw.random(len(labels)) < noise
        shift = draw.integers(1, len(self.data.labels), len(labels))
        return np.where(flipped, (labels + shift) % len(self.data.labels), labels).astype(np.int32)

    def run(self, curriculum: Curriculum, budget: float, noise: float, seed: int) -> float:
        """Test accuracy of one run."""
        train = replace(self.data.splits["train"], labels=self.labels(noise, seed))
        config = replace(
            self.config,
            adapter=self.model.methods[0],
            plan=Plan(stages="top(1)"),
            optimizer=Optimizer(learning_rate=2e-3),
            curriculum=curriculum,
            epochs=EPOCHS[self.config.name] * (budget if curriculum.subset == 1 else 1.0),
            seed=seed,
            checkpoint_seconds=0.0,
            select="last",
        )
        difficulty = difficulty_of(config, self.model, self.backbone, train)
        task = GraftTask(config, self.model, self.backbone, train, None, difficulty, lambda adapter: self.store)
        start = map_leaves(np.asarray, self.model.init(jax.random.key(seed)))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with Checkpoints(folder / "checkpoints", {}) as checkpoints:
                state = LoopState(task, start)
                fit(task, state, checkpoints, Scalars(folder, 0))
        test = self.data.splits["test"]
        logits = self.store.logits(state.params, test, (self.backbone.spec.blocks - 1,))
        return gather(self.model, logits, test.labels).compute()["accuracy"]


def runs(tasks: list[str], seeds: list[int]) -> Iterator[tuple[str, str, str, str, int]]:
    """(task, noise, budget, curriculum, seed) of every run, seeds outermost so that all are compared early."""
    for seed in seeds:
        for task in tasks:
            for noise in NOISE:
                for budget in BUDGETS:
                    names = [*CURRICULA, RANDOM_SUBSETS] if budget == "quarter" else list(CURRICULA)
                    yield from ((task, noise, budget, name, seed) for name in names)


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval of Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": len(values)}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


def summary(done: dict[tuple[str, str, str, str, int], float]) -> list[dict[str, Any]]:
    """Each curriculum's accuracy, and its difference from its control and from none on the same seeds."""
    table = []
    for task, noise, budget, name in dict.fromkeys(key[:4] for key in done):
        scores = {key[4]: value for key, value in done.items() if key[:4] == (task, noise, budget, name)}
        entry = {"task": task, "labels": noise, "budget": budget, "curriculum": name}
        entry["accuracy"] = interval(list(scores.values()))
        control = "control, linear" if name.endswith("linear") else "control, root"
        alone = name.startswith(("none", "control", "random"))
        for against in ("none",) if alone else (control, "none"):
            pairs = [
                score - done[task, noise, budget, against, seed]
                for seed, score in scores.items()
                if (task, noise, budget, against, seed) in done
            ]
            if pairs and name != "none":
                entry[f"minus {against}"] = interval(pairs)
        table.append(entry)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--only", choices=sorted(EPOCHS), action="append")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    options, provenance = parsed(parser)
    logging.getLogger("trainers").setLevel(logging.WARNING)
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    use_compilation_cache()
    raw = RawRuns("curriculum", KEY, provenance)
    benches: dict[str, Bench] = {}
    for key in runs(options.only or sorted(EPOCHS, reverse=True), options.seeds):
        if key in raw.done:
            continue
        task, noise, budget, name, seed = key
        if task not in benches:
            benches[task] = Bench.of(task)
        bench = benches[task]
        curriculum = CURRICULA.get(name, Curriculum(subset=0.25))
        accuracy = bench.run(curriculum, BUDGETS[budget], NOISE[noise], seed)
        print(f"{', '.join(map(str, key))}: {accuracy:.4f}", file=sys.stderr, flush=True)
        raw.add({**dict(zip(KEY, key, strict=True)), "accuracy": accuracy})
    table = summary({key: run["accuracy"] for key, run in raw.done.items()})
    for entry in table:
        print(json.dumps(entry))
    print(write("curriculum", {"epochs": EPOCHS, "summary": table, "raw": "curriculum.jsonl"}, provenance))


if __name__ == "__main__":
    main()
