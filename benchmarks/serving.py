"""What many grafts cost beside the plain backbone, in one process on the same inputs.

    python -m benchmarks.serving --backbone minilm

Sides alternate, `--repeats` times each, on batches of `--rows` rows of `--tokens` tokens:
`plain` (the backbone and its pooling, a runtime without grafts), `unused` (the same rows in a runtime whose bank is
full), `grafts` (as many distinct LoRA r8 grafts as rows), `single` (all rows of one graft). Then ten grafts above
boundary 4 of 6 on one input against ten full passes, each of one graft; and swaps of a graft from
a verified host copy while rows run: the longest time the device thread was kept, and rows that failed.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.storage import Backbone, load_backbone
from backbone.trees import flatten, unflatten
from benchmarks.results import spread, write
from serving.bank import Envelope, Group
from serving.runtime import Runtime

LABELS = 16


def graft(backbone: Backbone, spec: Lora, seed: int) -> Graft:
    """A LoRA graft of random numbers: costs do not depend on them."""
    model = GraftModel(backbone.network, (spec,), Classification(), tuple(f"l{i}" for i in range(LABELS)))
    draw = np.random.default_rng(seed)
    leaves = flatten(model.init(jax.random.key(seed)))
    params = {p: np.asarray(x + 0.02 * draw.normal(size=x.shape), np.float32) for p, x in leaves.items()}
    return Graft(model, unflatten(params), backbone, backbone.ladder[-1])


def texts(backbone: Backbone, rows: int, tokens: int) -> list[str]:
    """Distinct texts whose length in tokens lies in the bucket of `tokens`."""
    word = "a "
    made = [f"{i} " + word * (tokens - 6) for i in range(rows)]
    lengths = {len(ids) for ids in backbone.preprocessing.encode(made, tokens)}
    if max(lengths) > tokens:
        raise SystemExit(f"--tokens {tokens} is too short for these texts: {sorted(lengths)}")
    return made


def timed(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of each side, one after the other in turn, after one warm-up of each."""
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            if turn:
                runs[name].append(1e3 * (time.perf_counter() - begun))
    return {name: {"ms": spread(values), "raw_ms": [round(v, 3) for v in values]} for name, values in runs.items()}


def run(options: argparse.Namespace) -> dict[str, Any]:
    use_compilation_cache()
    backbone = load_backbone(resolve_backbone(options.backbone))
    rows, tokens, blocks = options.rows, options.tokens, backbone.spec.blocks
    top = f"{blocks * 2 // 3}:"
    # the largest batch size is what each side asks at once, so that no row waits for others
    shapes: dict[str, Any] = {"buckets": (tokens,), "max_wait": 1.0}
    whole = Envelope((Group((Lora(rank=8),), slots=max(rows, 10)),), LABELS)
    upper = Envelope((Group((Lora(rank=8, blocks=top),), slots=10),), LABELS)
    given = texts(backbone, rows, tokens)
    empty = Envelope((Group((), slots=1),), LABELS)
    with (
        Runtime(backbone, empty, batch_sizes=(rows,), **shapes) as plain,
        Runtime(backbone, whole, batch_sizes=(rows,), **shapes) as many,
        Runtime(backbone, whole, batch_sizes=(1,), **shapes) as deep,
        Runtime(backbone, upper, batch_sizes=(1, 10), **shapes) as shallow,
    ):
        for number in range(rows):
            many.load(f"t{number}", graft(backbone, Lora(rank=8), number))
        for number in range(10):
            deep.load(f"t{number}", graft(backbone, Lora(rank=8), number))
            shallow.load(f"t{number}", graft(backbone, Lora(rank=8, blocks=top), number))
        banked = timed(
            {
                "plain": lambda: plain.features(given),
                "unused": lambda: many.features(given),
                "grafts": lambda: many.predict([(f"t{i}", text) for i, text in enumerate(given)]),
                "single": lambda: many.predict([("t0", text) for text in given]),
            },
            options.repeats,
        )
        shared = timed(
            {
                "ten_passes": lambda: [deep.predict([(f"t{i}", given[0])]) for i in range(10)],
                "shared_prefix": lambda: shallow.predict([(f"t{i}", given[0]) for i in range(10)]),
            },
            options.repeats,
        )
        swaps = swapped(backbone, many, given, options.repeats)

    def ratio(part: dict[str, dict[str, Any]], one: str, other: str) -> float:
        return round(part[one]["ms"]["median"] / part[other]["ms"]["median"], 4)

    return {
        "backbone": options.backbone,
        "rows": rows,
        "tokens": tokens,
        "banked": banked,
        "shared": shared,
        "swaps": swaps,
        "ratios": {
            "grafts_to_plain": ratio(banked, "grafts", "plain"),
            "unused_to_plain": ratio(banked, "unused", "plain"),
            "grafts_to_single": ratio(banked, "grafts", "single"),
            "shared_prefix_to_ten_passes": ratio(shared, "shared_prefix", "ten_passes"),
        },
    }


def swapped(backbone: Backbone, runtime: Runtime, given: list[str], swaps: int) -> dict[str, Any]:
    """Swaps of one task while another thread keeps the device busy."""
    stop, failed, answered = threading.Event(), [], [0]

    def load() -> None:
        while not stop.is_set():
            try:
                answered[0] += len(runtime.predict([("t0", text) for text in given]))
            except Exception as error:  # noqa: BLE001 - counted and reported
                failed.append(repr(error))

    versions = [graft(backbone, Lora(rank=8), 1000 + number) for number in range(swaps)]
    runtime.residency.longest_write = 0.0
    thread = threading.Thread(target=load)
    thread.start()
    for number, version in enumerate(versions):
        runtime.load("t0", version, version=str(number + 2))
    stop.set()
    thread.join()
    return {
        "swaps": swaps,
        "longest_stall_ms": round(1e3 * runtime.residency.longest_write, 3),
        "rows_answered": answered[0],
        "rows_failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Many grafts beside the plain backbone.")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", default="serving", help="name of the result file")
    options = parser.parse_args()
    found = run(options)
    print(found["ratios"], found["swaps"])
    print(write(options.out, found))


if __name__ == "__main__":
    main()
