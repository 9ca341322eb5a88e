"""LoRA by PEFT on PyTorch, at its best: the recipe our configs are compared with.

    python -m benchmarks.peers.peft_recipe --model DIR --task trec6 --data ../shared/data

rank 8, alpha 16 on query and value, AdamW without weight decay, linear decay to zero, dynamic padding
to the longest row of a batch, float32. Labels train a sequence classifier, pairs of texts are read as one
row, a number is a classifier with one output (squared error), tags of words train a token classifier.
`--order length_grouped` sorts by length inside windows of 50 batches, as transformers'
LengthGroupedSampler. With `--worker` it obeys a parent process line by line, so that both sides can
alternate on the same cores. Needs torch, transformers and peft; no jax.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import psutil
import torch
import transformers
from tokenizers import Tokenizer

from benchmarks.peers.tasks import TAGS, TASKS

MAX_TOKENS = 128
WINDOW = 50  # batches sorted by length together
IGNORED = -100  # label of tokens that are no first sub-word


class Row:
    """Token ids, segments and the label of an example."""

    def __init__(self, encoding: Any, label: Any):
        self.ids, self.segments, self.label = encoding.ids, encoding.type_ids, label
        if isinstance(label, list):
            seen: set[int] = set()
            self.label = []
            for word in encoding.word_ids:
                first = word is not None and word not in seen
                self.label.append(label[word] if first else IGNORED)
                seen |= {word} if first else set()


def epoch_order(lengths: np.ndarray, batch_size: int, order: str, seed: int) -> list[np.ndarray]:
    """Row numbers of each batch."""
    rows = np.random.default_rng(seed).permutation(len(lengths))
    if order == "length_grouped":
        step = WINDOW * batch_size
        windows = [rows[i : i + step] for i in range(0, len(rows), step)]
        rows = np.concatenate([w[np.argsort(-lengths[w], kind="stable")] for w in windows])
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]


class Recipe:
    """Model, data and optimiser of one run."""

    def __init__(self, options: argparse.Namespace):
        random.seed(options.seed)
        np.random.seed(options.seed)
        torch.manual_seed(options.seed)
        torch.set_num_threads(options.threads)
        self.options = options
        train, test = TASKS[options.task](Path(options.data))
        tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        self.kind = {float: "number", list: "tags"}.get(type(train[0][1]), "label")
        self.train, self.test = (self._rows(tokenizer, rows) for rows in (train, test))
        self.lengths = np.array([len(row.ids) for row in self.train])
        self.tags = TAGS.get(options.task, [])
        if self.kind == "tags":
            auto, outputs = transformers.AutoModelForTokenClassification, len(self.tags)
        else:
            auto = transformers.AutoModelForSequenceClassification
            outputs = 1 if self.kind == "number" else 1 + max(row.label for row in self.train)
        base = auto.from_pretrained(options.model, num_labels=outputs)
        lora = peft.LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["query", "value"],
            lora_dropout=0.0,
            task_type="TOKEN_CLS" if self.kind == "tags" else "SEQ_CLS",
            layers_to_transform=options.layers,
        )
        self.model = peft.get_peft_model(base, lora)
        live = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(live, lr=options.lr, weight_decay=0.0, foreach=True)
        self.steps = int(np.ceil(options.epochs * -(-len(self.train) // options.batch_size)))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: max(0.0, 1 - s / self.steps))

    def _rows(self, tokenizer: Tokenizer, rows: Any) -> list[Row]:
        encoded = tokenizer.encode_batch([text for text, _ in rows], is_pretokenized=self.kind == "tags")
        return [Row(encoding, label) for encoding, (_, label) in zip(encoded, rows, strict=True)]

    def _batch(self, rows: list[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        longest = max(len(row.ids) for row in rows)
        inputs = {
            name: np.zeros((len(rows), longest), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        tags = np.full((len(rows), longest), IGNORED, np.int64)
        for i, row in enumerate(rows):
            real = slice(len(row.ids))
            inputs["input_ids"][i, real], inputs["attention_mask"][i, real] = row.ids, 1
            inputs["token_type_ids"][i, real] = row.segments
            if self.kind == "tags":
                tags[i, real] = row.label
        labels = torch.from_numpy(tags) if self.kind == "tags" else torch.tensor([row.label for row in rows])
        return {name: torch.from_numpy(value) for name, value in inputs.items()}, labels

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.kind == "number":
            return torch.nn.functional.mse_loss(logits[:, 0], labels)
        if self.kind == "tags":
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return torch.nn.functional.cross_entropy(logits, labels)

    def run(self, batches: list[np.ndarray]) -> dict[str, float]:
        """Trains on these batches; returns seconds and what was computed."""
        self.model.train()
        padded = real = rows = 0
        wall, cpu = time.perf_counter(), time.process_time()
        for numbers in batches:
            inputs, labels = self._batch([self.train[i] for i in numbers])
            loss = self._loss(self.model(**inputs).logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            padded += labels.shape[0] * inputs["input_ids"].shape[1]
            real += int(self.lengths[numbers].sum())
            rows += len(numbers)
        return {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "rows": rows,
            "real_tokens": real,
            "padded_tokens": padded,
        }

    @torch.inference_mode()
    def predict(self, batch_size: int) -> dict[str, Any]:
        """Inference over the test rows sorted by length."""
        self.model.eval()
        order = sorted(range(len(self.test)), key=lambda i: len(self.test[i].ids))
        predicted: list[Any] = [None] * len(self.test)
        wall, cpu = time.perf_counter(), time.process_time()
        for i in range(0, len(order), batch_size):
            rows = order[i : i + batch_size]
            inputs, _ = self._batch([self.test[j] for j in rows])
            logits = self.model(**inputs).logits
            decided = logits[:, 0] if self.kind == "number" else logits.argmax(-1)
            for j, answer in zip(rows, decided.numpy(), strict=True):
                predicted[j] = answer
        seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
        truth = [row.label for row in self.test]
        found = entity_scores(truth, predicted, self.tags) if self.kind == "tags" else None
        if found is None:
            compare = number_scores if self.kind == "number" else scores
            found = compare(np.array(truth), np.array(predicted))
        return {"seconds": seconds, "cpu_seconds": cpu, "rows": len(order), **found}


def number_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Correlations by scipy."""
    from scipy.stats import pearsonr, spearmanr

    return {
        "pearson": float(pearsonr(truth, predicted)[0]),
        "spearman": float(spearmanr(truth, predicted)[0]),
        "mse": float(np.square(truth - predicted).mean()),
    }


def entity_scores(truth: list[Any], predicted: list[Any], tags: list[str]) -> dict[str, float]:
    """Entities by seqeval, at first sub-words."""
    from seqeval.metrics import accuracy_score, f1_score

    left = [[tags[t] for t in row if t != IGNORED] for row in truth]
    right = [
        [tags[p] for p, t in zip(guess[: len(row)], row, strict=True) if t != IGNORED]
        for guess, row in zip(predicted, truth, strict=True)
    ]
    return {"entity_f1": float(f1_score(left, right)), "accuracy": float(accuracy_score(left, right))}


def scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and Matthews' coefficient, the last two by scikit-learn."""
    from sklearn.metrics import f1_score, matthews_corrcoef

    return {
        "accuracy": float((truth == predicted).mean()),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
        "matthews": float(matthews_corrcoef(truth, predicted)),
    }


def versions() -> dict[str, str]:
    return {m.__name__: m.__version__ for m in (torch, transformers, peft, np)}


def obey(recipe: Recipe) -> None:
    """One JSON command a line on stdin, one JSON answer a line on stdout."""
    batch_size, seed = recipe.options.batch_size, recipe.options.seed
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "quit":
            return
        if command["cmd"] == "train":
            batches = epoch_order(recipe.lengths, batch_size, command["order"], seed + 1000 * command["epoch"])
            answer: dict[str, Any] = recipe.run(batches[slice(*command["batches"])])
        elif command["cmd"] == "predict":
            answer = recipe.predict(command["batch_size"])
        else:
            answer = {
                "versions": versions(),
                "threads": torch.get_num_threads(),
                "batches": -(-len(recipe.train) // batch_size),
            }
        print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--order", choices=("random", "length_grouped"), default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--layers", type=int, nargs="*", help="blocks to adapt (default: all)")
    parser.add_argument("--curve", action="store_true", help="score the test rows after each epoch, unpaid")
    parser.add_argument("--out", help="store the adapter in this folder")
    parser.add_argument("--worker", action="store_true", help="obey commands on stdin")
    options = parser.parse_args()
    options.begun = psutil.Process().create_time()
    recipe = Recipe(options)
    if options.worker:
        return obey(recipe)
    totals = {"seconds": 0.0, "cpu_seconds": 0.0}
    epoch = 0
    curve: list[dict[str, float]] = []
    unpaid = (0.0, 0.0)  # wall and CPU seconds of scoring for the curve
    left = recipe.steps
    while left:
        batches = epoch_order(recipe.lengths, options.batch_size, options.order, options.seed + 1000 * epoch)[:left]
        done = recipe.run(batches)
        totals = {name: totals[name] + done[name] for name in totals}
        left -= len(batches)
        epoch += 1
        print(f"epoch {epoch}: {done['seconds']:.0f} s", file=sys.stderr, flush=True)
        if options.curve and left:
            before = time.time(), sum(os.times()[:2])
            spent = before[0] - options.begun - unpaid[0], before[1] - unpaid[1]
            found = recipe.predict(64)["accuracy"]
            curve.append({"seconds": spent[0], "cpu_seconds": spent[1], "accuracy": found})
            unpaid = unpaid[0] + time.time() - before[0], unpaid[1] + sum(os.times()[:2]) - before[1]
    if options.out:
        recipe.model.save_pretrained(options.out)
    result = {
        "stored_after": time.time() - options.begun - unpaid[0],
        "stored_cpu_seconds": sum(os.times()[:2]) - unpaid[1],
        "curve": curve,
        "task": options.task,
        "epochs": options.epochs,
        "lr": options.lr,
        "order": options.order,
        "seed": options.seed,
    }
    print(json.dumps({**result, "train": totals, "test": recipe.predict(64), "versions": versions()}), flush=True)
    return None


if __name__ == "__main__":
    main()
