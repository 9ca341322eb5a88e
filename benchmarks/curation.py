"""Subsets of 10 and 30 % of the train rows against random ones, the audit of labels beside cleanlab, and memory.

    python -m benchmarks.curation --data ../shared/data [--peers .venv-peers/bin/python] [--seeds 0 1 2 3 4]
        [--parts subsets audit memory] [--set trec6] [--trained probe]

`subsets` trains `topgraft train` on every method's rows: a probe, and LoRA of rank 8 in the top two blocks. The seed
is that of the choice and of the training. The difference to random rows is paired by seed, with a 95 % interval of
Student's t. The summary names the cheapest training on a part of the rows that is no worse than LoRA on all rows.

`audit` plants wrong labels: a second classifier, logistic regression on words, predicts each row out of fold, and a
tenth of the rows gets its prediction where that is wrong. Ours is `check --audit`. With `--peers`, cleanlab judges
scikit-learn's out-of-fold probabilities on PyTorch's states of the same trunk (`benchmarks/peers/cleanlab_audit.py`).

`memory` chooses a tenth of 100,000 made-up rows in a process of its own, and reports its largest resident memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from backbone.exchange.importing import minilm_folder
from backbone.home import resolve_backbone
from backbone.variants.registered import variants
from benchmarks.command import answered
from benchmarks.never_twice import write_rows
from benchmarks.peers.tasks import TASKS, Rows
from benchmarks.results import ROOT, RawRuns, parsed, write
from trainers.subsets.subset import Subset

SETS = ("trec6", "emotion", "sst2_10")
SHARES = (0.1, 0.3)
MARGIN = 1.0  # points of accuracy that a cheaper training may lose
TRAINED = {
    "probe": ("adapter.method=probe", "plan.stages=all"),
    "top": ("plan.stages=top(2)", "head_start=shrunk_probe"),
}  # settings of each training, the cheapest first
PLANTED = 0.1  # share of the rows whose label is planted wrong
MADE_UP, WIDTH, LABELS = 100_000, 384, 5  # rows, width and labels of `memory`
MEMORY = """
import resource, sys
import numpy as np
from backbone.variants.registered import variants
from trainers.curation.facts import forgetting_of
from trainers.curation.near import near_duplicates
from trainers.subsets.subset import Subset
rows, width, labels, tag = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
draw = np.random.default_rng(0)
class Facts:
    keys = [b"row %d" % i for i in range(rows)]
    names = tuple(map(str, range(labels)))
    classes = np.arange(rows) % labels
    states = draw.standard_normal((rows, width), np.float32)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    probabilities = draw.dirichlet([1.0] * labels, rows).astype(np.float32)
    forgetting = property(lambda self: forgetting_of(self.states, self.classes, labels, 0))
facts = Facts()
for label in range(labels):
    members = np.flatnonzero(Facts.classes == label)
    if tag == "near":
        near_duplicates(Facts.states, members, 0.98)
    else:
        variants(Subset)[tag](share=0.1).choose(facts, members, len(members) // 10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Cells:
    """The runs on one set, in a home whose cache is warm after the first."""

    def __init__(self, folder: Path, data: Path, name: str):
        self.folder, self.backbone = folder, str(resolve_backbone("minilm"))
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "TOPGRAFT_HOME": str(folder / "home")}
        (folder / "home").mkdir()
        self.train, test = TASKS[name](data)
        write_rows(folder, self.train, test)

    def settings(self, *more: str) -> list[str]:
        """Returns the options of a verb on the rows of the folder."""
        files = (f"data.train={self.folder / 'train.csv'}", f"data.test={self.folder / 'test.csv'}")
        every = (f"backbone={self.backbone}", "precision=float32", *files, *more)
        return [word for setting in every for word in ("--set", setting)]

    def subset(self, trained: str, method: str, share: float, seed: int) -> dict[str, float]:
        """Trains on the rows that a method chooses, and returns the test score."""
        more = [f"subset.method={method}", f"subset.share={share}", f"subset.seed={seed}", f"seed={seed}"]
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            words = ["train", "text_classification", "--workdir", f"{folder}/run"]
            settings = self.settings(*more, *TRAINED[trained], "select=last", "data.dev_fraction=0.1")
            result, spent = answered([*words, *settings], self.environment)
        return {"accuracy": result["metrics"]["test"]["accuracy"], "cpu_seconds": spent}

    def audit(self, side: str, seed: int, peers: str) -> dict[str, Any]:
        """Plants wrong labels, and returns precision and recall of a side's suspects."""
        planted, wrong = with_errors(self.train, seed)
        folder = self.folder / f"planted-{seed}"
        folder.mkdir(exist_ok=True)
        write_rows(folder, planted, planted[:1])
        if side == "topgraft":
            setting = [f"data.train={folder / 'train.csv'}", "data.test=", f"backbone={self.backbone}"]
            words = ["check", "text_classification", "--audit", *(w for one in setting for w in ("--set", one))]
            result, spent = answered(words, self.environment)
            places = line_numbers(folder / "train.csv")
            suspects = [places[int(one["where"].rpartition(":")[2])] for one in result["suspects"]]
        else:
            command = [peers, "-m", "benchmarks.peers.cleanlab_audit", "--model", str(minilm_folder())]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [*command, str(folder / "train.csv")],
                check=True,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            suspects = json.loads(done.stdout.strip().splitlines()[-1])["suspects"]
        hits, count = sum(bool(wrong[i]) for i in suspects), int(wrong.sum())
        return {
            "planted": count,
            "suspects": len(suspects),
            "precision": round(hits / max(1, len(suspects)), 4),
            "recall": round(hits / count, 4),
            "precision of as many as planted": round(sum(bool(wrong[i]) for i in suspects[:count]) / count, 4),
            "cpu_seconds": round(spent, 2),
        }


def with_errors(rows: Rows, seed: int) -> tuple[Rows, np.ndarray]:
    """Returns rows of which a tenth has the wrong label that a second classifier gives them, and which, bool [N]."""
    texts, labels = [text for text, _ in rows], np.array([label for _, label in rows])
    second = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000))
    answers = cross_val_predict(second, texts, labels, cv=5)
    mistaken = np.flatnonzero(answers != labels)
    chosen = np.random.default_rng(seed).permutation(mistaken)[: round(PLANTED * len(rows))]
    wrong = np.zeros(len(rows), bool)
    wrong[chosen] = True
    return [(text, int(answers[i]) if wrong[i] else label) for i, (text, label) in enumerate(rows)], wrong


def line_numbers(path: Path) -> dict[int, int]:
    """Returns the number of each row of a CSV file by the line on which its record begins."""
    places, before = {}, 1
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader)
        for number, _ in enumerate(reader):
            places[before + 1], before = number, reader.line_num
    return places


def memory(tag: str) -> dict[str, float]:
    """Returns the largest resident memory of a choice among made-up rows, in MB, and its CPU seconds."""
    words = [sys.executable, "-c", MEMORY, str(MADE_UP), str(WIDTH), str(LABELS), tag]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"peak_mb": round(int(done.stdout) / 1024, 1), "cpu_seconds": round(spent, 1)}


def paired(runs: Mapping[tuple[Any, ...], Mapping[str, Any]], place: tuple[Any, ...], other: tuple[Any, ...]) -> Any:
    """Returns the mean difference in points of two cells over their common seeds, with its interval of Student's t."""
    seeds = [key[-1] for key in runs if key[:-1] == place and (*other, key[-1]) in runs]
    gains = [100 * (runs[*place, seed]["accuracy"] - runs[*other, seed]["accuracy"]) for seed in seeds]
    if len(gains) < 2:
        return None
    reach = float(scipy.stats.t.ppf(0.975, len(gains) - 1)) * float(np.std(gains, ddof=1)) / len(gains) ** 0.5
    mean = float(np.mean(gains))
    return {"mean": round(mean, 2), "low": round(mean - reach, 2), "high": round(mean + reach, 2), "seeds": len(gains)}


def summary(runs: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns scores by set, training, share and method, the differences to random rows, and the other parts."""
    table: dict[str, Any] = {}
    subsets = {key: run for key, run in runs.items() if key[0] == "subsets"}
    for place in dict.fromkeys(key[:-1] for key in subsets):
        _, name, trained, method, share = place
        scores = [run["accuracy"] for key, run in subsets.items() if key[:-1] == place]
        line: dict[str, Any] = {"accuracy": round(float(np.mean(scores)), 4)}
        if method != "random" and (gain := paired(subsets, place, (*place[:3], "random", share))):
            line["points above random"] = gain
        if gain := paired(subsets, place, ("subsets", name, "top", "random", 1.0)):
            line["points above LoRA on all rows"] = gain
        table[f"{name}, {trained}, {method}, {share:g}"] = line
    cheap = f"cheapest training that loses at most {MARGIN:g} points to LoRA on all rows"
    table[cheap] = {name: cheapest(table, name) for name in SETS}
    for key, run in runs.items():
        if key[0] != "subsets":
            table[" ".join(str(part) for part in key if part not in ("", 0.0))] = {
                name: value for name, value in run.items() if isinstance(value, float | int)
            }
    return table


def cheapest(table: Mapping[str, Any], name: str) -> str:
    """Returns the first of a set's trainings, fewest rows and cheapest step first, shown to lose at most `MARGIN`."""
    order = [(share, trained, method) for share in SHARES for trained in TRAINED for method in variants(Subset)]
    for share, trained, method in order:
        gain = table.get(f"{name}, {trained}, {method}, {share:g}", {}).get("points above LoRA on all rows")
        if gain and gain["low"] >= -MARGIN:
            return f"{trained}, {method}, {share:g}"
    return "none"


def cells(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """Lists the cells of a set."""
    listed: list[dict[str, Any]] = []
    blank = {"set": name, "trained": "", "method": "", "share": 0.0}
    if "subsets" in options.parts:
        for trained in options.trained:
            for method, share in [("random", 1.0), *((m, s) for s in SHARES for m in variants(Subset))]:
                place = {"part": "subsets", **blank, "trained": trained, "method": method, "share": share}
                listed += [{**place, "seed": seed} for seed in options.seeds]
    if "audit" in options.parts:
        for side in ("topgraft", *(("cleanlab",) if options.peers else ())):
            listed += [{"part": "audit", **blank, "method": side, "seed": seed} for seed in options.seeds[:3]]
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--peers", help="Python of the environment with cleanlab; without it cleanlab is left out")
    parser.add_argument("--parts", nargs="*", default=["subsets", "audit", "memory"])
    parser.add_argument("--set", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--trained", nargs="*", choices=tuple(TRAINED), default=list(TRAINED))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    options, provenance = parsed(parser)
    runs = RawRuns("curation", ("part", "set", "trained", "method", "share", "seed"), provenance)
    for tag in (*variants(Subset), "near") if "memory" in options.parts else ():
        place = {"part": "memory", "set": "", "trained": "", "method": tag, "share": 0.1, "seed": 0}
        if runs.place(place) not in runs.done:
            print(runs.add({**place, **memory(tag)}), flush=True)
    for name in options.set:
        missing = [cell for cell in cells(options, name) if runs.place(cell) not in runs.done]
        with tempfile.TemporaryDirectory(prefix="topgraft-curation-") as folder:
            made = Cells(Path(folder), Path(options.data), name) if missing else None
            for cell in missing:
                assert made is not None
                if cell["part"] == "subsets":
                    run: dict[str, Any] = made.subset(cell["trained"], cell["method"], cell["share"], cell["seed"])
                else:
                    run = made.audit(cell["method"], cell["seed"], options.peers)
                runs.add({**cell, **run})
                print(cell, run, flush=True)
    table = summary(runs.done)
    print(json.dumps(table, indent=1))
    print(write("curation", {"summary": table, "raw": "curation.jsonl"}, provenance))


if __name__ == "__main__":
    main()
