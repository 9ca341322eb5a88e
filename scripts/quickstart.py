"""`make quickstart`: import a real backbone, train a graft on real text, store it, load it, predict.

The backbone is all-MiniLM-L6-v2; the data are the docstrings of this Python's standard library; the
task is to name the package a docstring belongs to. Everything it writes lies in `.quickstart/`.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of scripts/

FOLDER = ROOT / ".quickstart"
QUESTIONS = (
    "Return a new event loop object for the current thread.",
    "Parse an XML document from a file and return its root element.",
    "Send a request to the server and read the response headers.",
)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def read(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.environ["TOPGRAFT_HOME"] = str(FOLDER / "home")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("trainers", "backbone", "adapters"):
        logging.getLogger(name).setLevel(logging.INFO)

    import topgraft
    from backbone.exchange.importing import import_backbone
    from trainers.config.load import load_config
    from trainers.data.docstrings import baselines, write_docstrings
    from trainers.evaluate import evaluate
    from trainers.train import train

    say("1. import the backbone: all-MiniLM-L6-v2, 22.7 million parameters")
    report = import_backbone("minilm", FOLDER / "minilm")
    print(f"{report.bound} tensors bound, {len(report.ignored)} buffer left out, id {report.weights_id[:19]}...")

    say("2. real text: docstrings of this Python's standard library")
    counts = write_docstrings(FOLDER)
    print(f"{counts['train']} train and {counts['test']} test rows, {counts['classes']} packages to tell apart")

    say("3. train a graft: the plan auto, up to a head on the states of every block")
    settings = [
        f"backbone={FOLDER / 'minilm'}",
        f"data.train={FOLDER / 'train.csv'}",
        "data.test=",  # the test rows are asked of the stored graft, below
    ]
    result = train(load_config(ROOT / "configs" / "docstrings.py", settings), FOLDER / "run", show=True)
    print(f"stored in {result.graft}, id {result.content_id[:19]}..., {result.trainable:,} parameters")

    say("4. load it again, verified, and evaluate")
    on_test = evaluate(result.graft, files=(str(FOLDER / "test.csv"),), submodel="full", show=True)
    accuracy = on_test.metrics["test"]["accuracy"]
    beside = baselines(read(FOLDER / "train.csv"), read(FOLDER / "test.csv"))
    print(
        f"accuracy on test rows: majority {beside['majority']:.1%}, TF-IDF {beside['tfidf']:.1%}, graft {accuracy:.1%}"
    )
    print("(packages repeat their own rare words, which TF-IDF counts: on such texts it is hard to beat)")

    say("5. predict")
    graft = topgraft.load(result.graft)
    for question, answer in zip(QUESTIONS, graft.predict(QUESTIONS), strict=True):
        best = ", ".join(f"{name} {p:.0%}" for name, p in list(answer.probabilities.items())[:3])
        print(f"  {question}\n    -> {best}")
    seconds = time.monotonic() - started
    print(f"\n{seconds:.0f} s after the installation. Next: `. .venv/bin/activate`, then your own files (README.md).")


if __name__ == "__main__":
    main()
