"""Precisions of MiniLM in one process: the frozen forward pass and a LoRA step, each beside float32.

    python -m benchmarks.precisions [--rounds 15] [--steps 9]

all-MiniLM-L6-v2, random ids without padding. The forward pass runs all blocks and keeps the last states; the step
trains LoRA of rank 8 on query and value in every block, without dropout. In each round every precision takes one turn;
figures are medians of the ratios to float32's turn of the same round. The first two rounds are warm-up. Also stated:
bytes of the trunk, and the smallest cosine of mean-pooled states.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.forward import states_at
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.home import resolve_backbone
from backbone.precisions.precision import FLOAT32, Precision
from backbone.storage import Backbone, in_precision, load_backbone
from backbone.trees import map_leaves
from backbone.variants.registered import variants
from benchmarks.results import parsed, spread, write
from trainers.config import Optimizer
from trainers.fitting.step import first_state, make_optimizer, make_step

FORWARD = ((32, 16), (32, 32), (32, 64), (8, 128))  # rows and tokens of a pass
TRAINED = ((32, 16), (32, 32), (32, 64))  # rows and tokens of a step
LABELS = ("a", "b", "c", "d")
WARM_UP = 2


def drawn(rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Returns ids int32 [B,T] and a full mask."""
    ids = np.random.default_rng(0).integers(1000, 20000, (rows, tokens)).astype(np.int32)
    return {"ids": ids, "mask": np.ones((rows, tokens), bool)}


def forward_of(trunk: Backbone, rows: int, tokens: int) -> Callable[[], Any]:
    """Returns a forward pass: last states [B,T,D]."""
    model, inputs, last = (
        GraftModel(trunk.network, (), Classification(), LABELS),
        drawn(rows, tokens),
        trunk.spec.blocks,
    )
    return lambda: jax.block_until_ready(states_at(model, trunk.params, {}, inputs, (last,))[last])


def step_of(trunk: Backbone, rows: int, tokens: int) -> Callable[[], Any]:
    """Returns a training step of LoRA on query and value."""
    model = GraftModel(trunk.network, (Lora(rank=8),), Classification(), LABELS)
    optimizer = make_optimizer(Optimizer(learning_rate=1e-4, schedule="constant"), 100)
    step = make_step(model, optimizer, remat=False, seed=0)
    live = map_leaves(np.asarray, model.init(jax.random.key(0)))
    labels, weights = jnp.arange(rows, dtype=jnp.int32) % len(LABELS), jnp.ones(rows)
    batch = jax.device_put({**drawn(rows, tokens), "labels": labels, "weights": weights})
    frozen = jax.device_put({"backbone": trunk.params, "graft": {}})
    state = jax.device_put(first_state(live, optimizer))

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, frozen, batch))

    return run


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of every run in each round after the warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM_UP + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Returns seconds and the median speed of each precision, in float32's turns of the same rounds."""
    return {
        name: {
            "seconds": spread(values),
            "speed": float(np.median(np.divide(seconds[FLOAT32], values))),
            "raw": values,
        }
        for name, values in seconds.items()
    }


def geometric_mean(shapes: dict[str, dict[str, dict[str, Any]]], name: str) -> float:
    """Returns the geometric mean of a precision's speed over shapes."""
    return math.exp(float(np.mean([math.log(shape[name]["speed"]) for shape in shapes.values()])))


def pooled(trunk: Backbone) -> np.ndarray:
    """Returns mean-pooled last states [32,D]."""
    return np.asarray(forward_of(trunk, 32, 32)()).mean(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="measured turns of each forward pass")
    parser.add_argument("--steps", type=int, default=9, help="measured turns of each step")
    options, provenance = parsed(parser)
    plain = load_backbone(resolve_backbone("minilm"), precision=FLOAT32)
    trunks = {FLOAT32: plain} | {tag: in_precision(plain, tag) for tag in variants(Precision) if tag != FLOAT32}
    parts: dict[str, Any] = {}
    for part, shapes, make, turns in (
        ("forward", FORWARD, forward_of, options.rounds),
        ("lora_step", TRAINED, step_of, options.steps),
    ):
        measured = {
            f"{rows}x{tokens}": compared(in_turn({n: make(t, rows, tokens) for n, t in trunks.items()}, turns))
            for rows, tokens in shapes
        }
        parts[part] = {"shapes": measured, "mean_speed": {name: geometric_mean(measured, name) for name in trunks}}
        for shape, sides in measured.items():
            cells = (f"{n} {1e3 * side['seconds']['median']:.1f} ms x{side['speed']:.2f}" for n, side in sides.items())
            print(part, shape, *cells)
        print(part, "mean", *(f"{name} x{value:.2f}" for name, value in parts[part]["mean_speed"].items()))
    states = {name: pooled(trunk) for name, trunk in trunks.items()}
    norms = {name: np.linalg.norm(state, axis=1) for name, state in states.items()}
    facts = {
        name: {
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(trunk.params)),
            "cosine": float(((states[name] * states[FLOAT32]).sum(axis=1) / norms[name] / norms[FLOAT32]).min()),
        }
        for name, trunk in trunks.items()
    }
    print(write("precisions", {"trunks": facts, **parts}, provenance))


if __name__ == "__main__":
    main()
