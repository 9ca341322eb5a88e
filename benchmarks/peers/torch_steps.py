"""What the sides of `benchmarks/methods.py` on PyTorch share: timed training steps, and obeying a parent line by line.

    {"cmd": "measure", "config": {...}, "rows": 32, "length": 32, "steps": 10, "labels": 10}

answers the trainable parameters and the seconds of each training step (AdamW, float32, random ids, after two
steps of warm-up). Needs torch; no jax. Imported by scripts that are run by path, from their own folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

WARM_UP = 2  # steps


def timed(model: Any, command: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the head, and the seconds of each step of a transformers classifier."""
    live = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(live, lr=1e-4, weight_decay=0.0, foreach=True)
    rows, length = command["rows"], command["length"]
    ids = torch.randint(1000, 20000, (rows, length))
    mask, labels = torch.ones_like(ids), torch.randint(command["labels"], (rows,))
    seconds = []
    for _ in range(WARM_UP + command["steps"]):
        begun = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    total = sum(parameter.numel() for parameter in live)
    head = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "classifier" in name)
    return {"trainable": total - head, "seconds": seconds[WARM_UP:]}


def obey(about: str, measure: Callable[[str, dict[str, Any]], dict[str, Any]], versions: Mapping[str, str]) -> None:
    """Answers a parent's lines until there are no more; `measure` gets the model's folder and the command."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for line in sys.stdin:
        command = json.loads(line)
        answer = dict(versions) if command["cmd"] == "versions" else measure(options.model, command)
        print(json.dumps(answer), flush=True)
