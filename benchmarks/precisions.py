"""Precisions of MiniLM in one process: the frozen forward pass and a LoRA step, each beside float32.

    python -m benchmarks.precisions [--rounds 15] [--steps 9] [--peers .venv-peers/bin/python]

all-MiniLM-L6-v2, random ids without padding. The forward pass runs all blocks and keeps the last states; the step
trains LoRA of rank 8 on query and value in every block, without dropout. In each round every precision takes one turn;
figures are medians of the ratios to float32's turn of the same round. The first two rounds are warm-up. Also stated:
bytes of the trunk, and the smallest cosine of mean-pooled states. With `--peers` the forward pass also takes turns with
PyTorch, OpenVINO and onnxruntime in a process of their own (`peers/forward_passes.py`).
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.forward import states_at
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.exchange.importing import minilm_folder
from backbone.home import resolve_backbone
from backbone.precisions.precision import FLOAT32, Precision
from backbone.storage import Backbone, in_precision, load_backbone
from backbone.trees import map_leaves
from backbone.variants.registered import variants
from benchmarks.peft_lora import Worker
from benchmarks.results import parsed, spread, write
from trainers.config import Optimizer
from trainers.fitting.step import first_state, make_optimizer, make_step

FORWARD = ((32, 16), (32, 32), (32, 64), (8, 128))  # rows and tokens of a pass
TRAINED = ((32, 16), (32, 32), (32, 64))  # rows and tokens of a step
LABELS = ("a", "b", "c", "d")
PEERS = (
    *("torch float32", "torch bfloat16", "openvino float32", "openvino bfloat16"),
    *("onnxruntime float32", "onnxruntime int8"),
)
Making = Callable[[int, int], Callable[[], Any]]  # rows and tokens to what is timed
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


def peers(stack: ExitStack, python: str) -> dict[str, Making]:
    """Starts the other engines, and returns their forward passes; a call takes a tenth of a millisecond more."""
    words = [python, "benchmarks/peers/forward_passes.py", "--model", str(minilm_folder())]
    worker = stack.enter_context(Worker(words))

    def made(side: str, rows: int, tokens: int) -> Callable[[], Any]:
        return functools.partial(worker.ask, cmd="pass", side=side, rows=rows, tokens=tokens)

    return {side: functools.partial(made, side) for side in PEERS}


def measured(part: str, shapes: Sequence[tuple[int, int]], sides: Mapping[str, Making], turns: int) -> dict[str, Any]:
    """Returns every side's seconds and speed at each shape, and its mean speed."""
    cells = {}
    for rows, tokens in shapes:
        runs = {name: make(rows, tokens) for name, make in sides.items()}
        cells[f"{rows}x{tokens}"] = cell = compared(in_turn(runs, turns))
        print(
            part,
            f"{rows}x{tokens}",
            *(f"{n} {1e3 * s['seconds']['median']:.1f} ms x{s['speed']:.2f}" for n, s in cell.items()),
        )
    means = {name: geometric_mean(cells, name) for name in sides}
    print(part, "mean", *(f"{name} x{value:.2f}" for name, value in means.items()))
    return {"shapes": cells, "mean_speed": means}


def against(cells: Mapping[str, Any], name: str, others: Sequence[str]) -> dict[str, float]:
    """Returns a precision's speed over that of the fastest peer at each shape, by medians, and the geometric mean."""
    ratios = {
        shape: min(cell[other]["seconds"]["median"] for other in others) / cell[name]["seconds"]["median"]
        for shape, cell in cells.items()
    }
    return {**ratios, "mean": math.exp(float(np.mean(np.log(list(ratios.values())))))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="measured turns of each forward pass")
    parser.add_argument("--steps", type=int, default=9, help="measured turns of each step")
    parser.add_argument("--peers", help="Python of the environment with torch, openvino and onnxruntime")
    options, provenance = parsed(parser)
    plain = load_backbone(resolve_backbone("minilm"), precision=FLOAT32)
    trunks = {FLOAT32: plain} | {tag: in_precision(plain, tag) for tag in variants(Precision) if tag != FLOAT32}
    with ExitStack() as stack:
        others = peers(stack, options.peers) if options.peers else {}
        passes = {name: functools.partial(forward_of, trunk) for name, trunk in trunks.items()} | others
        forward = measured("forward", FORWARD, passes, options.rounds)
    steps = {name: functools.partial(step_of, trunk) for name, trunk in trunks.items()}
    parts = {"forward": forward, "lora_step": measured("lora_step", TRAINED, steps, options.steps)}
    if others:
        parts["against_fastest_peer"] = {name: against(forward["shapes"], name, tuple(others)) for name in trunks}
        print("against the fastest peer", parts["against_fastest_peer"])
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
