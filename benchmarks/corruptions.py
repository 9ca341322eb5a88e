"""Planted corruptions and harmless changes of new rows, before a real live version: which are refused.

    python -m benchmarks.corruptions --data ../shared/data [--set emotion] [--draws 3]

A probe on MiniLM is live, trained on a part of a set's train rows; the next rows come in. Each corruption of
`tests/trainers/retrain/corruptions.py` spoils 100, 20 and 5 % of them. Each harmless change is made once. The checks
before training (`retrain.rows`, at their defaults) refuse or not. Writes `results/corruptions.json`.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.tasks import TASKS
from benchmarks.results import parsed, write
from tests.trainers.retrain.corruptions import CORRUPTIONS, HARMLESS, Row
from trainers.config.load import load_config
from trainers.retrain.beforehand import count_checks
from trainers.retrain.compare import Contestant
from trainers.retrain.fingerprint import read
from trainers.retrain.suspects import label_checks
from trainers.train import train

SETS = ("trec6", "emotion", "airline_tweets", "sst2_10")
OLD, NEW = 1500, 400  # rows of the live version, and rows that come in
SHARES = (1.0, 0.2, 0.05)  # shares of the new rows that are spoiled


@dataclass
class Live:
    """A live version of a set, and the next rows."""

    folder: Path
    table: list[Row]

    def __post_init__(self) -> None:
        self.old, self.new = self.table[:OLD], self.table[OLD : OLD + NEW]
        self.file = self.folder / "train.csv"
        self.write(self.old)
        settings = (f"data.train={self.file}", "data.dev_fraction=0.2", "data.gate_fraction=0.2", "plan.highest=probe")
        self.config = load_config("text_classification", settings)
        self.result = train(self.config, self.folder / "run")
        self.before = read(self.config).rows

    def write(self, table: Sequence[Row]) -> None:
        with self.file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("text", "label"), *table])

    def violations(self, table: Sequence[Row]) -> list[str]:
        """Returns the names of the checks that refuse the rows `table`."""
        self.write(table)
        rows = read(self.config).rows
        live = Contestant(Path(self.result.graft), 1)
        checks = [
            *count_checks(self.config.retrain.rows, self.before, rows),
            *label_checks(self.config, live, rows, self.before),
        ]
        return [check.name for check in checks if check.verdict == "FAIL"]


def rows_of(name: str, data: Path, draw: random.Random) -> list[Row]:
    """Draws rows of a set, without two of one text."""
    rows = list({str(text): f"label {label}" for text, label in TASKS[name](data)[0] if str(text).strip()}.items())
    return draw.sample(rows, min(len(rows), OLD + NEW))


def main(arguments: Sequence[str] | None = None) -> None:
    """Plants every change in every set, prints the counts, and writes `results/corruptions.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--draws", type=int, default=1)
    options, provenance = parsed(parser, arguments)
    runs: list[dict[str, Any]] = []
    for name in options.set:
        for number in range(options.draws):
            draw = random.Random(number)
            with tempfile.TemporaryDirectory() as place:
                live = Live(Path(place), rows_of(name, options.data, draw))
                runs += planted(name, number, live)
    refused: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        kind = f"{run['share']:.0%} of the new rows" if run["share"] else "harmless"
        refused[kind]["refused" if run["violations"] else "let through"] += 1
    for kind, counts in refused.items():
        print(f"{kind}: {dict(counts)}")
    write("corruptions", {"refused": refused, "runs": runs}, provenance)


def planted(name: str, number: int, live: Live) -> list[dict[str, Any]]:
    """Returns what the checks say of every change."""
    score = live.result.metrics["dev"]["accuracy"]
    made = []
    for share in (*SHARES, 0.0):
        for change, spoil in (CORRUPTIONS if share else HARMLESS).items():
            violations = live.violations(spoil(live.old, live.new, random.Random(number), share or 1.0))
            made.append(
                {"set": name, "draw": number, "live": score, "share": share, "change": change, "violations": violations}
            )
            if bool(violations) != bool(share):
                print(f"{name} {share:.0%} {change}: {violations or 'let through'}", flush=True)
    return made


if __name__ == "__main__":
    main()
