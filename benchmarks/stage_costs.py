"""What stages cost: predicted against measured, memory against full tuning, overhead over plain JAX.

    python -m benchmarks.stage_costs --data ../shared/data

Price: TREC-6 with `geometric(0.5)`, three stages, `topgraft plan` and then `topgraft train`, in a home without cached
states; CPU seconds of whole stages, filling and scores included. Memory: peak resident memory above the level after
imports of 30 steps at 32 x 64 tokens, each side in a process of its own. Overhead: 200 steps of 32 x 16 tokens each of
the loop's own path and of a hand-written step, alternating.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.home import resolve_backbone
from backbone.storage import Backbone, load_backbone
from backbone.trees import map_leaves
from benchmarks.results import ROOT, parsed, spread, write
from metering.window import window
from trainers.config import Optimizer, TrainConfig
from trainers.data.batches import Examples, batches
from trainers.fitting.step import first_state, make_step, partition, step_of
from trainers.fitting.task import GraftTask, live_from

BATCH, TOKENS, CLASSES, STEPS = 32, 64, 77, 200
SHORT = 16  # tokens of the rows that overhead is measured on: the shorter, the more of it there is


def hand_written(backbone: Backbone, scale: float, first: int, rate: optax.GradientTransformation) -> Any:
    """A step of BERT with LoRA on query and value from block `first` on, mean pooling and a linear head."""
    heads, epsilon = backbone.spec.heads, backbone.spec.norm_epsilon

    def norm(p: Any, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]

    def block(p: Any, lora: Any, x: Any, bias: Any) -> Any:
        batch, tokens, width = x.shape
        flat = x.reshape(-1, width)
        q, k, v = jnp.split(flat @ p["attention"]["qkv"]["kernel"] + p["attention"]["qkv"]["bias"], 3, -1)
        if lora:
            q += scale * (flat @ lora["attention/query"]["a"]) @ lora["attention/query"]["b"]
            v += scale * (flat @ lora["attention/value"]["a"]) @ lora["attention/value"]["b"]
        q, k, v = (t.reshape(batch, tokens, heads, -1) for t in (q, k, v))
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(width // heads) + bias)
        mixed = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(-1, width)
        y = norm(
            p["attention"]["norm"], flat + mixed @ p["attention"]["output"]["kernel"] + p["attention"]["output"]["bias"]
        )
        up = jax.nn.gelu(y @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"], approximate=False)
        down = up @ p["mlp"]["down"]["kernel"] + p["mlp"]["down"]["bias"]
        return norm(p["mlp"]["norm"], y + down).reshape(x.shape)

    def loss(live: Any, params: Any, batch: Any) -> Any:
        bias = jnp.where(batch["mask"][:, None, None, :], 0.0, -1e9)
        if "states" in batch:
            hidden = batch["states"][first]
        else:
            e = params["embeddings"]
            hidden = norm(
                e["norm"], e["token"][batch["ids"]] + e["position"][: batch["ids"].shape[1]] + e["segment"][0]
            )
        for i in range(first if "states" in batch else 0, backbone.spec.blocks):
            hidden = block(params["blocks"][str(i)], live["adapter"]["lora"].get(str(i)), hidden, bias)
        weight = batch["mask"][..., None].astype(jnp.float32)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        logits = pooled @ live["head"]["kernel"] + live["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    def step(live: Any, moments: Any, params: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(live, params, batch)
        updates, moments = rate.update(gradient, moments, live)
        return optax.apply_updates(live, updates), moments, value

    return jax.jit(step, donate_argnums=(0, 1))


def examples(backbone: Backbone, count: int, tokens: int) -> Examples:
    """Rows of exactly `tokens` tokens."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(1000, 20000, tokens).astype(np.int32) for _ in range(count)]
    return Examples(rows, draw.integers(0, CLASSES, count).astype(np.int32), backbone.lengths)


def overhead(backbone: Backbone, first: int) -> dict[str, Any]:
    """Seconds of a step on both sides, `first` the boundary (cached states above 0)."""
    model = GraftModel(backbone.network, (Lora(blocks=f"{first}:"),), Classification(), tuple(map(str, range(CLASSES))))
    rows = examples(backbone, BATCH * STEPS // 4, SHORT)
    config = TrainConfig(optimizer=Optimizer(learning_rate=1e-4, schedule="constant"), epochs=5, batch_size=BATCH)
    task = GraftTask(config, model, backbone, rows, None)
    optimizer = task.optimizer()
    live, frozen = partition(map_leaves(np.asarray, model.init(jax.random.key(0))), live_from(first))
    state = jax.device_put(first_state(live, optimizer))
    everything = jax.device_put({"backbone": backbone.params, "graft": frozen})
    step = make_step(model, optimizer, remat=False, seed=0)
    shape = (BATCH, SHORT, backbone.spec.width)
    states = (lambda chosen, bucket: {first: np.full(shape, 0.1, np.float32)}) if first else None

    plain_rate = optax.adamw(1e-4, weight_decay=0.0)
    plain = hand_written(backbone, 2.0, first, plain_rate)
    plain_live = jax.device_put(live)
    moments = plain_rate.init(plain_live)
    made = jax.device_put(rows.gather(SHORT, np.arange(BATCH), BATCH, states))

    def stream() -> Any:
        epoch = 0
        while True:
            yield from batches(rows, task.order, epoch, 0, 1, states)
            epoch += 1

    source, ours, theirs = stream(), [], []
    for number in range(STEPS + 3):
        begun = time.perf_counter()
        state = step(state, everything, next(source))
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]
        middle = time.perf_counter()
        plain_live, moments, value = plain(plain_live, moments, backbone.params, made)
        jax.block_until_ready((plain_live, value))  # type: ignore[no-untyped-call]
        if number >= 3:
            ours.append(middle - begun)
            theirs.append(time.perf_counter() - middle)
    return {
        "topgraft_ms": spread([1e3 * s for s in ours]),
        "plain_ms": spread([1e3 * s for s in theirs]),
        "overhead": statistics.median(ours) / statistics.median(theirs) - 1,
    }


def peak(kind: str) -> int:
    """Peak bytes of 30 steps: LoRA in the top two blocks on cached states, or every weight live.

    Both take the loop's own step, and neither keeps a second copy of the weights.
    """
    backbone = load_backbone(resolve_backbone("minilm"), precision="float32")
    rows, first = examples(backbone, BATCH, TOKENS), backbone.spec.blocks - 2
    model = GraftModel(backbone.network, (Lora(blocks=f"{first}:"),), Classification(), tuple(map(str, range(CLASSES))))
    graft = map_leaves(np.asarray, model.init(jax.random.key(0)))
    weights = backbone.params
    del backbone
    optimizer, states = optax.adamw(1e-4), np.full((BATCH, TOKENS, model.network.spec.width), 0.1, np.float32)

    def loss(live: Any, frozen: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = {name: batch[name] for name in ("ids", "mask")}
        logits = model.logits(live["backbone"], live["graft"], inputs)
        mean = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()
        return mean, batch["weights"].sum()

    with window("steps") as cost:
        if kind == "top":
            live, still = partition(graft, live_from(first))
            frozen = jax.device_put({"backbone": weights, "graft": still})
            step = make_step(model, optimizer, remat=False, seed=0)
            batch = rows.gather(TOKENS, np.arange(BATCH), BATCH, lambda chosen, bucket: {first: states})
        else:
            live, frozen = {"backbone": weights, "graft": graft}, {}
            step = step_of(loss, optimizer, seed=0)
            batch = rows.gather(TOKENS, np.arange(BATCH), BATCH)
        state = jax.device_put(first_state(live, optimizer))
        del weights, live
        for _ in range(30):
            state = step(state, frozen, jax.device_put(batch))
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]
    return int(cost.peak_bytes or 0)


def price(data: str) -> list[dict[str, Any]]:
    """Predicted and measured CPU seconds of each stage, from its first block frozen to its last score."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TOPGRAFT_DATA": data, "TOPGRAFT_HOME": f"{folder}/home", "PYTHONPATH": str(ROOT)}
        settings = (
            "trec6",
            "--set",
            "plan.stages=geometric(0.5)",
            "--set",
            "checkpoint_seconds=0",
            "--workdir",
            f"{folder}/run",
        )
        results = []
        for verb in ("plan", "train"):
            command = [sys.executable, "-m", "topgraft", verb, *settings, "--json", "--quiet"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
            results.append(json.loads(done.stdout.splitlines()[-1])["stages"])
    return [
        {
            "live": wanted["live"],
            "predicted_cpu_seconds": wanted["cpu_seconds"],
            "measured_cpu_seconds": found["cpu_seconds"],
            "error": found["cpu_seconds"] / wanted["cpu_seconds"] - 1,
        }
        for wanted, found in zip(*results, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--peak", choices=("top", "full"), help="internal: print the peak of one side")
    options, provenance = parsed(parser)
    if options.peak:
        print(peak(options.peak))
        return
    stages = price(str(Path(options.data).resolve()))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    peaks = {}
    for kind in ("top", "full"):
        command = [sys.executable, "-m", "benchmarks.stage_costs", "--data", options.data, "--peak", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
        peaks[kind] = int(done.stdout)
    backbone = load_backbone(resolve_backbone("minilm"), precision="float32")
    result = {
        "price": stages,
        "price_median_error": statistics.median(abs(stage["error"]) for stage in stages),
        "price_worst_error": max(abs(stage["error"]) for stage in stages),
        "peak_bytes": peaks,
        "peak_ratio": peaks["top"] / peaks["full"],
        "overhead": {
            "everywhere": overhead(backbone, 0),
            "top two, cached": overhead(backbone, backbone.spec.blocks - 2),
        },
    }
    print(json.dumps(result, indent=1))
    print(write("stage_costs", result, provenance))


if __name__ == "__main__":
    main()
