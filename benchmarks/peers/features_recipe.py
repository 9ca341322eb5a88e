"""Mean-pooled features from PyTorch, then scikit-learn's logistic regression: no gradient at all.

    python -m benchmarks.peers.features_recipe --model DIR --rows FOLDER --out FILE [--dtype bfloat16] [--strength 10]

FOLDER holds train.csv and test.csv with the columns text and label. Without --strength it is chosen by
cross-validation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from tokenizers import Tokenizer

BATCH = 64


@torch.inference_mode()
def features(model: torch.nn.Module, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Mean of the last hidden states over real tokens, float32 [N,D]; rows sorted by length."""
    encoded = [e.ids for e in tokenizer.encode_batch(texts)]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    out = None
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        longest = max(len(encoded[i]) for i in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, i in enumerate(rows):
            ids[place, : len(encoded[i])] = torch.tensor(encoded[i])
            mask[place, : len(encoded[i])] = 1
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
        out = np.zeros((len(texts), pooled.shape[1]), np.float32) if out is None else out
        out[rows] = pooled
    assert out is not None
    return out


def read(file: Path) -> list[tuple[str, str]]:
    """Text and label of each row."""
    with file.open(newline="", encoding="utf-8") as rows:
        return [(row["text"], row["label"]) for row in csv.DictReader(rows)]


def classifier_of(strength: float | None) -> Any:
    """Logistic regression on features of unit length; its C is given, or chosen by stratified cross-validation."""
    regression = LogisticRegression(C=strength or 1.0, max_iter=1000)
    if strength is None:
        regression = GridSearchCV(regression, {"C": [0.1, 1.0, 10.0, 100.0]}, cv=StratifiedKFold(5), n_jobs=1)
    return make_pipeline(Normalizer(), regression)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--strength", type=float, help="C of the logistic regression")
    options = parser.parse_args()
    begun = psutil.Process().create_time()
    torch.set_num_threads(os.cpu_count() or 1)
    train, test = (read(options.rows / f"{name}.csv") for name in ("train", "test"))
    tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    model = transformers.AutoModel.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    classifier = classifier_of(options.strength)
    classifier.fit(features(model, tokenizer, [text for text, _ in train]), [label for _, label in train])
    Path(options.out).write_bytes(pickle.dumps(classifier))
    stored = {"stored_after": time.time() - begun, "stored_cpu_seconds": sum(os.times()[:2])}
    predicted = classifier.predict(features(model, tokenizer, [text for text, _ in test]))
    accuracy = float((predicted == np.array([label for _, label in test])).mean())
    print(json.dumps({**stored, "test": {"accuracy": accuracy}}), flush=True)


if __name__ == "__main__":
    main()
