"""A step of masked language modelling of a BERT-base at 512 tokens in bfloat16: its share of the peak rate of products.

    MFU = (FLOPs of the products of forward and backward pass) / seconds / (rate of a large bfloat16 product)

The step is the loop's own: float32 weights, bfloat16 states, AdamW, clipping, 15 % of the tokens predicted. Counted
are products alone, the backward pass as two forward passes; nothing that is computed twice counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backbone.network import attention
from backbone.network.encoder import Network
from backbone.spec import EncoderSpec
from backbone.trees import count
from benchmarks.device.part import Part, described, problem
from benchmarks.device.shapes import BERT_BASE, SMALL
from trainers.fitting.step import first_state, partition, step_of
from trainers.pretraining.config import BackboneConfig
from trainers.pretraining.loop import BackboneTask
from trainers.pretraining.material import Material

SIDES = (4096, 8192)  # rows and columns of the square products whose best rate is the peak
STEPS, ROUNDS, WARM_UP = 8, 4, 3
BATCHES = (128, 64, 32)  # rows of a step; the first that fits
BYTES_PER_TOKEN = 0.6e6  # memory of a step, about; batches that would need more than the device has are not tried


def rate(product: Callable[[Any, Any], Any], a: Any, b: Any, flops: float, repeats: int = 20) -> float:
    """Returns the best FLOP/s of a product over five rounds of `repeats` calls."""
    compiled, seconds = jax.jit(product), []
    jax.block_until_ready(compiled(a, b))
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready([compiled(a, b) for _ in range(repeats)][-1])
        seconds.append((time.perf_counter() - start) / repeats)
    return flops / min(seconds)


def products(part: Part) -> float:
    """Measures the peak, and the rates of the shapes of the network; returns the peak."""
    keys = jax.random.split(jax.random.key(0), 2)

    def of(rows: int, inputs: int, outputs: int) -> float:
        a = jax.random.normal(keys[0], (rows, inputs), jnp.bfloat16)
        b = jax.random.normal(keys[1], (inputs, outputs), jnp.bfloat16)
        return rate(lambda a, b: a @ b, a, b, 2.0 * rows * inputs * outputs)

    squares = {str(side): of(side, side, side) for side in ((256,) if part.tiny else SIDES)}
    part.add(square_products=squares, peak=max(squares.values()))
    d, m, rows = BERT_BASE.width, BERT_BASE.mlp_width, 64 if part.tiny else 65536
    shapes = ((d, 3 * d), (d, d), (d, m), (m, d))
    part.add(products_of_the_network={f"{rows}x{i}x{o}": of(rows, i, o) for i, o in shapes})
    return max(squares.values())


def flops_of(spec: EncoderSpec, rows: int, tokens: int, slots: int) -> float:
    """Returns the FLOPs of the products of a step."""
    d, m = spec.width, spec.mlp_width
    block = 2.0 * rows * tokens * (4 * d * d + 2 * d * m) + 4.0 * rows * tokens**2 * d
    head = 2.0 * rows * slots * (d * d + d * spec.vocabulary)
    return 3 * (spec.blocks * block + head)


class Training:
    """The state of a run, and its step."""

    def __init__(self, spec: EncoderSpec, rows: int, tokens: int):
        ids = np.random.default_rng(0).integers(1000, spec.vocabulary, (4 * rows, tokens)).astype(np.int32)
        material = Material(
            network=Network(spec),
            preprocessing=None,  # type: ignore[arg-type]  # rows are drawn, not read
            family="bert",
            fingerprint={},
            splits={"train": {"ids": ids}, "held_out": {"ids": ids[:1]}},
            special=(101, 102, 0),
            mask_id=103,
        )
        task = BackboneTask(BackboneConfig(batch_size=rows, steps=1000, compute_dtype="bfloat16"), material)
        params = {
            "backbone": material.network.init(0),
            "head": task.config.objective.init_head(material, jax.random.key(0)),
        }
        self.parameters, self.slots = count(params), task.config.objective.slots(tokens)  # type: ignore[attr-defined]
        live, frozen = partition(params, task.is_live)
        optimizer = task.optimizer()
        self.step = step_of(task.loss, optimizer, seed=0)
        self.state, self.frozen = jax.device_put((first_state(live, optimizer), frozen))
        numbers = (np.arange(i * rows, (i + 1) * rows) for i in range(4))
        self.batches = [jax.device_put(material.batch("train", chosen, rows)) for chosen in numbers]

    def run(self, steps: int) -> float:
        """Returns the seconds of so many steps."""
        start = time.perf_counter()
        for number in range(steps):
            self.state = self.step(self.state, self.frozen, self.batches[number % 4])
        jax.block_until_ready(self.state)
        return time.perf_counter() - start


def measured(spec: EncoderSpec, rows: int, tokens: int, peak: float) -> dict[str, Any]:
    """Returns the figures of a step."""
    training = Training(spec, rows, tokens)
    compiled = training.run(1)
    training.run(WARM_UP)
    seconds = [training.run(STEPS) / STEPS for _ in range(ROUNDS)]
    flops, median = flops_of(spec, rows, tokens, training.slots), float(np.median(seconds))
    sums = jax.device_get(training.state["sums"])
    return {
        "rows": rows,
        "tokens": tokens,
        "parameters": training.parameters,
        "seconds": seconds,
        "first_step_seconds": compiled,
        "flops": flops,
        "flops_per_second": flops / median,
        "tokens_per_second": rows * tokens / median,
        "mfu": flops / median / peak,
        "loss": float(sums["loss"] / sums["rows"]),
        "skipped": float(sums["skipped"]),
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def first_that_fits(part: Part, name: str, peak: float, batches: tuple[int, ...]) -> None:
    """Measures the largest batch that fits, under `name`."""
    spec, tokens = (SMALL, 64) if part.tiny else (BERT_BASE, 512)
    for rows in (4, 2) if part.tiny else batches:
        limit = described()["bytes"]
        if limit and rows * tokens * BYTES_PER_TOKEN > limit and rows != batches[-1]:
            continue
        try:
            part.add(**{name: measured(spec, rows, tokens, peak)})
        except Exception as error:  # noqa: BLE001  # what a compiler or a full memory raises has no common class
            part.add(**{f"{name}_{rows}": problem(error)})
        else:
            return


def main() -> None:
    part = Part("mfu", __doc__.split("\n")[0])
    part.add(device=described(), fused_attention=attention.has_cudnn())
    peak = products(part)
    first_that_fits(part, "step", peak, BATCHES)
    attention.fits_cudnn = lambda q, k: False  # the same step in the plain way, for comparison
    first_that_fits(part, "step_with_plain_attention", peak, (32, 16))


if __name__ == "__main__":
    main()
