"""Topgraft's side of `benchmarks.device.speed`: the frozen pass and the steps of training, on a device.

Precisions are those of a trunk. `float32` is multiplied as jax does by itself, on a GPU in TF32; `float32_exact` with
the precision "highest".
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from adapters.forward import states_at
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.buckets import TokenRow, lengths_up_to
from backbone.network.encoder import Network
from backbone.precisions.precision import precision_named
from backbone.trees import map_leaves
from benchmarks.device.shapes import Work, works
from benchmarks.device.turns import Side, obey
from trainers.config import Optimizer
from trainers.data.batches import Batch, Examples, States, batches
from trainers.data.order import Order
from trainers.fitting.step import first_state, make_optimizer, make_step, partition
from trainers.fitting.task import live_from

EXACT = "float32_exact"


def precise(precision: str) -> Any:
    """Returns the context in which a precision's programs are traced."""
    return jax.default_matmul_precision("highest") if precision == EXACT else contextlib.nullcontext()


class Trunk:
    """Random weights of a shape in a precision, and rows whose first token is their number."""

    def __init__(self, work: Work, precision: str):
        self.work, self.precision, self.network = work, precision, Network(work.spec)
        weights = map_leaves(np.asarray, self.network.init(0))
        self.params = jax.device_put(precision_named(precision.removesuffix("_exact")).prepare(weights))
        draw = np.random.default_rng(0)
        ids = draw.integers(1000, 20000, (work.rows, work.tokens)).astype(np.int32)
        ids[:, 0] = np.arange(work.rows)
        labels = draw.integers(0, work.classes, work.rows).astype(np.int32)
        self.examples = Examples(list(ids), labels, lengths_up_to(work.tokens))

    def fill(self, fetched: bool) -> Side:
        """Returns a pass to the boundary below the top two, as a fill runs it; `fetched`: the states reach the host."""
        model = GraftModel(self.network, (), Classification(), tuple(map(str, range(self.work.classes))))
        boundary, size = self.work.spec.blocks - 2, self.work.filled
        ids = np.stack(self.examples.rows[:size])
        inputs = {"ids": ids, "mask": np.ones(ids.shape, bool)}

        def run(steps: int) -> None:
            with precise(self.precision):
                for _ in range(steps):
                    states = states_at(model, self.params, {}, inputs, (boundary,))[boundary]
                    if fetched:
                        np.asarray(states)
            jax.block_until_ready(states)

        return run

    def steps(self, boundary: int, states: States | None) -> Side:
        """Returns steps of LoRA from a boundary on, through the loop's own step and input."""
        spec = self.work.spec
        labels = tuple(map(str, range(self.work.classes)))
        model = GraftModel(self.network, (Lora(blocks=f"{boundary}:"),), Classification(), labels)
        optimizer = make_optimizer(Optimizer(learning_rate=1e-4, schedule="constant"), 1000)
        live, frozen = partition(map_leaves(np.asarray, model.init(jax.random.key(0))), live_from(boundary))
        blocks = {str(i): self.params["blocks"][str(i)] for i in range(boundary, spec.blocks)}
        everything = {"backbone": {**self.params, "blocks": blocks}, "graft": jax.device_put(frozen)}
        state = jax.device_put(first_state(live, optimizer))
        step, stream = make_step(model, optimizer, remat=False, seed=0), self.batches(states)

        def run(steps: int) -> None:
            nonlocal state
            with precise(self.precision):
                for batch in itertools.islice(stream, steps):
                    state = step(state, everything, batch)
            jax.block_until_ready(state)

        return run

    def batches(self, states: States | None) -> Iterator[Batch]:
        order = Order(self.examples.buckets, self.work.batch, seed=0)
        for epoch in itertools.count():
            yield from batches(self.examples, order, epoch, 0, 1, states)

    def kept(self, boundary: int) -> tuple[States, States]:
        """Returns what gives a batch its states [B,T,D]: gathered on the host, and taken from a table on the device."""
        work = self.work
        host = np.random.default_rng(1).normal(size=(work.rows, work.tokens, work.spec.width)).astype(np.float32)
        table, take = jax.device_put(host), jax.jit(lambda table, numbers: table[numbers])

        def gathered(rows: Sequence[TokenRow], bucket: int) -> dict[int, Any]:
            return {boundary: host[[row[0] for row in rows]]}

        def taken(rows: Sequence[TokenRow], bucket: int) -> dict[int, Any]:
            return {boundary: take(table, jax.device_put(np.array([row[0] for row in rows])))}

        return gathered, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    sizes = works(parser.parse_args().tiny)

    def prepare(shape: str, precision: str) -> Mapping[str, Side]:
        trunk = Trunk(sizes[shape], precision.removesuffix(" every block"))
        if precision.endswith(" every block"):
            return {"every block": trunk.steps(0, None)}
        boundary = trunk.work.spec.blocks - 2
        host, device = trunk.kept(boundary)
        return {
            "fill": trunk.fill(fetched=False),
            "fill, fetched": trunk.fill(fetched=True),
            "top two, states on the host": trunk.steps(boundary, host),
            "top two, states on the device": trunk.steps(boundary, device),
        }

    obey(prepare)


if __name__ == "__main__":
    main()
