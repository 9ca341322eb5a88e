"""The shared data sets as plain lists, for the peers; standard library only."""

from __future__ import annotations

import csv
from pathlib import Path

from trainers.splits import kept

Rows = list[tuple[str, int]]


def banking77(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> list[dict[str, str]]:
        with (root / "banking77" / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    train, test = read("train.csv"), read("test.csv")
    number = {name: i for i, name in enumerate(sorted({row["category"] for row in train}))}
    return tuple([(row["text"], number[row["category"]]) for row in rows] for rows in (train, test))  # type: ignore[return-value]


def emotion(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        folder = root / "tweet_eval" / "emotion"
        texts = (folder / f"{name}_text.txt").read_text(encoding="utf-8").split("\n")
        labels = (folder / f"{name}_labels.txt").read_text(encoding="utf-8").split()
        return [(text, int(label)) for text, label in zip(texts, labels, strict=False)]

    return read("train"), read("test")


def sst2_10(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        lines = (root / "glue_sst2" / name).read_text(encoding="utf-8").split("\n")[1:]
        return [(text, int(label)) for text, label in (line.split("\t") for line in lines if line)]

    return [row for row in read("train.tsv") if kept(row[0], 0.1)], read("dev.tsv")


def trec6(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        lines = (root / "trec6" / name).read_text(encoding="latin-1").split("\n")
        return [(text, int(label)) for label, _, text in (line.partition(" ") for line in lines if line)]

    return read("TREC.train.all"), read("TREC.test.all")


TASKS = {"banking77": banking77, "emotion": emotion, "sst2_10": sst2_10, "trec6": trec6}
