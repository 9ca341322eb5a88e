"""The shared data sets as plain lists, for the peers; standard library only.

A row is (text, label number); of a pair the text is (text, text); of a regression the label is a float; of
tagged words the text is a list of words and the label a list of tag numbers. `TAGS` names those.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.data.splits import kept

Rows = list[tuple[Any, Any]]
TAGS: dict[str, list[str]] = {}  # by task, filled when it is read

# names of labels, in the order of their numbers; numbers were named from a set's description, before any test score
NAMES: dict[str, Callable[[Path], list[str]]] = {
    "banking77": lambda root: sorted({row["category"] for row in _banking77(root, "train.csv")}),
    "trec6": lambda root: ["description", "entity", "abbreviation", "human", "number", "location"],
    "emotion": lambda root: ["anger", "joy", "optimism", "sadness"],
    "irony": lambda root: ["not ironic", "ironic"],
    "sst2_10": lambda root: ["negative", "positive"],
    "movie_reviews": lambda root: ["negative", "positive"],
    "airline_tweets": lambda root: ["negative", "neutral", "positive"],
}


def _banking77(root: Path, name: str) -> list[dict[str, str]]:
    with (root / "banking77" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def banking77(root: Path) -> tuple[Rows, Rows]:
    train, test = _banking77(root, "train.csv"), _banking77(root, "test.csv")
    number = {name: i for i, name in enumerate(NAMES["banking77"](root))}
    return tuple([(row["text"], number[row["category"]]) for row in rows] for rows in (train, test))  # type: ignore[return-value]


def tweet_eval(root: Path, task: str) -> tuple[Rows, Rows]:
    """Returns the train and test rows of one of tweet_eval's tasks."""

    def read(name: str) -> Rows:
        folder = root / "tweet_eval" / task
        texts = (folder / f"{name}_text.txt").read_text(encoding="utf-8").split("\n")
        labels = (folder / f"{name}_labels.txt").read_text(encoding="utf-8").split()
        return [(text, int(label)) for text, label in zip(texts, labels, strict=False)]

    return read("train"), read("test")


def movie_reviews(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        lines = (root / "fdu_mtl" / f"MR.task.{name}").read_text(encoding="latin-1").split("\n")
        return [(text.strip(), int(label)) for label, _, text in (line.partition("\t") for line in lines if line)]

    return read("train"), read("test")


def airline_tweets(root: Path) -> tuple[Rows, Rows]:
    """Returns the tweets; a fifth of them, by hash, is for the test."""
    with (root / "airline_tweets" / "Tweets.csv").open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [(row["text"], row["airline_sentiment"]) for row in csv.DictReader(file)]
    number = {name: i for i, name in enumerate(sorted({label for _, label in rows}))}
    numbered = [(text, number[label]) for text, label in rows]
    return [row for row in numbered if not kept(row[0], 0.2)], [row for row in numbered if kept(row[0], 0.2)]


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


def _table(path: Path) -> list[dict[str, str]]:
    head, *lines = path.read_text(encoding="utf-8-sig").split("\n")
    names = head.rstrip("\r").split("\t")
    return [dict(zip(names, line.rstrip("\r").split("\t"), strict=True)) for line in lines if line]


def stsb(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        rows = _table(root / "glue_stsb" / name)
        return [((row["sentence1"], row["sentence2"]), float(row["score"])) for row in rows]

    return read("train.tsv"), read("dev.tsv")


def mrpc(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        rows = _table(root / "glue_mrpc" / name)
        return [((row["#1 String"], row["#2 String"]), int(row["Quality"])) for row in rows]

    return read("train.official3668.derived.tsv"), read("dev.tsv")


def cola(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> Rows:
        lines = (root / "glue_cola" / name).read_text(encoding="utf-8").split("\n")
        return [(text, int(label)) for _, label, _, text in (line.split("\t") for line in lines if line)]

    return read("train.tsv"), read("dev.tsv")


def clinc150(root: Path) -> tuple[Rows, Rows]:
    lists = json.loads((root / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    number = {name: i for i, name in enumerate(sorted({label for _, label in lists["train"]}))}
    return tuple([(text, number[label]) for text, label in lists[name]] for name in ("train", "test"))  # type: ignore[return-value]


def clinc150_domains(root: Path) -> tuple[Rows, Rows]:
    """The same rows, named by their domain: a second task on examples that are known already."""
    lists = json.loads((root / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    domains = json.loads((root / "clinc150" / "domains.json").read_text(encoding="utf-8"))
    number = {intent: i for i, name in enumerate(sorted(domains)) for intent in domains[name]}
    return tuple([(text, number[label]) for text, label in lists[name]] for name in ("train", "test"))  # type: ignore[return-value]


def snips_slots(root: Path) -> tuple[Rows, Rows]:
    def read(name: str) -> list[tuple[list[str], list[str]]]:
        words, tags = (
            (root / "snips" / name / file).read_text(encoding="utf-8").split("\n") for file in ("seq.in", "seq.out")
        )
        return [(w.split(), t.split()) for w, t in zip(words, tags, strict=True) if w.split()]

    train, test = read("train"), read("test")
    TAGS["snips_slots"] = sorted({tag for _, tags in train for tag in tags})
    number = {name: i for i, name in enumerate(TAGS["snips_slots"])}
    return tuple([(words, [number[t] for t in tags]) for words, tags in rows] for rows in (train, test))  # type: ignore[return-value]


TASKS = {
    "airline_tweets": airline_tweets,
    "banking77": banking77,
    "clinc150": clinc150,
    "clinc150_domains": clinc150_domains,
    "cola": cola,
    "emotion": functools.partial(tweet_eval, task="emotion"),
    "irony": functools.partial(tweet_eval, task="irony"),
    "movie_reviews": movie_reviews,
    "mrpc": mrpc,
    "snips_slots": snips_slots,
    "sst2_10": sst2_10,
    "stsb": stsb,
    "trec6": trec6,
}
