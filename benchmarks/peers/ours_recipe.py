"""Topgraft's side of `benchmarks/peft_lora.py`: the loop's own parts, obeying a parent line by line.

The commands are those of `peft_recipe.py --worker`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from typing import Any

import jax
import numpy as np

from adapters.graft import Graft
from adapters.model import GraftModel
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.storage import load_backbone
from backbone.trees import map_leaves
from trainers.config.load import load_config, versions
from trainers.data.batches import batches
from trainers.data.examples import load_data
from trainers.fitting.step import first_state, join, make_step, partition
from trainers.fitting.task import GraftTask


class Recipe:
    """Data, model and state of one run of a config."""

    def __init__(self, name: str, overrides: tuple[str, ...] = ()):
        use_compilation_cache()
        plain = ("plan.stages=all", "curriculum.difficulty=none")  # as the other side trains
        config = load_config(name, (*plain, *overrides))
        backbone = load_backbone(resolve_backbone(config.backbone), precision=config.precision)
        data = load_data(config.data, config.head, backbone)
        model = GraftModel(backbone.network, config.methods, data.head, data.labels)
        self.task = GraftTask(config, model, backbone, data.splits["train"], None)
        self.test = data.splits["test"]
        live, frozen = partition(map_leaves(np.asarray, model.init(jax.random.key(config.seed))), lambda path: True)
        optimizer = self.task.optimizer()
        self.step = make_step(model, optimizer, remat=config.remat, seed=config.seed)
        self.state = jax.device_put(first_state(live, optimizer))
        self.everything = jax.device_put({"backbone": backbone.params, "graft": frozen})

    def warm_up(self) -> None:
        """One step and one forward pass in every bucket."""
        train, size = self.task.train, self.task.config.batch_size
        for bucket in np.unique(train.buckets):
            rows = np.flatnonzero(train.buckets == bucket)[:size]
            self.state = self.step(self.state, self.everything, jax.device_put(train.gather(int(bucket), rows, size)))
        self.predict()

    def run(self, epoch: int, first: int, last: int) -> dict[str, float]:
        """Trains on the batches first..last of an epoch."""
        plan = self.task.order.epoch(epoch)[first:last]
        wall, cpu = time.perf_counter(), time.process_time()
        stream = batches(self.task.train, self.task.order, epoch, first, self.task.config.input_threads)
        for batch in islice(stream, len(plan)):
            self.state = self.step(self.state, self.everything, batch)
        jax.block_until_ready(self.state)
        return {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "rows": sum(len(rows) for _, rows in plan),
            "real_tokens": sum(len(self.task.train.rows[i]) for _, rows in plan for i in rows),
            "padded_tokens": sum(bucket * self.task.config.batch_size for bucket, _ in plan),
        }

    def predict(self) -> dict[str, float]:
        """Inference over the test rows."""
        params = join(self.state["live"], self.everything["graft"])
        graft = Graft(self.task.model, params, self.task.backbone, self.task.config.data.max_tokens)
        wall, cpu = time.perf_counter(), time.process_time()
        logits = graft.logits_of_rows(self.test.rows)
        seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
        hits = float((logits.argmax(-1) == self.test.labels).mean())
        return {"seconds": seconds, "cpu_seconds": cpu, "rows": len(self.test), "accuracy": hits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    recipe = Recipe(options.config, tuple(options.set))
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any]
        if command["cmd"] == "quit":
            return
        if command["cmd"] == "train":
            answer = recipe.run(command["epoch"], *command["batches"])
        elif command["cmd"] == "predict":
            answer = recipe.predict()
        else:
            recipe.warm_up()
            answer = {"versions": versions(), "batches": recipe.task.order.ends[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
