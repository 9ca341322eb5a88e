"""A task whose rows arrive in slices, retrained after each: what is spent, and what is known afterwards.

    python -m benchmarks.retrain_stream --data ../shared/data [--task airline_tweets] [--rows 0]

`airline_tweets` arrives by day (the mix of labels shifts on 22 February; small days arrive with the next), `clinc150`
four domains at a time (labels arrive). Four policies see the same slices: never (trained on the first only), scratch
(LoRA in every block on all rows so far, without caches), warm (always from the live version, in every block),
topgraft (`topgraft retrain`, deciding for itself). CPU seconds are those of the processes, imports and compilation
included; compiled programs are kept between slices for every policy. Accuracy is on held-out rows of the
newest slice and of all older ones.

Texts are cut at 32 tokens, which spares half of the compilation. On two cores `--task clinc150 --rows 1000` takes 20
minutes and `--task airline_tweets --rows 500` takes 25, most of it compilation; `--rows 0` takes every row, and hours.
A smoke test of minutes: `--slices 2 --set data.max_tokens=16 --set epochs=1 --name smoke`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adapters.graft import Graft, load_graft
from backbone.console.page import plot
from benchmarks.command import answered
from benchmarks.results import RESULTS, ROOT, parsed, write
from trainers.data.splits import unit_hash

Rows = list[tuple[str, str]]
HELD_OUT = 0.2  # of each day of airline_tweets, by hash of the text
FEWEST = 3000  # rows of a slice of airline_tweets; smaller days join the next
DOMAINS = 4  # of clinc150 in a slice
ROWS = 450  # most of a slice, to train on and to score
POLICIES = ("never", "scratch", "warm", "topgraft")
CONFIG = """
from adapters.specs import *
from trainers.config import *


def get_config():
    return TrainConfig(
        name={name!r}, backbone={backbone!r}, data=Data(train={train!r}, dev_fraction=0.2, max_tokens=32),
        adapter=Lora(rank=8, alpha=16.0), optimizer=Optimizer(learning_rate=2e-3), epochs=3,
    )
"""
SETTINGS = {
    "scratch": ("plan.stages=all", "plan.cache=none", "head_start=zero"),
    # no gate that could stop it
    "warm": (
        "plan.stages=all",
        "retrain.head_share=0",
        "retrain.warm_share=1000",
        "retrain.gate.tolerance=1",
        "retrain.gate.forgetting=1",
        "retrain.gate.min_rows=2",
    ),
    # a gate as wide as the intervals of so few held-out rows ask for
    "topgraft": ("plan.stages=auto", "retrain.gate.tolerance=0.1", "retrain.gate.forgetting=0.1"),
}


def airline_tweets(folder: Path) -> Iterator[tuple[str, Rows, Rows]]:
    """(last day, train rows, held-out rows), oldest first."""
    days: dict[str, Rows] = {}
    with (folder / "airline_tweets" / "Tweets.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            day = datetime.strptime(row["tweet_created"].split()[0], "%d-%m-%Y").date().isoformat()
            days.setdefault(day, []).append((row["text"].replace("\0", ""), row["airline_sentiment"]))
    waiting: Rows = []
    for day in sorted(days):
        waiting += days[day]
        if len(waiting) >= FEWEST or day == max(days):
            held = [row for row in waiting if unit_hash(row[0], "stream") < HELD_OUT]
            yield day, [row for row in waiting if unit_hash(row[0], "stream") >= HELD_OUT], held
            waiting = []


def clinc150(folder: Path) -> Iterator[tuple[str, Rows, Rows]]:
    """(domains, train rows, test rows), in the order of `domains.json`."""
    full = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    domains = json.loads((folder / "clinc150" / "domains.json").read_text(encoding="utf-8"))
    for names in batched(domains, DOMAINS):
        known = {intent.strip().replace(" ", "_") for name in names for intent in domains[name]}
        train, test = ([(t, label) for t, label in full[split] if label in known] for split in ("train", "test"))
        yield ", ".join(names), train, test


def batched(values: Iterable[str], size: int) -> list[list[str]]:
    """Lists of `size` values; the last may be shorter."""
    every = list(values)
    return [every[first : first + size] for first in range(0, len(every), size)]


TASKS = {"airline_tweets": airline_tweets, "clinc150": clinc150}


class Policy:
    """One policy's own folder, home and bill."""

    def __init__(self, name: str, task: str, folder: Path, options: argparse.Namespace):
        self.name, self.folder, self.options = name, folder / name, options
        self.folder.mkdir()
        self.train = self.folder / "train.csv"
        self.config = self.folder / "config.py"
        self.config.write_text(CONFIG.format(name=task, backbone=options.backbone, train=str(self.train)))
        self.environment = os.environ | {"TOPGRAFT_HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT)}
        self.graft: Path | None = None

    def learn(self, rows: Rows, number: int) -> dict[str, Any]:
        """Sees all rows so far; returns what was done and its cost."""
        if self.name == "never" and number:
            return {"action": "nothing", "cpu_seconds": 0.0, "rows_computed": 0}
        with self.train.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        if self.name in ("never", "scratch"):
            work = self.folder / f"run{number}"
            result, seconds = self._call(["train", "--workdir", str(work)], SETTINGS["scratch"])
            self.graft = Path(result["graft"])
            return {"action": "scratch", "cpu_seconds": seconds, "rows_computed": result["rows_computed"]}
        place = ["--registry", f"sqlite:///{self.folder / 'registry.db'}", "--store", str(self.folder / "store")]
        result, seconds = self._call(["retrain", *place], SETTINGS[self.name])
        if result["promoted"]:
            from registry.place import Place

            registry = Place(place[1], place[3]).open()
            live = registry.live(result["task"])
            assert live is not None
            self.graft = Place(place[1], place[3]).artefacts().path(live.content_id)
        kept = ("action", "reason", "verdict", "promoted", "rows_computed", "predicted")
        return {"cpu_seconds": seconds, **{key: result[key] for key in kept}}

    def _call(self, words: Sequence[str], settings: Sequence[str]) -> tuple[dict[str, Any], float]:
        chosen = [part for text in (*settings, *self.options.set) for part in ("--set", text)]
        return answered([words[0], str(self.config), *words[1:], *chosen], self.environment, (0, 10, 11, 12))


def accuracy(graft: Graft | None, rows: Rows) -> float | None:
    """Share of rows answered rightly; a label that the graft does not have is wrong. None without rows or graft."""
    if graft is None or not rows:
        return None
    decided = graft.decide(graft.logits([text for text, _ in rows]))
    return float(np.mean([graft.model.labels[i] == label for i, (_, label) in zip(decided, rows, strict=True)]))


def stream(task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry for each slice and policy."""
    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        policies = [Policy(policy, task, Path(name), options) for policy in options.policies]
        seen: Rows = []
        old: Rows = []
        for number, (slice_name, train, held) in enumerate(TASKS[task](Path(options.data))):
            if number == options.slices:
                break
            seen += _some(train, options.rows)
            newest = _some(held, options.rows)
            for policy in policies:
                told = policy.learn(seen, number)
                graft = load_graft(policy.graft) if policy.graft else None
                scores = {"newest": accuracy(graft, newest), "old": accuracy(graft, old)}
                entry = {
                    "policy": policy.name,
                    "slice": number,
                    "name": slice_name,
                    "rows": len(seen),
                    **scores,
                    **told,
                }
                entries.append(entry)
                print(json.dumps(entry), flush=True)
            old += newest
    return entries


def _some(rows: Rows, most: int) -> Rows:
    """At most `most` rows, spread over the whole; 0 = all."""
    return rows[:: -(-len(rows) // most)] if most and len(rows) > most else rows


def summary(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By policy: CPU seconds and rows of all slices after the first, and mean accuracies after the first."""
    found = {}
    for policy in dict.fromkeys(entry["policy"] for entry in entries):
        mine = [e for e in entries if e["policy"] == policy and e["slice"]]
        means = {k: [e[k] for e in mine if e[k] is not None] for k in ("newest", "old")}
        found[policy] = {
            "cpu_seconds": round(sum(e["cpu_seconds"] for e in mine), 2),
            "rows_computed": sum(e["rows_computed"] for e in mine),
            **{k: float(np.mean(values)) if values else None for k, values in means.items()},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--task", choices=sorted(TASKS), action="append")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--backbone", default="minilm", help="backbone folder, absolute, or minilm")
    parser.add_argument("--slices", type=int, default=0, help="at most so many; 0 = all")
    parser.add_argument("--rows", type=int, default=ROWS, help="most of a slice; 0 = all")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override, for every policy")
    parser.add_argument("--name", default="retrain_stream", help="of the result files")
    options, provenance = parsed(parser)
    options.slices = options.slices or 10**6
    content: dict[str, Any] = {"settings": SETTINGS, "command": sys.argv[1:], "tasks": {}}
    for task in options.task or sorted(TASKS):
        entries = stream(task, options)
        content["tasks"][task] = {"summary": summary(entries), "raw": entries}
        path = write(options.name, content, provenance)
        for key in ("newest", "old", "cpu_seconds"):
            series = {
                p: [(e["slice"], e[key]) for e in entries if e["policy"] == p and e[key] is not None]
                for p in options.policies
            }
            shown = {name: points for name, points in series.items() if points}
            if shown:
                drawing = plot(shown, f"{task}: {key} by slice")
                (RESULTS / f"{options.name}_{task}_{key}.svg").write_text(drawing, encoding="utf-8")
        print(json.dumps(content["tasks"][task]["summary"], indent=1))
        print(path)


if __name__ == "__main__":
    main()
