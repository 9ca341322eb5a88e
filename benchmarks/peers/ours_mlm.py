"""Topgraft's side of `benchmarks/pretrain.py`: the loop's own parts, obeying a parent line by line.

The commands are those of `mlm_recipe.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from backbone.home import use_compilation_cache
from backbone.network.encoder import Network
from backbone.records import decode
from backbone.spec import EncoderSpec
from backbone.trees import count
from trainers.config.load import load_as, versions
from trainers.fitting.step import first_state, no_sums, partition, step_of
from trainers.pretraining.config import BackboneConfig
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material
from trainers.pretraining.tokenizers.tokenizer import read_tokenizer


class Recipe:
    """Data, network and state of one run of a config."""

    def __init__(self, folder: Path, dtype: str):
        use_compilation_cache()
        recipe = json.loads((folder / "recipe.json").read_text())
        ids = np.load(folder / "ids.npy")
        fields = {name: recipe[name] for name in ("steps", "batch_size")} | {"objective.fraction": recipe["fraction"]}
        overrides = (*(f"{name}={value}" for name, value in fields.items()), f"compute_dtype={dtype}")
        config = load_as(BackboneConfig, "text_mlm", overrides)
        network = Network(decode(EncoderSpec, recipe["spec"]))
        material = Material(
            network=network,
            preprocessing=read_tokenizer(folder / "tokenizer.json", ids.shape[1]),
            family="bert",
            fingerprint={},
            splits={"train": {"ids": ids}, "held_out": {"ids": ids[:1]}},
            special=tuple(recipe["special"]),
            mask_id=recipe["mask_id"],
        )
        self.task = BackboneTask(config, material)
        head = config.objective.init_head(material, jax.random.key(0))
        params = {"backbone": network.init(0), "head": head}
        self.parameters = count(params)
        live, frozen = partition(params, self.task.is_live)
        optimizer = self.task.optimizer()
        self.step = step_of(self.task.loss, optimizer, seed=0)
        self.state, self.frozen = jax.device_put((first_state(live, optimizer), frozen))

    def run(self, first: int, last: int) -> dict[str, float]:
        """Trains on the batches first..last of the recipe's order."""
        size = self.task.config.batch_size
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(first, last):
            batch = self.task.material.batch("train", np.arange(number * size, (number + 1) * size), size)
            self.state = self.step(self.state, self.frozen, jax.device_put(batch))
        sums = {name: float(value) for name, value in jax.device_get(self.state["sums"]).items()}
        self.state = {**self.state, "sums": no_sums()}
        return {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "tokens": (last - first) * size * self.task.material.tokens,
            "loss": sums["loss"] / max(sums["rows"], 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="recipe.json and ids.npy")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    recipe = Recipe(options.folder, options.dtype)
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "train":
            answer: dict[str, Any] = recipe.run(*command["batches"])
        else:
            answer = {"versions": versions(), "parameters": recipe.parameters}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
