"""Masked language modelling by transformers' BertForMaskedLM, at its best: `benchmarks/pretrain.py`'s other side.

Obeys a parent process line by line. float32, AdamW with decay on matrices only, clipping, linear decay,
scaled-dot-product attention; the head runs on the masked positions only. Needs torch and transformers; no jax.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

EXCLUDED = ("bias", "LayerNorm.weight")  # of weight decay


class Recipe:
    """Model, data and optimiser of one run."""

    def __init__(self, options: argparse.Namespace):
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        self.recipe = json.loads((options.folder / "recipe.json").read_text())
        self.ids = torch.from_numpy(np.load(options.folder / "ids.npy").astype(np.int64))
        config = transformers.BertConfig(
            **self.recipe["bert"],
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.dropout,
            attn_implementation="sdpa",
        )
        self.model = transformers.BertForMaskedLM(config).train()
        named = list(self.model.named_parameters())
        plain = [p for name, p in named if name.endswith(EXCLUDED)]
        decayed = [p for name, p in named if not name.endswith(EXCLUDED)]
        groups = [
            {"params": decayed, "weight_decay": self.recipe["weight_decay"]},
            {"params": plain, "weight_decay": 0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.recipe["learning_rate"], foreach=True)
        steps = self.recipe["steps"]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: max(0.0, 1 - s / steps))
        self.special = torch.tensor(self.recipe["special"])

    def masked(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids with masks, positions [B,K]): the rule of our own objective."""
        lots = torch.rand(ids.shape).masked_fill(torch.isin(ids, self.special), -1.0)
        positions = lots.topk(self.recipe["slots"], dim=1).indices
        chosen = ids.gather(1, positions)
        lot = torch.rand(chosen.shape)
        other = torch.randint(0, self.recipe["bert"]["vocab_size"], chosen.shape)
        written = torch.where(lot < 0.8, self.recipe["mask_id"], torch.where(lot < 0.9, other, chosen))
        return ids.scatter(1, positions, written), positions

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        shown, positions = self.masked(ids)
        hidden = self.model.bert(input_ids=shown).last_hidden_state
        hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(self.model.cls(hidden), ids.gather(1, positions).flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe["clip_norm"], foreach=True)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def run(self, first: int, last: int) -> dict[str, float]:
        """Trains on the batches first..last of the recipe's order."""
        size = self.recipe["batch_size"]
        wall, cpu = time.perf_counter(), time.process_time()
        losses = [self.step(self.ids[i * size : (i + 1) * size]) for i in range(first, last)]
        return {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "tokens": (last - first) * size * self.ids.shape[1],
            "loss": float(torch.stack(losses).mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="recipe.json and ids.npy")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    recipe = Recipe(parser.parse_args())
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "train":
            answer: dict[str, Any] = recipe.run(*command["batches"])
        else:
            parameters = sum(p.numel() for p in recipe.model.parameters())
            versions = {m.__name__: m.__version__ for m in (torch, transformers, np)}
            answer = {"versions": versions, "threads": torch.get_num_threads(), "parameters": parameters}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
