"""Steps on an accelerator in bfloat16: every block, and the top two on cached states kept on the host or the device.

    python -m benchmarks.accelerator [--precision bfloat16] [--rounds 7] [--steps 50]

MiniLM's architecture with random weights, so that nothing but this checkout is needed; rows of 32 tokens in batches
of 32, through the training loop's own step and input pipeline. The three sides take turns, `steps` at a time:
milliseconds and joules of a step (with the quality of the figure) of each turn, in `results/accelerator.json`. States
on the device are a table of all rows that a batch is taken from by number; on the host they are gathered, and sent
with each batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.buckets import TokenRow, lengths_up_to
from backbone.network.encoder import Network
from backbone.precisions.precision import precision_named
from backbone.spec import EncoderSpec
from backbone.trees import map_leaves
from benchmarks.results import parsed, spread, write
from metering.window import window
from trainers.config import Optimizer
from trainers.data.batches import Batch, Examples, States, batches
from trainers.data.order import Order
from trainers.fitting.step import first_state, make_optimizer, make_step, partition
from trainers.fitting.task import live_from

SPEC = EncoderSpec(blocks=6, width=384, heads=12, mlp_width=1536, vocabulary=30522, positions=512)
ROWS, TOKENS, BATCH, CLASSES = 10_000, 32, 32, 77  # about Banking77
SIDES = ("every block", "top two, states on the host", "top two, states on the device")


def examples() -> Examples:
    """Rows of exactly TOKENS tokens; the first token is the row's number, by which its states are found."""
    draw = np.random.default_rng(0)
    ids = draw.integers(1000, 20000, (ROWS, TOKENS)).astype(np.int32)
    ids[:, 0] = np.arange(ROWS)
    return Examples(list(ids), draw.integers(0, CLASSES, ROWS).astype(np.int32), lengths_up_to(64))


def states_of(side: str, boundary: int) -> States | None:
    """What gives a batch its states [B,T,D] at the boundary; None where every block runs."""
    if side == SIDES[0]:
        return None
    kept = np.random.default_rng(1).normal(size=(ROWS, TOKENS, SPEC.width)).astype(np.float32)
    if side == SIDES[1]:
        return lambda rows, bucket: {boundary: kept[[row[0] for row in rows]]}
    table = jax.device_put(kept)
    take = jax.jit(lambda table, numbers: table[numbers])

    def taken(rows: Sequence[TokenRow], bucket: int) -> dict[int, Any]:
        return {boundary: take(table, jax.device_put(np.array([row[0] for row in rows])))}

    return taken


class Side:
    """One side's parameters, program and batches."""

    def __init__(self, side: str, rows: Examples, precision: str):
        boundary = 0 if side == SIDES[0] else SPEC.blocks - 2
        network = Network(SPEC)
        model = GraftModel(network, (Lora(blocks=f"{boundary}:"),), Classification(), tuple(map(str, range(CLASSES))))
        optimizer = make_optimizer(Optimizer(learning_rate=1e-4, schedule="constant"), 1000)
        live, frozen = partition(map_leaves(np.asarray, model.init(jax.random.key(0))), live_from(boundary))
        trunk = precision_named(precision).prepare(map_leaves(np.asarray, network.init(0)))
        self.state = jax.device_put(first_state(live, optimizer))
        self.everything = jax.device_put({"backbone": trunk, "graft": frozen})
        self.step = make_step(model, optimizer, remat=False, seed=0)
        self.stream = self._batches(rows, states_of(side, boundary))

    def _batches(self, rows: Examples, states: States | None) -> Iterator[Batch]:
        order = Order(rows.buckets, BATCH, seed=0)
        for epoch in itertools.count():
            yield from batches(rows, order, epoch, 0, 1, states)

    def run(self, steps: int) -> None:
        """Steps, waited for."""
        for batch in itertools.islice(self.stream, steps):
            self.state = self.step(self.state, self.everything, batch)
        jax.block_until_ready(self.state)  # type: ignore[no-untyped-call]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--precision", default="bfloat16", help="precision of the trunk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50, help="of each side in a round")
    options, provenance = parsed(parser)
    rows = examples()
    sides = {name: Side(name, rows, options.precision) for name in SIDES}
    runs: list[dict[str, Any]] = []
    for side in sides.values():
        side.run(3)
    for number, (name, side) in itertools.product(range(options.rounds), sides.items()):
        with window(name) as cost:
            side.run(options.steps)
        value = cost.joules.value
        runs.append(
            {
                "round": number,
                "side": name,
                "step_ms": 1e3 * cost.wall_seconds / options.steps,
                "joules": None if value is None else value / options.steps,
                "quality": cost.joules.quality,
            }
        )
    found = {name: spread([run["step_ms"] for run in runs if run["side"] == name]) for name in SIDES}
    whole = statistics.median(run["step_ms"] for run in runs if run["side"] == SIDES[0])
    result = {
        "device": str(jax.devices()[0].device_kind),
        "precision": options.precision,
        "step_ms": found,
        "times_faster_than_every_block": {name: whole / found[name]["median"] for name in SIDES},
    }
    print(json.dumps(result, indent=1))
    print(write("accelerator", {**result, "runs": runs}, provenance))


if __name__ == "__main__":
    main()
