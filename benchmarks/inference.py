"""What `topgraft train FILE` infers from files that people export, beside what is right: every set of the data folder.

Each set is written as its users keep it: GLUE's own tables, tables of Kaggle and of shared tasks, exports of pandas,
JSON Lines, CoNLL. `KNOWN` says what is right, written by hand. The right `data.max_tokens` follows from the tokenizer
of a backbone: a value that cuts no more than 2 % of the rows, and is at most the double of the smallest one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from backbone.home import resolve_backbone
from backbone.storage import load_backbone
from benchmarks.results import parsed, write
from trainers.config import TrainConfig
from trainers.data.examples import texts_of
from trainers.data.inference import infer
from trainers.data.prepare import Table
from trainers.data.rows import read_rows

LARGEST = 512  # tokens beyond which nothing can be asked of the backbone
MAX_CUT = 0.02  # share of rows that a right data.max_tokens may cut
ROWS = 4000  # rows that are tokenised, from the first on
FDU = ("negative", "positive")  # meaning of 0 and 1
STANCES = ("abortion", "atheism", "climate", "feminist", "hillary")


@dataclass(frozen=True)
class Right:
    """The right reading of a file."""

    text: str
    label: str
    head: str
    metric: str
    text_pair: str = ""


@dataclass(frozen=True)
class File:
    """A file of rows as people keep it."""

    name: str
    shape: str  # words for people
    write: Callable[[Path, Path], Path]  # (data folder, folder to write into) -> file
    right: Right
    said: tuple[str, ...] = ()  # settings that a person gives


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file."""

    name: str
    shape: str
    outcome: str  # right, wrong or refused
    differences: tuple[str, ...]  # FIELD: inferred, but VALUE is right
    inferred: dict[str, str]  # what was inferred
    max_tokens: int = 0
    cut: float = 0.0  # share of the rows that are cut
    smallest: int = 0  # smallest max_tokens that cuts at most 2 %
    message: str = ""  # of a refusal
    seconds: float = 0.0  # CPU seconds of the inference


def table(suffix: str, header: Sequence[str], rows: Iterable[Sequence[object]], folder: Path) -> Path:
    """Writes a CSV or TSV file; an empty header is left out. A TSV file has no quotes."""
    path = folder / f"train{suffix}"
    with path.open("w", newline="", encoding="utf-8") as file:
        if suffix == ".csv":
            csv.writer(file).writerows([*([header] if header else []), *rows])
        else:
            for row in [*([header] if header else []), *rows]:
                file.write("\t".join(map(str, row)) + "\n")
    return path


def jsonl(records: Iterable[dict[str, object]], folder: Path) -> Path:
    """Writes a JSON Lines file."""
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def original(*place: str) -> Callable[[Path, Path], Path]:
    """Returns a writer that copies a file as it is, under its suffix."""

    def copy(data: Path, folder: Path) -> Path:
        source = data.joinpath(*place)
        path = folder / f"train{source.suffix}"
        path.write_bytes(source.read_bytes())
        return path

    return copy


def lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Returns the lines of a file; only newlines end one."""
    return path.read_text(encoding=encoding).rstrip("\n").split("\n")


def trec(data: Path, folder: Path) -> Path:
    parts = [line.split(" ", 1) for line in lines(data / "trec6" / "raw" / "TREC.train", "latin-1")]
    return table(".csv", ("question", "category"), [(text, label.partition(":")[0]) for label, text in parts], folder)


def clinc(data: Path, folder: Path) -> Path:
    rows = json.loads((data / "clinc150" / "data_full.json").read_text())["train"]
    return jsonl(({"text": text, "intent": intent} for text, intent in rows), folder)


def snips(name: str, data: Path) -> list[str]:
    return [line.strip() for line in lines(data / "snips" / "train" / name)]


def snips_intents(data: Path, folder: Path) -> Path:
    return table(".tsv", ("utterance", "intent"), zip(snips("seq.in", data), snips("label", data), strict=True), folder)


def snips_conll(data: Path, folder: Path) -> Path:
    path = folder / "train.conll"
    pairs = [(w.split(), t.split()) for w, t in zip(snips("seq.in", data), snips("seq.out", data), strict=True)]
    blocks = ["".join(f"{w} {t}\n" for w, t in zip(words, tags, strict=True)) for words, tags in pairs]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def snips_jsonl(data: Path, folder: Path) -> Path:
    pairs = enumerate(zip(snips("seq.in", data), snips("seq.out", data), strict=True))
    return jsonl(({"id": i, "tokens": w.split(), "ner_tags": t.split()} for i, (w, t) in pairs), folder)


def tweets(data: Path, *place: str) -> list[tuple[str, str]]:
    """Returns (text, number of the label) of a task of tweet_eval."""
    folder = data.joinpath("tweet_eval", *place)
    return list(zip(lines(folder / "train_text.txt"), lines(folder / "train_labels.txt"), strict=True))


def emotion(data: Path, folder: Path) -> Path:
    rows = enumerate(tweets(data, "emotion"))
    return table(".csv", ("", "text", "label"), [(i, text, label) for i, (text, label) in rows], folder)


def irony(data: Path, folder: Path) -> Path:
    return jsonl(({"text": text, "label": int(label)} for text, label in tweets(data, "irony")), folder)


def offensive(data: Path, folder: Path) -> Path:
    rows = enumerate(tweets(data, "offensive"), 86426)
    return table(".tsv", ("id", "tweet", "subtask_a"), [(i, t, ("NOT", "OFF")[int(n)]) for i, (t, n) in rows], folder)


def stance(target: str) -> Callable[[Path, Path], Path]:
    def writer(data: Path, folder: Path) -> Path:
        names = ("NONE", "AGAINST", "FAVOR")
        rows = enumerate(tweets(data, "stance", target), 101)
        cells = [(i, target.title(), text, names[int(n)]) for i, (text, n) in rows]
        return table(".tsv", ("ID", "Target", "Tweet", "Stance"), cells, folder)

    return writer


def reviews(name: str, shape: int) -> Callable[[Path, Path], Path]:
    """Returns a writer of one product's reviews, in one of three shapes."""

    def writer(data: Path, folder: Path) -> Path:
        rows = [line.split("\t", 1) for line in lines(data / "fdu_mtl" / f"{name}.task.train", "latin-1")]
        if shape == 0:
            return table(".tsv", (), rows, folder)
        if shape == 1:
            return table(".csv", ("review", "sentiment"), [(text, FDU[int(label)]) for label, text in rows], folder)
        numbered = enumerate(rows)
        return jsonl(({"review_id": f"R{i:06}", "rating": int(n), "body": t} for i, (n, t) in numbered), folder)

    return writer


def files(data: Path) -> list[File]:
    """Lists the files of every set, with what is right."""
    of, tags, cola = "classification", "token_tagging", original("glue_cola", "train.tsv")
    glue = "GLUE's own table"
    known = [
        File("trec6", "CSV, header", trec, Right("question", "category", of, "accuracy")),
        File("banking77", "CSV, header", original("banking77", "train.csv"), Right("text", "category", of, "accuracy")),
        File("clinc150", "JSON Lines", clinc, Right("text", "intent", of, "accuracy")),
        File("snips intents", "TSV, header", snips_intents, Right("utterance", "intent", of, "accuracy")),
        File("snips slots", "CoNLL", snips_conll, Right("text", "label", tags, "entity_f1")),
        File("snips slots", "JSON Lines of lists", snips_jsonl, Right("tokens", "ner_tags", tags, "entity_f1")),
        File("sst2", glue, original("glue_sst2", "train.tsv"), Right("sentence", "label", of, "accuracy")),
        File("cola", f"{glue}, no header", cola, Right("column4", "column2", of, "matthews")),
        File(
            "cola",
            f"{glue}, no header; said: what the refusal offers, and the metric",
            cola,
            Right("column4", "column2", of, "matthews"),
            said=("data.label=column2", "metric=matthews"),
        ),
        File(
            "mrpc",
            glue,
            original("glue_mrpc", "train.official3668.derived.tsv"),
            Right("#1 String", "Quality", of, "accuracy", "#2 String"),
        ),
        File(
            "rte",
            glue,
            original("glue_rte", "train.tsv"),
            Right("sentence1", "label", of, "accuracy", "sentence2"),
        ),
        File(
            "stsb",
            glue,
            original("glue_stsb", "train.tsv"),
            Right("sentence1", "score", "regression", "pearson", "sentence2"),
        ),
        File("emotion", "CSV of pandas, with its index", emotion, Right("text", "label", of, "accuracy")),
        File("irony", "JSON Lines, labels as numbers", irony, Right("text", "label", of, "accuracy")),
        File("offensive", "TSV of the shared task", offensive, Right("tweet", "subtask_a", of, "accuracy")),
    ]
    known += [
        File(f"stance {name}", "TSV of the shared task", stance(name), Right("Tweet", "Stance", of, "accuracy"))
        for name in STANCES
    ]
    shapes = ("TSV, no header", "CSV, header", "JSON Lines, with ids")
    right = (Right("column2", "column1", of, "accuracy"), Right("review", "sentiment", of, "accuracy"))
    right = (*right, Right("body", "rating", of, "accuracy"))
    for number, path in enumerate(sorted((data / "fdu_mtl").glob("*.task.train"))):
        name, shape = path.name.partition(".")[0], number % 3
        known.append(File(f"reviews {name}", shapes[shape], reviews(name, shape), right[shape]))
    airline = Right("text", "airline_sentiment", of, "accuracy")
    known.append(File("airline tweets", "CSV of Kaggle", original("airline_tweets", "Tweets.csv"), airline))
    return known


def outcome_of(file: File, data: Path, folder: Path) -> Outcome:
    """Infers the config of a file and compares it with what is right."""
    path = file.write(data, folder)
    started = time.process_time()
    try:
        config = infer([str(path)], file.said).config
    except InputError as error:
        message = str(error).replace(str(folder), "FOLDER")
        return Outcome(file.name, file.shape, "refused", (), {}, message=message)
    seconds = round(time.process_time() - started, 3)
    inferred = {
        "text": config.data.text,
        "label": config.data.label,
        "head": config.head.kind,
        "metric": config.metric,
        "text_pair": config.data.text_pair,
    }
    right = asdict(file.right)
    wrong = [f"{name}: {value!r}, but {right[name]!r} is right" for name, value in inferred.items()]
    differences = [text for text, (name, value) in zip(wrong, inferred.items(), strict=True) if right[name] != value]
    lengths = tokens(config)
    cut, chosen = float(np.mean(lengths > config.data.max_tokens)), config.data.max_tokens
    smallest = next((n for n in range(8, LARGEST) if np.mean(lengths > n) <= MAX_CUT), LARGEST)
    if (cut > MAX_CUT and chosen < LARGEST) or chosen > max(32, 2 * smallest):
        differences.append(f"max_tokens: {chosen}, which cuts {cut:.1%}; {smallest} is enough")
    outcome = "wrong" if differences else "right"
    return Outcome(
        file.name, file.shape, outcome, tuple(differences), inferred, chosen, round(cut, 4), smallest, "", seconds
    )


def tokens(config: TrainConfig) -> np.ndarray:
    """Returns the lengths in tokens, int [N], of the first rows of a file, as the backbone's tokenizer cuts them."""
    encode = load_backbone(resolve_backbone(config.backbone)).preprocessing
    rows = [row for _, row in zip(range(ROWS), read_rows(config.data, "train", config.head.column), strict=False)]
    read = Table([row.content for row in rows], [row.labels for row in rows], [], [])
    texts = texts_of(read, config.head)
    if config.head.one_answer_per == "word":
        ids, _, _ = encode.encode_words(texts, LARGEST)
    elif config.head.pair != "none":
        ids, _ = encode.encode_pairs(texts, LARGEST, segments=True)
    else:
        ids = encode.encode(texts, LARGEST)
    return np.array([len(row) for row in ids])


def main() -> None:
    """Writes `results/inference.json`, and prints every file that is not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TOPGRAFT_DATA", "../shared/data")))
    options, provenance = parsed(parser)
    outcomes = []
    for file in files(options.data):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(outcome_of(file, options.data, Path(folder)))
        one = outcomes[-1]
        print(f"{one.outcome:8} {one.name}, {one.shape}: {'; '.join(one.differences) or one.message or one.inferred}")
    counts = {name: sum(one.outcome == name for one in outcomes) for name in ("right", "wrong", "refused")}
    sets = {one.name.split()[0] for one in outcomes}
    content = {
        "files": len(outcomes),
        "sets": len(sets),
        **counts,
        "max_seconds": max(one.seconds for one in outcomes),
        "outcomes": [asdict(one) for one in outcomes],
    }
    print(write("inference", content, provenance), counts)


if __name__ == "__main__":
    main()
