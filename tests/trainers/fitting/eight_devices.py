"""Trains small things on meshes of eight virtual CPU devices, in a process of its own; prints one JSON line for each.

python -m tests.trainers.fitting.eight_devices FOLDER
"""

from __future__ import annotations

import collections
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np

from adapters.model import GraftModel
from adapters.specs import Bottleneck, Classification, Lora
from backbone.meshes.mesh import Mesh
from backbone.meshes.rules import bytes_per_device, laid_out
from backbone.storage import Backbone, in_precision, load_backbone, on_mesh
from backbone.trees import shapes
from tests.tiny import make_tiny_backbone, rows
from tests.trainers.pretraining.backbone_runs import first_params, task_of
from trainers.config import Optimizer, Plan, TrainConfig
from trainers.data.batches import Examples
from trainers.fitting.cached_states import Boundaries
from trainers.fitting.loop import Trainable
from trainers.fitting.state import LoopState
from trainers.fitting.task import GraftTask
from trainers.pricing.devices import MOMENTS

STEPS = 50
MESHES = {
    "one": Mesh(),
    "data": Mesh(data="auto"),
    "fsdp": Mesh(fsdp=8),
    "tensor": Mesh(tensor=8),
    "data and tensor": Mesh(data=4, tensor=2),
    "all three": Mesh(data=2, fsdp=2, tensor=2),
}
COLLECTIVE = re.compile(r"= \S+ (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def trained(task: Trainable, params: Any) -> tuple[list[float], LoopState, Any, Any]:
    """The loss of each step, the state at the end, the last batch, and the compiled step.

    The program that is described is the one that runs: it refuses a state that does not lie as it was compiled for.
    """
    state, losses, before = LoopState(task, params), [], 0.0
    state.enter(task.spans[0], show=False)
    compiled = None
    for batch in task.batches(0, STEPS, state.states):
        compiled = compiled or state.step.lower(state.arrays, state.fixed, batch).compile()  # type: ignore[attr-defined]
        state.arrays = compiled(state.arrays, state.fixed, batch)
        sums = jax.device_get(state.arrays["sums"])
        losses.append((float(sums["loss"]) - before) / float(batch["weights"].sum()))
        before = float(sums["loss"])
    return losses, state, batch, compiled


def described(task: Trainable, params: Any) -> dict[str, Any]:
    """What a test must know of a run: losses, and of the compiled step its collectives and bytes per device."""
    losses, state, batch, compiled = trained(task, params)
    by_rule = [
        bytes_per_device(laid_out(task.layout.mesh, shapes(plain(tree))).values())
        for tree in (state.arrays["live"], state.fixed)
    ]
    return {
        "losses": losses,
        "collectives": dict(collections.Counter(COLLECTIVE.findall(compiled.as_text()))),
        "argument bytes": compiled.memory_analysis().argument_size_in_bytes,
        "bytes by rule": (1 + MOMENTS) * by_rule[0] + by_rule[1],
        "bytes by shards": _bytes([state.arrays[part] for part in ("live", "optimizer")]) + _bytes(plain(state.fixed)),
        "batch bytes": _bytes(batch),
    }


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    """The parameters by the names that rules know, without the pooler, which no step reads."""
    rest = {name: part for name, part in tree.items() if name not in ("backbone", "graft")}
    named = {**tree.get("backbone", {}), **tree.get("graft", {}), **rest}
    return {name: part for name, part in named.items() if name != "pooler"}


def _bytes(tree: Any) -> int:
    """The bytes of arrays on their first device, without counters."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
    return sum(int(leaf.addressable_shards[0].data.nbytes) for leaf in leaves)


def pretraining(tag: str, mesh: Mesh) -> dict[str, Any]:
    task = task_of(tag)
    task = replace(task, config=replace(task.config, mesh=mesh, steps=STEPS))
    return described(task, first_params(task))


def graft(backbone: Backbone, mesh: Mesh, folder: Path | None) -> dict[str, Any]:
    """LoRA and a bottleneck in the top blocks, from cached states in `folder`, or through the whole backbone."""
    backbone = on_mesh(backbone, mesh)
    texts = [(text, label) for text, label in rows(260, seed=4) if len(text.split()) < 6][:104]
    tokens = backbone.preprocessing.encode([text for text, _ in texts], 48)
    examples = Examples(tokens, np.array([int(label[-1]) for _, label in texts], np.int32), backbone.lengths)
    methods = (Lora(rank=2, blocks="2:"), Bottleneck(width=4, blocks="2:"))
    model = GraftModel(backbone.network, methods, Classification(), ("a", "b", "c"))
    plan = Plan(stages="top(1)", cache="float32" if folder else "none")
    config = TrainConfig(optimizer=Optimizer(learning_rate=1e-2), epochs=4, batch_size=8, head_start="zero", plan=plan)

    def opened(adapter: Any) -> Boundaries | None:
        return Boundaries(model, backbone, adapter, folder, "float32", 2**30) if folder else None

    task = GraftTask(config, model, backbone, examples, None, None, opened)
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    result = described(task, params)
    if folder:
        states = opened(params["adapter"])
        assert states is not None
        result["cached"] = content_of(states.padded(2, examples.rows, int(examples.buckets.max())))
    return result


def content_of(states: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(states.tobytes()).hexdigest()


def runs(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is trained, on which mesh, and how it went."""
    backbone = load_backbone(make_tiny_backbone(folder / "backbone"))
    for name, mesh in MESHES.items():
        yield "masked_tokens", name, pretraining("masked_tokens", mesh)
        yield "supervised_images", name, pretraining("supervised_images", mesh)
        yield "uncached graft", name, graft(backbone, mesh, None)
        yield "cached graft", name, graft(backbone, mesh, folder / f"cache {name}")
    stored = in_precision(backbone, "int8")
    for name in ("one", "all three"):
        yield "int8 graft", name, graft(stored, MESHES[name], None)


if __name__ == "__main__":
    for what, name, result in runs(Path(sys.argv[1])):
        print(json.dumps({"what": what, "mesh": name, **result}), flush=True)
