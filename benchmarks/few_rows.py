"""The default's probe where rows are few, against features with a linear model, and against SetFit.

    python -m benchmarks.few_rows --data ../shared/data [--peers .venv-peers/bin/python] [--set irony] [--rows 5 10]

The first three sides have the same features: MiniLM's states in bfloat16, pooled. `topgraft` is what the probes of a
climb choose, by its own functions. `without names` is the same where labels are no words. `features` is scikit-learn's
logistic regression on the last state at unit length, C chosen by cross-validation. `setfit` trains the whole encoder
(`benchmarks/peers/setfit_recipe.py`) on sets of at most six labels, and needs `--peers`. Every side has the same rows.
At most 2,000 test rows, drawn by seed 0. Names of labels: `benchmarks/peers/tasks.py`.

The table holds the difference of `topgraft` to each peer, paired by draw, with a 95 % interval of Student's t. Cells
are kept in `results/few_rows.jsonl` as they are made.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from adapters.graft import Graft
from adapters.labels.wording import label_texts
from adapters.model import GraftModel
from adapters.specs import Classification
from backbone.home import resolve_backbone
from backbone.storage import load_backbone
from benchmarks.defaults import MAX_LABELS, difference, drawn, floors, setfit_run
from benchmarks.never_twice import write_rows
from benchmarks.peers.tasks import NAMES, TASKS, Rows
from benchmarks.results import RawRuns, parsed, write
from trainers.fitting.features import of_pooled
from trainers.fitting.head_comparison import (
    LabelledStates,
    fitted_to_all,
    labelled_states,
    on_last,
    on_several,
    probe_model,
)
from trainers.fitting.head_options import LAST
from trainers.fitting.label_names import Names

MAX_TEST = 2000  # test rows
TOKENS = 128  # tokens of a text, as the default has it
STRENGTHS = [0.1, 1.0, 10.0, 100.0]  # C among which the features' peer chooses
SIDES = ("topgraft", "without names", "features", "setfit")


class Set:
    """A data set with the pooled states of its names and test rows."""

    def __init__(self, name: str, data: Path):
        self.train, test = TASKS[name](data)
        self.test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:MAX_TEST]]
        texts = [text for text in label_texts(NAMES[name](data)) if text is not None]
        assert len(texts) == len(NAMES[name](data))
        trunk = load_backbone(resolve_backbone("minilm"), precision="bfloat16")
        self.model = GraftModel(trunk.network, (LAST,), Classification(), tuple(texts))
        self.graft = Graft(self.model, self.model.init(jax.random.key(0)), trunk, TOKENS)
        self.known: dict[str, np.ndarray] = {}
        self.names = Names(self.pooled(texts), np.arange(len(texts)))
        self.labels = np.array([label for _, label in self.test])

    def pooled(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the pooled states [N,L+1,P] of texts; each text runs once."""
        if missing := [text for text in dict.fromkeys(texts) if text not in self.known]:
            boundaries = range(self.graft.backbone.spec.blocks + 1)
            states = self.graft.logits_and_pooled(self.graft.encode(missing), boundaries)[1]
            self.known |= zip(missing, states.reshape(len(missing), len(boundaries), -1), strict=True)
        return np.stack([self.known[text] for text in texts])

    def accuracy(self, rows: LabelledStates) -> float:
        """Returns the accuracy of what a climb's probes choose."""
        last = on_last(self.model, rows)
        comparison = on_several(self.model, rows, last).before(last)
        option, factors = comparison.options[comparison.best], comparison.factors[comparison.best]
        head = fitted_to_all(option, factors, self.model, rows)
        x = of_pooled(probe_model(self.model, option.probe), self.pooled([text for text, _ in self.test]))
        return float(np.mean((x @ head["kernel"] + head["bias"]).argmax(axis=1) == self.labels))

    def run(self, side: str, few: Rows) -> dict[str, float]:
        """Returns the accuracy of a side that reads states."""
        labels = np.array([label for _, label in few], np.int32)
        pooled = self.pooled([text for text, _ in few])
        if side == "features":
            x, test = (of_pooled(self.model, p) for p in (pooled, self.pooled([text for text, _ in self.test])))
            return {"accuracy": float(np.mean(chosen_regression(x, labels).predict(test) == self.labels))}
        names = self.names if side == "topgraft" else None
        keys = [text.encode() for text, _ in few]
        rows = labelled_states((pooled, None), (labels, None), keys, shared=False, names=names)
        return {"accuracy": self.accuracy(rows)}

    def setfit(self, peers: str, few: Rows, seed: int) -> dict[str, float]:
        """Returns the accuracy of SetFit."""
        with tempfile.TemporaryDirectory() as name:
            write_rows(Path(name), few, self.test)
            return setfit_run(peers, Path(name), seed)


def chosen_regression(x: np.ndarray, labels: np.ndarray) -> Any:
    """Returns logistic regression with the C that cross-validation chooses; 10 where a label has one row."""
    folds = min(5, int(np.bincount(labels).min()))
    if folds < 2:
        return LogisticRegression(C=10.0, max_iter=1000).fit(x, labels)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": STRENGTHS}, cv=StratifiedKFold(folds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return search.fit(x, labels)


def cells(name: str, options: argparse.Namespace, labels: int) -> list[tuple[str, int, int, str]]:
    """Lists set, rows a label, draw and side."""
    small = options.peers and labels <= MAX_LABELS
    draws = {side: options.setfit_draws if side == "setfit" else options.draws for side in SIDES}
    sides = SIDES if small else SIDES[:-1]
    return [(name, rows, draw, side) for rows in options.rows for side in sides for draw in range(draws[side])]


def summary(runs: RawRuns) -> dict[str, Any]:
    """Returns accuracies by set and rows, and the differences to each peer."""
    table: dict[str, Any] = {}
    for name, rows in dict.fromkeys(key[:2] for key in runs.done):
        line: dict[str, Any] = {}
        for side in SIDES:
            of_side = [run["accuracy"] for key, run in runs.done.items() if key[:2] + key[3:] == (name, rows, side)]
            if of_side:
                line[side] = round(float(np.mean(of_side)), 4)
            if side in ("features", "setfit") and (gain := difference(runs, name, rows, side)):
                line[f"topgraft less {side}"] = gain
        table[f"{name}, {rows} rows a class"] = line
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--peers", help="Python of the environment with torch; without it SetFit is left out")
    parser.add_argument("--set", choices=tuple(NAMES), action="append")
    parser.add_argument("--rows", type=int, nargs="*", default=[5, 10], help="rows of each class")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--setfit-draws", type=int, default=3)
    options, provenance = parsed(parser)
    data, runs = Path(options.data), RawRuns("few_rows", ("set", "rows", "draw", "side"), provenance)
    for name in options.set or NAMES:
        labels = len(NAMES[name](data))
        if not (missing := [cell for cell in cells(name, options, labels) if cell not in runs.done]):
            continue
        task = Set(name, data)
        for _, rows, draw, side in missing:
            few = drawn(task.train, rows, draw)
            run = task.setfit(options.peers, few, draw) if side == "setfit" else task.run(side, few)
            runs.add({"set": name, "rows": rows, "draw": draw, "side": side, **run})
        print(name, "done", flush=True)
    table = summary(runs)
    result = {"floors": floors(table), "summary": table, "raw": "few_rows.jsonl"}
    print(json.dumps(result, indent=1))
    print(write("few_rows", result, provenance))


if __name__ == "__main__":
    main()
