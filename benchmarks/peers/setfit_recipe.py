"""SetFit written by hand in PyTorch: contrastive pairs through a whole sentence encoder, then logistic regression.

    python -m benchmarks.peers.setfit_recipe --model DIR --seed 0 FOLDER [FOLDER ...]

Each FOLDER holds train.csv and test.csv with the columns text and label; a line of JSON is printed for each. The method
and its numbers are those of Tunstall et al. 2022 (arXiv 2209.11055), section 3 and appendix A: for each of 20
iterations and each text a pair of equal labels (1) and one of different labels (0), one epoch of batches of 16 pairs,
squared error of the cosine, AdamW at 2e-5 after a warm-up of a tenth, then scikit-learn's logistic regression.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from benchmarks.peers.features_recipe import BATCH, read

ITERATIONS = 20  # pairs of each kind for each text
PAIRS = 16  # pairs of a batch
RATE = 2e-5  # learning rate at the end of the warm-up
WARMUP = 0.1  # share of the steps over which it rises
DECAY = 0.01  # weight decay of AdamW
MAX_TOKENS = 128


def pairs_of(labels: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int, float]]:
    """Draws pairs of texts with 1 for equal labels and 0 for others, in random order."""
    pairs = []
    for _ in range(ITERATIONS):
        for i, label in enumerate(labels):
            pairs.append((i, int(rng.choice(np.flatnonzero(labels == label))), 1.0))
            pairs.append((i, int(rng.choice(np.flatnonzero(labels != label))), 0.0))
    return [pairs[i] for i in rng.permutation(len(pairs))]


def embedded(model: torch.nn.Module, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Returns mean-pooled last states of unit length, float32 [N,D], as all-MiniLM-L6-v2 defines its embeddings."""
    longest = max(map(len, ids))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(pooled, dim=1)


def contrasted(model: torch.nn.Module, ids: Sequence[Sequence[int]], labels: np.ndarray, seed: int) -> None:
    """Trains the encoder on pairs of the rows, in place."""
    torch.manual_seed(seed)
    pairs = pairs_of(labels, np.random.default_rng(seed))
    steps = math.ceil(len(pairs) / PAIRS)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * steps), steps)
    model.train()
    for first in range(0, len(pairs), PAIRS):
        batch = pairs[first : first + PAIRS]
        left, right = embedded(model, [ids[i] for pair in batch for i in pair[:2]]).unflatten(0, (-1, 2)).unbind(1)
        target = torch.tensor([pair[2] for pair in batch])
        torch.nn.functional.mse_loss((left * right).sum(1), target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


@torch.inference_mode()
def features(model: torch.nn.Module, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns the embeddings float32 [N,D] of rows, computed in order of their lengths."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts = [embedded(model, [ids[i] for i in order[at : at + BATCH]]) for at in range(0, len(order), BATCH)]
    out = np.zeros((len(ids), parts[0].shape[1]), np.float32)
    out[order] = torch.cat(parts).numpy()
    return out


def run(folder: Path, model_folder: str, tokenizer: Tokenizer, seed: int) -> dict[str, Any]:
    """Trains on a folder's train rows, and returns seconds of the training and accuracy on the test rows."""
    start = time.perf_counter()
    train, test = (read(folder / f"{name}.csv") for name in ("train", "test"))
    ids, test_ids = ([e.ids for e in tokenizer.encode_batch([text for text, _ in rows])] for rows in (train, test))
    names = sorted({label for _, label in train})
    labels = np.array([names.index(label) for _, label in train])
    model = transformers.AutoModel.from_pretrained(model_folder, dtype=torch.float32)
    contrasted(model, ids, labels, seed)
    classifier = LogisticRegression().fit(features(model, ids), [label for _, label in train])
    seconds = time.perf_counter() - start
    predicted = classifier.predict(features(model, test_ids))
    return {"train_seconds": seconds, "accuracy": float(np.mean(predicted == np.array([label for _, label in test])))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    for folder in options.folders:
        print(json.dumps(run(folder, options.model, tokenizer, options.seed)), flush=True)


if __name__ == "__main__":
    main()
