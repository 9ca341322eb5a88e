"""AdapterHub's side of `benchmarks/methods.py`, with the protocol of `peft_methods.py`.

    {"cmd": "measure", "config": {"name": "SeqBnConfig", ...}, "rows": 32, "length": 32, "steps": 10, "labels": 10}

`config` is a configuration of `adapters` by the name of its class, and its fields. Needs torch, transformers and
adapters; no jax.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import torch
import transformers

import adapters


def measure(model_path: str, command: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step and the number of trainable parameters."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=command["labels"])
    adapters.init(model)
    fields = dict(command["config"])
    model.add_adapter("measured", config=getattr(adapters, fields.pop("name"))(**fields))
    model.train_adapter("measured")
    model.train()
    live = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(live, lr=1e-4, weight_decay=0.0, foreach=True)
    rows, length = command["rows"], command["length"]
    ids = torch.randint(1000, 20000, (rows, length))
    mask, labels = torch.ones_like(ids), torch.randint(command["labels"], (rows,))
    seconds = []
    for _ in range(2 + command["steps"]):
        begun = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    head = sum(parameter.numel() for parameter in model.classifier.parameters() if parameter.requires_grad)
    return {"trainable": sum(parameter.numel() for parameter in live) - head, "seconds": seconds[2:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "versions":
            names = {m.__name__: m.__version__ for m in (torch, transformers, adapters)}
            answer: dict[str, Any] = {f"{name} of adapterhub": version for name, version in names.items()}
        else:
            answer = measure(options.model, command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
