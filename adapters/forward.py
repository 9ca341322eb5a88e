"""Compiled forward passes, and how rows are grouped for them.

There is one program for a whole forward pass (`forward_program`, for serving and export). There is also one for each
kind of block, called block by block: for a single pass over many rows, compiling six blocks would cost more than
running them.

Rows run in their own bucket, in batches whose row count comes from a short fixed list, so that the
number of programs stays small. A row's logits do not depend on which rows are beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.costs import blocks_forward
from adapters.hooks import GraftHooks
from adapters.model import GraftModel
from adapters.specs import Classification
from backbone.buckets import TokenRow, bucket_of, pad
from backbone.meshes.layout import ONE, Layout
from metering.window import count_work

# tokens of a full batch: enough to keep the device busy, few enough that a partly filled last batch wastes little
TOKENS_PER_BATCH = {"cpu": 512, "gpu": 16384, "tpu": 16384}
SMALL_BATCHES = (1, 8)  # rows of the batches used when there are few


@functools.lru_cache(maxsize=64)
def forward_program(model: GraftModel) -> Callable[..., jax.Array]:
    """Returns the jit of (backbone, graft, ids int32 [B,T], mask bool [B,T]) -> logits float32 [B,C]."""

    def forward(backbone: Any, params: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return model.logits(backbone, params, {"ids": ids, "mask": mask})

    return jax.jit(forward)


@functools.lru_cache(maxsize=256)
def _block_program(model: GraftModel, index: int) -> Callable[..., jax.Array]:
    """Returns the jit of (weights, adapter leaves by method, hidden, mask) -> hidden, for blocks like `index`."""

    def run(weights: Any, leaves: Any, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        adapter = {name: {str(index): sites} for name, sites in leaves.items()}
        hooks = GraftHooks(model.site_parts, adapter) if leaves else None
        backbone = {"blocks": {model.network.spec.weights_key(index): weights}}
        return model.network.run_blocks(backbone, hidden, mask, hooks, start=index, stop=index + 1)  # type: ignore[no-any-return]

    return jax.jit(run)


@functools.lru_cache(maxsize=4096)
def alike(model: GraftModel, index: int) -> int:
    """Returns the first block that shares a program with block `index`: same kind, same methods, same settings."""

    def acting(block: int) -> set[Any]:
        return {model.network.spec.block_kind(block)} | {
            (name, site.name, setting)
            for name, (_, settings) in model.site_parts.items()
            for site, setting in settings.items()
            if site.block == block
        }

    return next(block for block in range(index + 1) if acting(block) == acting(index))


@functools.lru_cache(maxsize=64)
def _embed_program(model: GraftModel) -> Callable[..., jax.Array]:
    return jax.jit(lambda backbone, ids: model.network.embed(backbone, {"ids": ids}))


@functools.lru_cache(maxsize=64)
def _head_program(model: GraftModel) -> Callable[..., jax.Array]:
    def head(backbone: Any, params: Any, states: Any, mask: jax.Array) -> jax.Array:
        return model.logits_from_states(backbone, params, states, mask)

    return jax.jit(head)


@functools.lru_cache(maxsize=64)
def pool_program(model: GraftModel) -> Callable[..., jax.Array]:
    """Returns the jit of (backbone, states by boundary, mask) -> pooled float32 [B,K,P], as a fresh head pools."""
    last = model.network.spec.blocks

    def pooled(backbone: Any, states: Any, mask: jax.Array) -> jax.Array:
        ends = [model.network.finish(backbone, h) if k == last else h for k, h in sorted(states.items())]
        summary = jnp.stack([model.pooled(backbone, h, mask) for h in ends], axis=1)
        return summary.astype(jnp.float32)

    return jax.jit(pooled)


def states_at(model: GraftModel, backbone: Any, adapter: Any, inputs: Any, taps: Sequence[int]) -> dict[int, jax.Array]:
    """Returns the states [B,T,D] at `taps`, block by block; blocks alike share one compiled program.

    `inputs` are those of `GraftModel.features`; with `states` it starts from the highest boundary among them. The work
    of the blocks is counted in the open window (`metering.window`).
    """
    stored = {k: jnp.asarray(state, jnp.float32) for k, state in inputs.get("states", {}).items()}
    start = max(stored, default=0)
    hidden = stored[start] if stored else _embed_program(model)({"embeddings": backbone["embeddings"]}, inputs["ids"])
    states = {start: hidden} if start in taps else {}
    span, (rows, length) = (start, max(taps)), inputs["mask"].shape
    count_work(lambda: blocks_forward(model, rows, length, span, adapted=bool(adapter)))
    for index in range(start, max(taps)):
        leaves = {name: adapter[name][str(index)] for name in model.site_parts if str(index) in adapter.get(name, {})}
        hidden = _block_program(model, alike(model, index))(
            model.network.block_weights(backbone, index), leaves, hidden, inputs["mask"]
        )
        if index + 1 in taps:
            states[index + 1] = hidden
    return states


@functools.lru_cache(maxsize=64)
def _features_program(model: GraftModel) -> Callable[..., jax.Array]:
    def features(backbone: Any, adapter: Any, states: Any, mask: jax.Array) -> jax.Array:
        return model.features_from_states(backbone, adapter, states, mask).astype(jnp.float32)

    return jax.jit(features)


@functools.lru_cache(maxsize=64)
def _dropping_program(model: GraftModel) -> Callable[..., jax.Array]:
    def features(backbone: Any, adapter: Any, states: Any, mask: jax.Array, head: Any) -> jax.Array:
        inputs = {"states": states, "mask": mask}
        return model.features(backbone, adapter, inputs, head=head).astype(jnp.float32)

    return jax.jit(features)


@functools.lru_cache(maxsize=64)
def _product_program(model: GraftModel) -> Callable[..., jax.Array]:
    return jax.jit(lambda head, features: model.head.logits(head, features, None, None))


def _dropping_features(
    model: GraftModel, backbone: Any, adapter: Any, inputs: Any, head: Any | None = None
) -> jax.Array:
    """Returns the head's features float32 [B,F]: block by block below the first drop, then by one program."""
    start, whole = model.drops[0].boundary - 1, replace(model, drops=())
    needed = sorted({start, *(tap for tap in model.taps if tap < start)})
    states = {k: state for k, state in inputs.get("states", {}).items() if k <= start}
    if any(k not in states for k in needed):
        states |= states_at(whole, backbone, adapter, {**inputs, "states": states}, needed)
    rows, length = inputs["mask"].shape
    count_work(lambda: blocks_forward(model, rows, length, (start, max(model.taps)), adapted=bool(adapter)))
    chosen = {k: jnp.asarray(states[k]) for k in needed}
    return _dropping_program(model)(backbone, adapter, chosen, inputs["mask"], head)


def features_of(model: GraftModel, backbone: Any, adapter: Any, inputs: Any) -> jax.Array:
    """Returns the head's features float32 [B,F], or [B,T,F] for tagging, block by block."""
    if model.drops:
        return _dropping_features(model, backbone, adapter, inputs)
    states = states_at(model, backbone, adapter, inputs, model.taps)
    rest = {name: value for name, value in backbone.items() if name != "blocks"}
    return _features_program(model)(rest, adapter, states, inputs["mask"])


def logits_of(model: GraftModel, backbone: Any, params: Any, inputs: Any) -> jax.Array:
    """Returns logits float32 [B,C], block by block; compiles a sixth of what one program of six blocks would."""
    backbone = model.trunk(backbone, params)
    if model.drops:
        features = _dropping_features(model, backbone, params.get("adapter", {}), inputs, params["head"])
        return _product_program(model)(params["head"], features)
    states = {k: state for k, state in inputs.get("states", {}).items() if k in model.taps}
    missing = [tap for tap in model.taps if tap not in states]
    if missing:
        below = {k: state for k, state in inputs.get("states", {}).items() if k <= min(missing)}
        partial = {**inputs, "states": below}
        states |= states_at(model, backbone, params.get("adapter", {}), partial, missing)
    rest = {name: value for name, value in backbone.items() if name != "blocks"}
    return _head_program(model)(rest, params, states, inputs["mask"])


def answers_of(model: GraftModel, backbone: Any, params: Any, inputs: Any, boundary: int) -> jax.Array:
    """Returns logits and, beside them, the bare backbone's pooled states at `boundary`: float32 [B,C+P].

    Blocks below the lowest adapted one run once for both.
    """
    first = model.adapted_blocks[0] if model.adapted_blocks else model.network.spec.blocks
    shared = {tap for tap in model.taps if tap <= first} | set(model.adapted_blocks[:1])
    bare = states_at(replace(model, drops=()), backbone, {}, inputs, sorted(shared | {boundary}))
    logits = logits_of(model, backbone, params, {**inputs, "states": {k: bare[k] for k in shared}})
    rest = {name: value for name, value in backbone.items() if name != "blocks"}
    pooled = pool_program(model)(rest, {boundary: bare[boundary]}, inputs["mask"])
    return jnp.concatenate([logits, pooled[:, 0]], axis=1)


def with_exits(model: GraftModel, backbone: Any, params: Any, inputs: Any, boundaries: Sequence[int]) -> jax.Array:
    """Returns logits and, beside them, the mean of the graft's states at each of E `boundaries`: float32 [B,C+E D]."""
    backbone, taps = model.trunk(backbone, params), sorted({*model.taps, *boundaries})
    states = states_at(model, backbone, params.get("adapter", {}), inputs, taps)
    logits = logits_of(model, backbone, params, {**inputs, "states": {k: states[k] for k in model.taps}})
    rest = {name: value for name, value in backbone.items() if name != "blocks"}
    plain = GraftModel(model.network, (), Classification(), model.labels)  # the mean, whatever the head's pooling
    pooled = pool_program(plain)(rest, {b: states[b] for b in boundaries}, inputs["mask"])
    return jnp.concatenate([logits, pooled.reshape(len(pooled), -1)], axis=1)


def full_batch(bucket: int) -> int:
    """Returns the number of rows of a full batch in this bucket."""
    return max(SMALL_BATCHES[-1], TOKENS_PER_BATCH.get(jax.default_backend(), 16384) // bucket)


def grouped(lengths: Sequence[int], buckets: Sequence[int], shards: int = 1) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (bucket, rows of the batch, indices) that cover every row once, short inputs first.

    Each bucket has one batch size, so one program. The last batch of a bucket may have fewer indices than rows;
    the rest is filling. Each of `shards` groups of devices has the rows that one device would have.
    """
    bucket_of_row = np.array([bucket_of(length, buckets) for length in lengths], int)
    for bucket in np.unique(bucket_of_row):
        indices = np.flatnonzero(bucket_of_row == bucket)
        sizes = (size * shards for size in SMALL_BATCHES)
        rows = next((size for size in sizes if len(indices) <= size), full_batch(int(bucket)) * shards)
        for first in range(0, len(indices), rows):
            yield int(bucket), rows, indices[first : first + rows]


def run_rows(
    program: Callable[[Any, Any], jax.Array],
    rows: Sequence[TokenRow],
    buckets: Sequence[int],
    fill: int = 0,
    on_rows: Callable[[int], object] = lambda count: None,
    keep: Callable[[int, np.ndarray], np.ndarray] | None = None,
    layout: Layout = ONE,
) -> np.ndarray:
    """Runs `program(ids, mask) -> [B, F]` over rows of any length; returns [N, F] in the order of the rows.

    The next batch is dispatched before the last one is fetched. `on_rows` gets the number of rows of each finished
    batch. Results [B, T, F] of each token are padded with zeros to the longest bucket: [N, T, F]. With `keep`, the
    arrays keep(row number, result) are joined along the first axis instead. `layout` is where the program runs.
    """
    results: list[np.ndarray | None] = [None] * len(rows)
    waiting: tuple[jax.Array, np.ndarray] | None = None

    def collect(item: tuple[jax.Array, np.ndarray]) -> None:
        for index, value in zip(item[1], layout.fetched(item[0]), strict=False):
            results[index] = value if keep is None else keep(int(index), value)
        on_rows(len(item[1]))

    for bucket, size, indices in grouped([len(row) for row in rows], buckets, layout.shards):
        filler = [rows[indices[-1]]] * (size - len(indices))
        ids, mask = pad([*(rows[i] for i in indices), *filler], bucket, fill)
        output = program(*layout.batch((ids, mask)))
        if waiting:
            collect(waiting)
        waiting = (output, indices)
    if waiting:
        collect(waiting)
    complete = [r for r in results if r is not None]
    if keep is not None:
        return np.concatenate(complete)
    longest = max(len(r) for r in complete)
    return np.stack([np.pad(r, [(0, longest - len(r)), *[(0, 0)] * (r.ndim - 1)]) for r in complete])
