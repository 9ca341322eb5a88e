"""What many grafts cost: beside the plain backbone, PEFT's mixed batches and one merged model for each task.

    python -m benchmarks.serving --peers .venv-peers/bin/python [--only batches,shared,swaps,promotions,resident]

`batches`: `--rows` rows of exactly `--tokens` tokens, tokenizing included, sides alternating `--repeats` times.
Here: `plain` (a runtime without grafts), `unused` (the same rows in a runtime whose bank is full), `grafts` (a LoRA r8
for each row), `grafts_16` (16 of them), `single`. With `--peers`, PyTorch on the same rows: `torch_plain`,
`peft_mixed` and `peft_mixed_16` (PEFT's `adapter_names`), `torch_merged` and `torch_merged_16` (a merged model for
each task). `shared`: ten grafts above boundary 4 of 6 on one input against ten full passes, each of one graft.
`swaps`: versions from a verified host copy while full batches run. `promotions` and `resident`: a real server asked
from a second process (`benchmarks/serving_http.py`). The model is MiniLM: 6 blocks of width 384, float32.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np

from adapters.graft import Graft
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.exchange.importing import minilm_folder
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.storage import Backbone, load_backbone
from backbone.trees import content_hash, flatten, map_leaves, unflatten
from benchmarks import serving_http
from benchmarks.peft_lora import Worker
from benchmarks.results import Provenance, parsed, spread, write
from serving.bank import Envelope, Group
from serving.residency import Served
from serving.runtime import Runtime

LABELS = 16
FEW = 16  # adapters of the sides named so
PARTS = ("batches", "shared", "swaps", "promotions", "resident")


def graft(backbone: Backbone, spec: Lora, seed: int) -> Graft:
    """A LoRA graft of random numbers: costs do not depend on them."""
    model = GraftModel(backbone.network, (spec,), Classification(), tuple(f"l{i}" for i in range(LABELS)))
    draw = np.random.default_rng(seed)
    leaves = flatten(model.init(jax.random.key(0)))
    params = {p: np.asarray(x + 0.02 * draw.normal(size=x.shape), np.float32) for p, x in leaves.items()}
    return Graft(model, unflatten(params), backbone, backbone.lengths[-1])


def texts(backbone: Backbone, rows: int, tokens: int) -> list[str]:
    """Distinct texts of exactly `tokens` tokens."""
    heads = [f"{i}" for i in range(rows)]
    own = [len(ids) for ids in backbone.preprocessing.encode(heads, backbone.lengths[-1])]
    made = [" ".join([head, *["a"] * (tokens - used)]) for head, used in zip(heads, own, strict=True)]
    lengths = {len(ids) for ids in backbone.preprocessing.encode(made, backbone.lengths[-1])}
    if lengths != {tokens}:
        raise SystemExit(f"--tokens {tokens}: the texts have {sorted(lengths)} tokens")
    return made


def timed(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of each side, in turn, forwards and backwards, after one warm-up of each.

    A side that answers a number has timed itself, in seconds.
    """
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in list(sides.items())[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            own = run()
            seconds = own if isinstance(own, float) else time.perf_counter() - begun
            if turn:
                runs[name].append(1e3 * seconds)
    return {name: {"ms": spread(values), "raw_ms": [round(v, 3) for v in values]} for name, values in runs.items()}


def ratio(part: dict[str, dict[str, Any]], one: str, other: str) -> float:
    """How many times the other's median time one takes."""
    return round(part[one]["ms"]["median"] / part[other]["ms"]["median"], 4)


def batches(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Full batches on both sides."""
    rows, given = options.rows, texts(backbone, options.rows, options.tokens)
    # the largest batch size is what each side asks at once, so that no row waits for others
    shapes: dict[str, Any] = {"buckets": (options.tokens,), "max_wait": 1.0, "batch_sizes": (rows,)}
    whole = Envelope((Group((Lora(rank=8),), slots=rows),), LABELS)
    empty = Envelope((Group((), slots=1),), LABELS)
    names = {"many": [f"t{i}" for i in range(rows)], "few": [f"t{i % FEW}" for i in range(rows)]}
    with ExitStack() as stack:
        plain = stack.enter_context(Runtime(backbone, empty, **shapes))
        many = stack.enter_context(Runtime(backbone, whole, **shapes))
        for number in range(rows):
            many.load(f"t{number}", graft(backbone, Lora(rank=8), number))
        sides: dict[str, Callable[[], object]] = {
            "plain": lambda: plain.features(given),
            "unused": lambda: many.features(given),
            "grafts": lambda: many.predict(list(zip(names["many"], given, strict=True))),
            f"grafts_{FEW}": lambda: many.predict(list(zip(names["few"], given, strict=True))),
            "single": lambda: many.predict([("t0", text) for text in given]),
        }
        peers: dict[str, Any] = {}
        if options.peers:
            command = [options.peers, "-m", "benchmarks.peers.peft_serving", "--model", str(minilm_folder())]
            worker = stack.enter_context(Worker([*command, "--adapters", str(rows), "--labels", str(LABELS)]))
            peers = worker.ask(cmd="check", texts=given[:8], names=names["many"][:8])

            def torch_side(side: str, own: list[str]) -> Callable[[], float]:
                return lambda: float(worker.ask(cmd="run", side=side, texts=given, names=own)["seconds"])

            sides["torch_plain"] = torch_side("plain", names["many"])
            for kind, title in (("mixed", "peft_mixed"), ("merged", "torch_merged")):
                sides[title] = torch_side(kind, names["many"])
                sides[f"{title}_{FEW}"] = torch_side(kind, names["few"])
        found = timed(sides, options.repeats)
    ratios = {
        "grafts_to_plain": ratio(found, "grafts", "plain"),
        "unused_to_plain": ratio(found, "unused", "plain"),
        "grafts_to_single": ratio(found, "grafts", "single"),
    }
    if peers:
        ratios["torch_plain_to_plain"] = ratio(found, "torch_plain", "plain")
        for title in ("peft_mixed", "torch_merged"):
            ratios[f"{title}_to_grafts"] = ratio(found, title, "grafts")
            ratios[f"{title}_{FEW}_to_grafts_{FEW}"] = ratio(found, f"{title}_{FEW}", f"grafts_{FEW}")
    return {"ratios": ratios, "sides": found, "peers": peers}


def shared(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Ten grafts in the top third on one input, against ten full passes."""
    top = Lora(rank=8, blocks=f"{backbone.spec.blocks * 2 // 3}:")
    text = texts(backbone, 1, options.tokens)[0]
    shapes: dict[str, Any] = {"buckets": (options.tokens,), "max_wait": 0.0}
    upper = Envelope((Group((top,), slots=10),), LABELS)
    whole = Envelope((Group((Lora(rank=8),), slots=10),), LABELS)
    with (
        Runtime(backbone, whole, batch_sizes=(1,), **shapes) as deep,
        # ten rows are one batch: it fills, and no row waits
        Runtime(backbone, upper, batch_sizes=(1, 10), **shapes | {"max_wait": 1.0}) as shallow,
    ):
        for number in range(10):
            deep.load(f"t{number}", graft(backbone, Lora(rank=8), number))
            shallow.load(f"t{number}", graft(backbone, top, number))
        found = timed(
            {
                "ten_passes": lambda: [deep.predict([(f"t{i}", text)]) for i in range(10)],
                "shared_prefix": lambda: shallow.predict([(f"t{i}", text) for i in range(10)]),
            },
            options.repeats,
        )
    return {"ratios": {"shared_prefix_to_ten_passes": ratio(found, "shared_prefix", "ten_passes")}, "sides": found}


def swaps(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """New versions of one task from verified host copies, while another thread keeps the device busy."""
    given = texts(backbone, options.rows, options.tokens)
    envelope = Envelope((Group((Lora(rank=8),), slots=4),), LABELS)
    stop, failed, batch_ms = threading.Event(), [], []
    first: dict[str, float] = {}
    with Runtime(backbone, envelope, buckets=(options.tokens,), batch_sizes=(options.rows,), max_wait=1.0) as runtime:
        runtime.load("t", graft(backbone, Lora(rank=8), 0), version="0")

        def load() -> None:
            while not stop.is_set():
                begun = time.perf_counter()
                try:
                    answers = runtime.predict([("t", text) for text in given])
                except Exception as error:  # noqa: BLE001 - counted and reported
                    failed.append(repr(error))
                    continue
                batch_ms.append(1e3 * (time.perf_counter() - begun))
                first.setdefault(answers[0].version, time.perf_counter())

        def swapped(number: int) -> float:
            """Milliseconds from the swap, of a graft that the host holds, to its first answer."""
            version = graft(backbone, Lora(rank=8), 1000 + number)
            content_id = content_hash(map_leaves(np.asarray, version.params), "benchmark")
            served = Served("t", str(number), content_id, lambda: version)
            runtime.residency.prepare(served)
            begun = time.perf_counter()
            runtime.warm(served)
            runtime.offer(served)
            while served.version not in first and not failed:
                time.sleep(0.001)
            return 1e3 * (first.get(served.version, begun) - begun)

        runtime.residency.longest_write = 0.0
        threads = [threading.Thread(target=load) for _ in range(2)]  # one batch runs, the next one waits
        for thread in threads:
            thread.start()
        try:
            after = [swapped(number) for number in range(1, options.swaps + 1)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        stall = 1e3 * runtime.residency.longest_write
    return {
        "swaps": options.swaps,
        "longest_stall_ms": round(stall, 3),
        "first_answer_ms": spread([round(value, 2) for value in after]),
        "batch_ms": spread([round(value, 2) for value in batch_ms]),  # waiting for the one before included
        "rows_failed": failed,
    }


def run(options: argparse.Namespace, provenance: Provenance) -> None:
    use_compilation_cache()
    backbone = load_backbone(resolve_backbone(options.backbone))
    asked = {"texts": texts(backbone, options.rows, options.tokens), "options": options}

    def make(seed: int) -> Graft:
        return graft(backbone, Lora(rank=8), seed)

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "batches": lambda: batches(backbone, options),
        "shared": lambda: shared(backbone, options),
        "swaps": lambda: swaps(backbone, options),
        "promotions": lambda: serving_http.promotions(make, **asked),
        "resident": lambda: serving_http.resident(make, **asked),
    }
    found: dict[str, Any] = {"backbone": options.backbone, "rows": options.rows, "tokens": options.tokens}
    for name in options.only:
        begun = time.perf_counter()
        found[name] = parts[name]()
        found[name]["seconds"] = round(time.perf_counter() - begun, 1)
        told = {key: value for key, value in found[name].items() if key not in ("sides", "segments")}
        print(f"{name}: {told}", flush=True)
        print(write(options.out, found, provenance))  # a part at a time: all of them take long


def chosen(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description="Many grafts beside the plain backbone and PEFT.")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--peers", help="Python of the environment with torch, transformers and peft")
    parser.add_argument("--only", type=chosen, default=PARTS, metavar="PART[,PART]", help=", ".join(PARTS))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--promotions", type=int, default=8)
    parser.add_argument("--registered", type=int, default=1000, help="grafts on --slots slots")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--load", type=float, default=0.5, help="arrivals, as a share of what one graft can answer")
    parser.add_argument("--segments", type=int, default=4, help="turns of the open loop on each side")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a turn")
    parser.add_argument("--out", default="serving", help="name of the result file")
    options, provenance = parsed(parser)
    run(options, provenance)


if __name__ == "__main__":
    main()
