"""One parent over the 16 domains of fdu_mtl with a head for each, against a LoRA for each: bytes, CPU seconds, scores.

    python -m benchmarks.parents --data ../shared/data [--seed 0 1 2] [--epochs 0.7] [--domains books dvd] [--work DIR]

`lora` trains the config `text_classification` on each domain, every block live, three epochs. `parent` trains the same
LoRA over the rows of all domains (`head.kind=tasks`), makes it a trunk, and fits a probe for each domain on it. Bytes
are those of the folders: 16 grafts, against the parent and 16 grafts. CPU seconds are those of this process, from
reading the rows to the stored graft, compilation included: 16 LoRA share their programs, as 16 probes do. Scores are
accuracies on the test rows, and the same without the rows that are also in the train file (539 of 6,400).

Differences are paired by seed; a cell is kept in `results/parents.jsonl` as it is made.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.graft import load_graft
from backbone.home import use_compilation_cache
from benchmarks.results import RawRuns, parsed, spread, write
from metering.window import cpu_seconds
from trainers.config.load import load_config
from trainers.parent import parent
from trainers.train import train

FIXED = ("precision=float32", "data.max_tokens=128")
Rows = list[tuple[str, str]]  # text and label


def domains(root: Path) -> list[str]:
    """Returns the names of the domains."""
    return sorted(path.name.removesuffix(".task.train") for path in (root / "fdu_mtl").glob("*.task.train"))


def read(root: Path, domain: str, split: str) -> Rows:
    """Returns the rows of a domain."""
    text = (root / "fdu_mtl" / f"{domain}.task.{split}").read_text(encoding="latin-1")
    pairs = (line.split("\t", 1) for line in text.split("\n") if "\t" in line)
    return [(row.strip(), ("negative", "positive")[int(label)]) for label, row in pairs]


def written(path: Path, rows: Rows) -> Path:
    """Writes rows as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def size(folder: Path) -> int:
    """Returns the bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def accuracies(graft: Path, test: Rows, seen: set[str], backbone: str | None) -> dict[str, float]:
    """Returns the accuracy on all test rows, and on those that the train file lacks."""
    answers = load_graft(graft, backbone).predict([text for text, _ in test])
    right = np.array([answer.label == label for answer, (_, label) in zip(answers, test, strict=True)])
    fresh = np.array([text not in seen for text, _ in test])
    return {"accuracy": float(right.mean()), "unseen": float(right[fresh].mean())}


class Bench:
    """The runs of one seed in one folder."""

    def __init__(self, seed: int, options: argparse.Namespace, work: Path, runs: RawRuns):
        self.seed, self.options, self.work, self.runs = seed, options, work / f"seed{seed}", runs
        self.work.mkdir(parents=True, exist_ok=True)
        root = Path(options.data)
        self.train = {name: read(root, name, "train") for name in options.domains}
        self.test = {name: read(root, name, "test") for name in options.domains}

    def fitted(self, name: str, rows: Path, settings: Sequence[str]) -> tuple[Path, float]:
        """Trains a graft; returns its folder and the CPU seconds that it took."""
        before, folder = cpu_seconds(), self.work / name
        shutil.rmtree(folder, ignore_errors=True)  # a run that was killed begins anew: its seconds are not known
        config = load_config("text_classification", (f"data.train={rows}", f"seed={self.seed}", *FIXED, *settings))
        return Path(train(config, folder).graft), cpu_seconds() - before

    def cell(self, side: str, domain: str, measure: Any) -> None:
        """Makes a cell unless it is there."""
        if (self.seed, side, domain) not in self.runs.done:
            run = {"seed": self.seed, "side": side, "domain": domain, **measure()}
            self.runs.add(run)
            print(json.dumps(run), flush=True)

    def of_domain(self, side: str, domain: str, settings: Sequence[str], backbone: str | None) -> dict[str, float]:
        """Trains a graft on one domain and scores it."""
        rows = written(self.work / f"{domain}.csv", self.train[domain])
        graft, cpu = self.fitted(f"{side}-{domain}", rows, settings)
        seen = {text for text, _ in self.train[domain]}
        return {"cpu_seconds": cpu, "bytes": size(graft), **accuracies(graft, self.test[domain], seen, backbone)}

    def trunk(self) -> dict[str, float]:
        """Trains the adapter over all domains and makes it a trunk."""
        every = [(text, f"{name}/{label}") for name, rows in self.train.items() for text, label in rows]
        rows = written(self.work / "all.csv", every)
        settings = ("head.kind=tasks", "plan.stages=all", f"epochs={self.options.epochs}", "select=last")
        graft, cpu = self.fitted("parent", rows, settings)
        before = cpu_seconds()
        made = parent(graft, self.work / "trunk")
        return {"cpu_seconds": cpu + cpu_seconds() - before, "bytes": made.bytes}

    def run(self) -> None:
        """Makes the cells that are missing; the parent's trunk has to lie in the work folder if its cell is there."""
        plain = ("plan.stages=all", "epochs=3")
        for domain in self.options.domains:
            self.cell("lora", domain, lambda domain=domain: self.of_domain("lora", domain, plain, None))
        self.cell("parent", "", self.trunk)
        place = str(self.work / "trunk")
        above = (f"backbone={place}", "adapter.method=probe")
        for domain in self.options.domains:
            self.cell("head", domain, lambda domain=domain: self.of_domain("head", domain, above, place))


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns, over the seeds, the shares of bytes and of CPU seconds, and the difference of the mean scores."""
    by_seed: dict[str, list[float]] = {"bytes_share": [], "cpu_share": [], "points": [], "points_unseen": []}
    for seed in sorted({run["seed"] for run in runs}):
        of = {side: [r for r in runs if (r["seed"], r["side"]) == (seed, side)] for side in ("lora", "parent", "head")}
        if not of["parent"] or len(of["head"]) != len(of["lora"]):
            continue
        for share, name in (("bytes_share", "bytes"), ("cpu_share", "cpu_seconds")):
            ours, theirs = (sum(run[name] for run in side) for side in (of["parent"] + of["head"], of["lora"]))
            by_seed[share].append(ours / theirs)
        for points, name in (("points", "accuracy"), ("points_unseen", "unseen")):
            ours, theirs = (float(np.mean([run[name] for run in of[side]])) for side in ("head", "lora"))
            by_seed[points].append(100 * (ours - theirs))
    table = {
        domain: {
            side: round(float(np.mean([r["accuracy"] for r in runs if (r["side"], r["domain"]) == (side, domain)])), 4)
            for side in ("lora", "head")
        }
        for domain in sorted({run["domain"] for run in runs if run["side"] == "head"})
    }
    return {**{name: spread(values) for name, values in by_seed.items() if values}, "domains": table}


def main() -> None:
    """Makes the cells that are missing, and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=os.environ.get("TOPGRAFT_DATA", "../shared/data"))
    parser.add_argument("--seed", type=int, nargs="*", default=(0, 1, 2), dest="seeds")
    parser.add_argument("--epochs", type=float, default=0.7, help="passes over the rows of all domains, of the parent")
    parser.add_argument("--domains", nargs="*", default=None, help="domains (default: all 16)")
    parser.add_argument("--work", default=None, help="folder that keeps grafts and trunks (default: none is kept)")
    options, provenance = parsed(parser)
    options.domains = options.domains or domains(Path(options.data))
    use_compilation_cache()
    runs = RawRuns("parents", ("seed", "side", "domain"), provenance)
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            Bench(seed, options, Path(options.work or folder), runs).run()
    print(write("parents", summary(list(runs.done.values())), provenance))


if __name__ == "__main__":
    main()
