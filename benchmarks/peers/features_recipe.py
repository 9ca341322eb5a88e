"""Mean-pooled features from PyTorch, then scikit-learn's logistic regression: no gradient at all.

python -m benchmarks.peers.features_recipe --model DIR --task banking77 --data ../shared/data --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import psutil
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer

from benchmarks.peers.tasks import TASKS

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
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
        out = np.zeros((len(texts), pooled.shape[1]), np.float32) if out is None else out
        out[rows] = pooled
    assert out is not None
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    begun = psutil.Process().create_time()
    torch.set_num_threads(os.cpu_count() or 1)
    train, test = TASKS[options.task](Path(options.data))
    tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    model = transformers.AutoModel.from_pretrained(options.model).eval()
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    classifier.fit(features(model, tokenizer, [text for text, _ in train]), [label for _, label in train])
    Path(options.out).write_bytes(pickle.dumps(classifier))
    stored = {"stored_after": time.time() - begun, "stored_cpu_seconds": sum(os.times()[:2])}
    predicted = classifier.predict(features(model, tokenizer, [text for text, _ in test]))
    accuracy = float((predicted == np.array([label for _, label in test])).mean())
    print(json.dumps({**stored, "task": options.task, "test": {"accuracy": accuracy}}), flush=True)


if __name__ == "__main__":
    main()
