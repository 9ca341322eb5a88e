"""Every method: trainable parameters, counted FLOPs and measured time of a training step, beside its peers'.

    python -m benchmarks.methods --peers .venv-peers/bin/python --adapterhub .venv-adapterhub/bin/python

all-MiniLM-L6-v2, each method in every block, random ids without padding, AdamW, float32, all cores. Sides
take turns, method by method; the first two steps of each are warm-up. Parameters are those of the method
without the head. PEFT is asked for LoRA, DoRA, VeRA, IA3 and LayerNorm tuning, AdapterHub's `adapters` for LoRA, IA3,
prefix tuning and the bottleneck; both keep the backbone's own dropout, as they come.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.costs import train_step
from adapters.model import GraftModel
from adapters.specs import (
    IA3,
    SSF,
    Bias,
    Bottleneck,
    Classification,
    Dora,
    Ladder,
    Lora,
    Method,
    Norm,
    Prefix,
    Probe,
    Router,
    Vera,
)
from backbone.exchange.importing import minilm_folder
from backbone.home import resolve_backbone
from backbone.storage import Backbone, load_backbone
from backbone.trees import count, map_leaves
from benchmarks.peft_lora import Worker
from benchmarks.results import ROOT, parsed, spread, write
from trainers.config import Optimizer
from trainers.fitting.step import first_state, make_optimizer, make_step

LABELS = 10
LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}
METHODS: dict[str, tuple[Method, dict[str, Any] | None]] = {
    "lora": (Lora(), LORA),
    "dora": (Dora(), {**LORA, "use_dora": True}),
    "vera": (Vera(), {"peft_type": "VERA", "r": 256, "target_modules": ["query", "value"]}),
    "ia3": (
        IA3(),
        {
            "peft_type": "IA3",
            "target_modules": r".*(self\.(key|value)|\d\.output\.dense)",
            "feedforward_modules": r".*\d\.output\.dense",
        },
    ),
    "norm": (Norm(), {"peft_type": "LN_TUNING", "target_modules": ["output.LayerNorm"]}),
    "bias": (Bias(), None),
    "ssf": (SSF(), None),
    "prefix": (Prefix(), None),
    "bottleneck": (Bottleneck(), None),
    "router": (Router(), None),
    "ladder": (Ladder(), None),
    "probe": (Probe(), None),
}
# in the places of the specs above: r 8 on query and value; 16 keys; 48 hidden units after the mlp
ADAPTERHUB: dict[str, dict[str, Any]] = {
    "lora": {"name": "LoRAConfig", "r": 8, "alpha": 16, "attn_matrices": ["q", "v"]},
    "ia3": {"name": "IA3Config"},
    "prefix": {"name": "PrefixTuningConfig", "flat": True, "prefix_length": 16},
    "bottleneck": {"name": "SeqBnConfig", "reduction_factor": 8, "original_ln_before": False},
}


def measure(spec: Method, backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Parameters, FLOPs and seconds of each step, in this process."""
    model = GraftModel(backbone.network, (spec,), Classification(), tuple(map(str, range(LABELS))))
    live = map_leaves(np.asarray, model.init(jax.random.key(0)))
    optimizer = make_optimizer(Optimizer(learning_rate=1e-4, schedule="constant"), options.steps)
    step = make_step(model, optimizer, remat=False, seed=0)
    draw, shape = np.random.default_rng(0), (options.rows, options.length)
    batch = {
        "ids": jnp.asarray(draw.integers(1000, 20000, shape), jnp.int32),
        "mask": jnp.ones(shape, bool),
        "labels": jnp.asarray(draw.integers(0, LABELS, options.rows), jnp.int32),
        "weights": jnp.ones(options.rows),
    }
    state = jax.device_put(first_state(live, optimizer))
    frozen = jax.device_put({"backbone": backbone.params, "graft": {}})
    seconds = []
    for _ in range(2 + options.steps):
        begun = time.perf_counter()
        state = jax.block_until_ready(step(state, frozen, batch))
        seconds.append(time.perf_counter() - begun)
    flops = train_step(model, options.rows, options.length, boundary=0, cached=False).flops
    return {"trainable": count(live["adapter"]), "flops": flops, "seconds": seconds[2:]}


def table(results: dict[str, dict[str, Any]]) -> str:
    """One line a method: parameters, GFLOPs, median milliseconds here, and of each peer."""
    peers = [name for name in ("peft", "adapterhub") if any(found[name] for found in results.values())]
    header = f"{'method':<12}{'parameters':>12}{'GFLOP':>9}{'ms':>9}"
    lines = [header + "".join(f"{name + ' parameters':>23}{'ms':>9}" for name in peers)]
    for name, found in results.items():
        ours = found["topgraft"]
        line = f"{name:<12}{ours['trainable']:>12,}{ours['flops'] / 1e9:>9.1f}{1e3 * ours['step']['median']:>9.1f}"
        for peer in peers:
            side = found[peer]
            line += f"{side['trainable']:>23,}{1e3 * side['step']['median']:>9.1f}" if side else f"{'-':>23}{'-':>9}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="Python of an environment with torch, transformers and peft")
    parser.add_argument(
        "--adapterhub", help="Python of an environment with torch and adapters (make goldens-adapterhub)"
    )
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=32, help="tokens of every row")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each method and side")
    options, provenance = parsed(parser)
    backbone = load_backbone(resolve_backbone("minilm"), precision="float32")
    # by path, not by module: the checkout's own `adapters` would hide AdapterHub's
    scripts = {"peft": (options.peers, "peft_methods.py"), "adapterhub": (options.adapterhub, "adapterhub_methods.py")}
    shape = {"rows": options.rows, "length": options.length, "steps": options.steps, "labels": LABELS}
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker([python, str(ROOT / "benchmarks" / "peers" / script), "--model", str(minilm_folder())])
            )
            for name, (python, script) in scripts.items()
            if python
        }
        told = [worker.ask(cmd="versions") for worker in workers.values()]
        for name in options.methods:
            spec, config = METHODS[name]
            asked = {"peft": config, "adapterhub": ADAPTERHUB.get(name)}
            results[name] = {"topgraft": measure(spec, backbone, options)}
            for peer, wanted in asked.items():
                known = peer in workers and wanted is not None
                results[name][peer] = workers[peer].ask(cmd="measure", config=wanted, **shape) if known else None
            for side in results[name].values():
                if side:
                    side["step"] = spread(side["seconds"])
    print(table(results))
    known_versions = {name: version for one in told for name, version in one.items()}
    print(write("methods", {"worker_versions": known_versions, "shape": shape, "methods": results}, provenance))


if __name__ == "__main__":
    main()
