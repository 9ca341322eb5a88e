"""The fixed measurements of a benchmark report: MiniLM's pass by precision, and Banking77 in four programs.

| part | measures |
|---|---|
| `passes` | a forward pass of 32 rows of 32 tokens in each precision, in turns with float32 |
| `probe` | a probe from the command to the stored graft, with nothing cached |
| `lora` | LoRA of rank 8 in the top two blocks, two epochs, likewise |
| `retraining` | the first version of a task, 20 new rows twice, and a call with nothing to do |
| `server` | the probe under a load: one query after another, random arrivals, all rows at once |

Each program is the console command in a process of its own, in a home that holds the backbone and nothing else.
"""

from __future__ import annotations

import csv
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import answered
from benchmarks.measures import Measure, Part, runs
from benchmarks.never_twice import fresh_home
from benchmarks.results import ROOT

ROUNDS, ROWS, TOKENS = 15, 32, 32  # of the passes
NEW_ROWS = 20  # of the retraining
UNCHANGED = 3  # calls with nothing to do
RATE, SECONDS = 20.0, 20.0  # queries a second, and least length of a load
COMMON = {"name": "banking77", "plan.stages": "all", "data.dev_fraction": "0.1", "seed": "0"}
PROBE = COMMON | {"adapter.method": "probe"}
LORA = COMMON | {
    "adapter.method": "lora",
    "adapter.rank": "8",
    "plan.stages": "top(2)",
    "epochs": "2",
    "optimizer.learning_rate": "2e-3",
}
CONFIG = """
from adapters.specs import Probe
from trainers.config import Data, TrainConfig


def get_config():
    data = Data(train={train!r}, dev_fraction=0.1, gate_fraction=0.1)
    return TrainConfig(name="banking77", backbone="minilm", adapter=Probe(), data=data)
"""


@dataclass(frozen=True)
class Place:
    """The folder of a report's work: the rows of Banking77 with the columns `text` and `label`."""

    folder: Path
    data: dict[str, str]  # sha256 by file

    @property
    def train(self) -> Path:
        """Returns the file of train rows."""
        return self.folder / "train.csv"

    @property
    def test(self) -> Path:
        """Returns the file of test rows."""
        return self.folder / "test.csv"

    def environment(self) -> dict[str, str]:
        """Returns that of a process in a new home."""
        return os.environ | {"TOPGRAFT_HOME": str(fresh_home(self.folder)), "PYTHONPATH": str(ROOT)}


def prepared(folder: Path, data: Path) -> Place:
    """Copies the rows of Banking77 into a folder. Raises FileNotFoundError where the data folder lacks them."""
    digests = {}
    for name in ("train.csv", "test.csv"):
        source = data / "banking77" / name
        digests[name] = hashlib.sha256(source.read_bytes()).hexdigest()
        with source.open(encoding="utf-8", newline="") as file, (folder / name).open("w", encoding="utf-8") as target:
            table = [(row["text"], row["category"]) for row in csv.DictReader(file)]
            csv.writer(target).writerows([("text", "label"), *table])
    return Place(folder, digests)


def passes(place: Place) -> Part:
    """Measures the frozen pass in each precision, beside float32 in every round."""
    import jax
    import numpy as np

    from backbone.home import resolve_backbone
    from backbone.precisions.precision import FLOAT32, Precision
    from backbone.storage import in_precision, load_backbone
    from backbone.variants.registered import variants
    from benchmarks.precisions import forward_of, in_turn, pooled

    plain = load_backbone(resolve_backbone("minilm"), precision=FLOAT32)
    trunks = {FLOAT32: plain} | {tag: in_precision(plain, tag) for tag in variants(Precision) if tag != FLOAT32}
    seconds = in_turn({name: forward_of(trunk, ROWS, TOKENS) for name, trunk in trunks.items()}, ROUNDS)
    unit = pooled(plain) / np.linalg.norm(pooled(plain), axis=1, keepdims=True)
    measures = []
    for name, trunk in trunks.items():
        states = pooled(trunk)
        cosine = float(((states * unit).sum(axis=1) / np.linalg.norm(states, axis=1)).min())
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(trunk.params))
        speeds = [a / b for a, b in zip(seconds[FLOAT32], seconds[name], strict=True)]
        measures += [
            runs(f"pass in {name}", "time", "s", seconds[name]),
            Measure(f"trunk in {name}", "bytes", "B", float(size)),
        ]
        if name != FLOAT32:
            measures += [
                runs(f"speed of {name} over float32", "ratio", "times", speeds),
                Measure(f"smallest cosine of {name} with float32", "score", "", cosine),
            ]
    settings = {"rounds": ROUNDS, "rows": ROWS, "tokens": TOKENS, "backbone": "minilm"}
    return Part("passes", settings, measures=tuple(measures))


def trained(place: Place, settings: Mapping[str, str], target: str) -> tuple[list[Measure], float]:
    """Trains a graft from the command; returns its figures and the CPU seconds of the process."""
    words = ["train", "text_classification", "--workdir", str(place.folder / target)]
    chosen = {"data.train": str(place.train), "data.test": str(place.test), **settings}
    words += [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    started = time.perf_counter()
    result, cpu = answered(words, place.environment())
    wall = time.perf_counter() - started
    (test,) = (one for one in result["estimates"] if one["split"] == "test")
    tensors = Path(result["graft"], "graft.safetensors")
    return [
        Measure("accuracy on test rows", "score", "", test["value"], test["low"], test["high"]),
        Measure("from the command to the graft", "time", "s", round(wall, 3)),
        Measure("CPU time of the process", "time", "s", cpu),
        energy([cost["joules"] for cost in result["costs"].values()], "energy of the training"),
        Measure("tensors of the graft", "bytes", "B", float(tensors.stat().st_size)),
    ], cpu


def energy(joules: list[dict[str, Any]], name: str) -> Measure:
    """Returns the sum of phases of one quality and source; a missing figure says why."""
    sources = {f"{one['quality']}: {one['source']}" for one in joules}
    if len(sources) != 1 or any(one["value"] is None for one in joules):
        return Measure(name, "joules", "J", None, source="; ".join(sorted(sources)))
    value, low, high = (
        None if any(one[key] is None for one in joules) else round(sum(one[key] for one in joules), 3)
        for key in ("value", "low", "high")
    )
    return Measure(name, "joules", "J", value, low, high, *sources)


def probe(place: Place) -> Part:
    """Trains a probe."""
    return Part("probe", dict(PROBE), place.data, tuple(trained(place, PROBE, "probe")[0]))


def lora(place: Place) -> Part:
    """Trains LoRA, and a probe beside it for the ratio of both."""
    _, base = trained(place, PROBE, "probe_beside_lora")
    measures, cpu = trained(place, LORA, "lora")
    return Part(
        "lora",
        dict(LORA),
        place.data,
        (*measures, Measure("CPU time over that of a probe", "ratio", "times", round(cpu / base, 3))),
    )


def retraining(place: Place) -> Part:
    """Publishes a first version, retrains twice on new rows, and calls again with nothing to do."""
    folder = place.folder / "retraining"
    folder.mkdir()
    with place.train.open(encoding="utf-8", newline="") as file:
        head, *table = csv.reader(file)
    table.sort(key=lambda row: hashlib.sha256("\t".join(row).encode()).digest())  # the file goes by label
    config, environment, spent = folder / "banking77.py", place.environment(), []
    where = ["--registry", f"sqlite:///{folder / 'registry.db'}", "--store", str(folder / "store")]
    config.write_text(CONFIG.format(train=str(folder / "train.csv")))
    for rows in (table[: -2 * NEW_ROWS], table[:-NEW_ROWS], table):
        with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *rows])
        result, cpu = answered(["retrain", str(config), *where], environment, (0, 10, 11))
        spent.append((result, cpu))
    calls = []
    for _ in range(UNCHANGED):
        started = time.perf_counter()
        answered(["retrain", str(config), *where], environment, (0, 10, 11))
        calls.append(time.perf_counter() - started)
    (_, first), (_, once), (again, twice) = spent  # the price of the last rests on the one before
    price = again["predicted"].get("cpu_seconds")
    predicted = None if price is None else price / again["cpu_seconds"]
    reason = again["predicted"].get("source") or again["reason"]
    measures = [
        Measure("CPU time of the first version", "time", "s", first),
        runs("CPU time after new rows", "time", "s", [once, twice]),
        runs("CPU time after new rows over the first", "ratio", "times", [once / first, twice / first]),
        runs("call with nothing to do", "time", "s", calls),
        Measure("predicted over spent CPU time", "ratio", "times", predicted, source=reason if price is None else ""),
    ]
    return Part("retraining", {"new_rows": NEW_ROWS, "config": CONFIG}, place.data, tuple(measures))


def server(place: Place) -> Part:
    """Trains a probe and measures its answers under three loads."""
    trained(place, PROBE, "served")
    environment, graft = place.environment(), str(place.folder / "served" / "graft")
    measures, medians = [], {}
    for scenario in ("single_stream", "server", "offline"):
        words = ["profile", graft, "--scenario", scenario, "--file", str(place.test), "--seconds", str(SECONDS)]
        words += ["--seed", "0", *(["--rate", str(RATE)] if scenario == "server" else [])]
        result, _ = answered(words, environment)
        for one in result["latencies"]:
            name = f"p{100 * one['percentile']:g} of {scenario}"
            measures.append(Measure(name, "time", "ms", one["ms"], None, one["bound_ms"]))
            medians[name] = one["ms"]
        if scenario == "offline":
            measures.append(Measure("rows of offline", "rate", "rows/s", result["rows_per_second"]))
            measures.append(Measure("accuracy of its answers", "score", "", result["metrics"]["accuracy"]))
        failed = result["failures"] / result["queries"]
        measures.append(Measure(f"unanswered queries of {scenario}", "ratio", "", failed))
        joules = result["conditions"]["joules"]
        source = f"{joules['quality']}: {joules['source']}"
        measures.append(
            Measure(f"energy of 1,000 answers of {scenario}", "joules", "J", result["joules_per_1000"], source=source)
        )
    loaded = medians["p99 of server"] / medians["p50 of single_stream"]
    measures.append(Measure("p99 of server over p50 of single_stream", "ratio", "times", loaded))
    return Part("server", {"rate": RATE, "seconds": SECONDS, **PROBE}, place.data, tuple(measures))


PARTS: dict[str, Callable[[Place], Part]] = {
    "passes": passes,
    "probe": probe,
    "lora": lora,
    "retraining": retraining,
    "server": server,
}
