"""The names of labels as rows of them, where rows are few: accuracy of a probe with and without them.

    python -m benchmarks.label_names --data ../shared/data [--set banking77] [--rows 1 5 10 20] [--draws 5]

Both sides have the same features: MiniLM's last state, pooled, at unit length. `topgraft` chooses among the options of
its climb's first step; `without names` are the same options but those that read names. `features + linear` is
scikit-learn's logistic regression with C = 10. At most 2,000 test rows, drawn by seed 0. Names that a set gives as
numbers were written from its description before any test score was seen; those of TREC-6 are its six words.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from adapters.graft import Graft
from adapters.labels.wording import label_texts
from adapters.model import GraftModel
from adapters.specs import Classification
from backbone.home import resolve_backbone
from backbone.storage import load_backbone
from benchmarks.defaults import drawn
from benchmarks.peers.tasks import TASKS
from benchmarks.results import RawRuns, parsed, write
from trainers.fitting.head_options import LAST, LabelledStates, compared, fitted_to_all, labelled_states, options_on

MAX_TEST = 2000  # test rows
NAMES: dict[str, Callable[[Path], list[str]]] = {
    "banking77": lambda data: sorted({r["category"] for r in csv.DictReader((data / "banking77/train.csv").open())}),
    "clinc150": lambda data: sorted(
        {label for _, label in json.loads((data / "clinc150/data_full.json").read_text())["train"]}
    ),
    "trec6": lambda data: ["description", "entity", "abbreviation", "human", "number", "location"],
    "emotion": lambda data: ["anger", "joy", "optimism", "sadness"],
    "irony": lambda data: ["not ironic", "ironic"],
    "sst2_10": lambda data: ["negative", "positive"],
    "movie_reviews": lambda data: ["negative", "positive"],
    "airline_tweets": lambda data: ["negative", "neutral", "positive"],
}


def accuracies(model: GraftModel, rows: LabelledStates, test: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the accuracy of each side on test features [N,F]."""
    result = {}
    for side, named in (("topgraft", True), ("without names", False)):
        comparison = compared(options_on((LAST,), model.head, named), model, rows)
        head = fitted_to_all(comparison.options[comparison.best], 1.0, model, rows)
        result[side] = float(np.mean((test @ head["kernel"] + head["bias"]).argmax(axis=1) == labels))
    x = rows.pooled[:, -1] / np.linalg.norm(rows.pooled[:, -1], axis=1, keepdims=True)
    linear = LogisticRegression(C=10, max_iter=1000).fit(x, rows.labels)
    return result | {"features + linear": float(np.mean(linear.predict(test) == labels))}


class Set:
    """A data set with the pooled states of its names and test rows."""

    def __init__(self, name: str, data: Path):
        self.train, test = TASKS[name](data)
        texts = label_texts(NAMES[name](data))
        assert texts is not None
        order = np.random.default_rng(0).permutation(len(test))[:MAX_TEST]
        trunk = load_backbone(resolve_backbone("minilm"), precision="bfloat16")
        self.model = GraftModel(trunk.network, (LAST,), Classification(), texts)
        self.graft = Graft(self.model, self.model.init(jax.random.key(0)), trunk, 64)
        self.names = self.pooled(list(texts))
        states = self.pooled([test[i][0] for i in order])[:, -1]
        self.test = states / np.linalg.norm(states, axis=1, keepdims=True)
        self.labels = np.array([test[i][1] for i in order])

    def pooled(self, texts: list[str]) -> np.ndarray:
        """Returns the pooled states [N,L+1,P] of texts."""
        boundaries = range(self.graft.backbone.spec.blocks + 1)
        pooled = self.graft.logits_and_pooled(self.graft.encode(texts), boundaries)[1]
        return pooled.reshape(len(texts), len(boundaries), -1)

    def run(self, per_class: int, draw: int) -> dict[str, float]:
        """Returns the accuracy of each side for one draw of the train rows."""
        few = drawn(self.train, per_class, draw)
        labels = np.array([label for _, label in few], np.int32)
        keys = [text.encode() for text, _ in few]
        pooled = self.pooled([text for text, _ in few])
        rows = labelled_states((pooled, None), (labels, None), keys, shared=False, names=self.names)
        return accuracies(self.model, rows, self.test, self.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--set", choices=tuple(NAMES), action="append")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 5, 10, 20], help="rows of each class")
    parser.add_argument("--draws", type=int, default=5)
    options, provenance = parsed(parser)
    runs = RawRuns("label_names", ("set", "rows", "draw"), provenance)
    for name in options.set or NAMES:
        cells = [(name, rows, draw) for rows in options.rows for draw in range(options.draws)]
        if not (missing := [cell for cell in cells if cell not in runs.done]):
            continue
        task = Set(name, Path(options.data))
        for _, rows, draw in missing:
            runs.add({"set": name, "rows": rows, "draw": draw, **task.run(rows, draw)})
        print(name, "done", flush=True)
    table: dict[str, Any] = {}
    for name, rows in dict.fromkeys(key[:2] for key in runs.done):
        group = [run for key, run in runs.done.items() if key[:2] == (name, rows)]
        sides = ("topgraft", "without names", "features + linear")
        table[f"{name}, {rows} rows a class"] = {s: round(float(np.mean([r[s] for r in group])), 4) for s in sides}
    print(json.dumps(table, indent=1))
    print(write("label_names", {"summary": table, "raw": "label_names.jsonl"}, provenance))


if __name__ == "__main__":
    main()
