"""PyTorch's side of `benchmarks/serving.py`: PEFT's mixed batches, and one merged model for each task.

    {"cmd": "run", "side": "mixed", "texts": [...], "names": ["t0", "t1", ...]}

answers the seconds of one pass, tokenizing included, each row under the adapter of its name. `plain` is the model
without adapters, `mixed` PEFT's `adapter_names` (LoRA r8 on query and value, a classifier for each adapter), `merged`
one model with the adapter folded in for each task, called once for the rows of its task; they share the embeddings,
which LoRA leaves alone. `check` answers the largest difference of the logits of `mixed` and `merged`. Needs torch,
transformers and peft; no jax.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from tokenizers import Tokenizer


class Peers:
    """A plain model, PEFT's model of all adapters, and their merged models."""

    def __init__(self, options: argparse.Namespace):
        torch.manual_seed(0)
        self.tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)
        self.names = [f"t{number}" for number in range(options.adapters)]
        auto = transformers.AutoModelForSequenceClassification
        self.plain = auto.from_pretrained(options.model, num_labels=options.labels).eval()
        config = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], "init_lora_weights": False}
        base = auto.from_pretrained(options.model, num_labels=options.labels)
        lora = peft.LoraConfig(task_type="SEQ_CLS", **config)
        self.mixed = peft.get_peft_model(base, lora, adapter_name=self.names[0])
        for name in self.names[1:]:
            self.mixed.add_adapter(name, lora)
        self.mixed.eval()
        with torch.no_grad():
            for name, parameter in self.mixed.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        self.merged = {name: self.fold(name) for name in self.names}

    @torch.no_grad()
    def fold(self, name: str) -> torch.nn.Module:
        """The plain model with one adapter folded into its weights."""
        shared = {id(weights): weights for weights in self.plain.base_model.embeddings.parameters()}
        model = copy.deepcopy(self.plain, shared)
        prefix = "base_model.model."
        for path, module in self.mixed.named_modules():
            if name in getattr(module, "lora_A", {}):
                model.get_submodule(path.removeprefix(prefix)).weight.add_(module.get_delta_weight(name))
        model.classifier.load_state_dict(self.mixed.base_model.model.classifier.modules_to_save[name].state_dict())
        return model

    def encoded(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Ids and mask, padded to the longest row."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    @torch.inference_mode()
    def logits(self, side: str, texts: list[str], names: list[str]) -> torch.Tensor:
        """Logits [N,C] of each text under the adapter of its name."""
        inputs = self.encoded(texts)
        if side == "plain":
            return self.plain(**inputs).logits
        if side == "mixed":
            return self.mixed(**inputs, adapter_names=names).logits
        parts: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        for name in dict.fromkeys(names):
            chosen = [number for number, own in enumerate(names) if own == name]
            rows = torch.tensor(chosen)
            found = self.merged[name](**{field: value[rows] for field, value in inputs.items()}).logits
            for number, row in zip(chosen, found, strict=True):
                parts[number] = row
        return torch.stack(parts)

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        begun = time.perf_counter()
        self.logits(command["side"], command["texts"], command["names"]).numpy()
        return {"seconds": time.perf_counter() - begun}

    def check(self, command: dict[str, Any]) -> dict[str, Any]:
        one, other = (self.logits(side, command["texts"], command["names"]) for side in ("mixed", "merged"))
        versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
        difference = float((one - other).abs().max())
        return {"difference": difference, "versions": versions, "threads": torch.get_num_threads()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--labels", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peers = Peers(options)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(peers.run(command) if command["cmd"] == "run" else peers.check(command)), flush=True)


if __name__ == "__main__":
    main()
