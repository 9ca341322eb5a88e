"""Compiled forward passes, one for each (model, dtype) and shape, and how rows are grouped for them.

Rows run in their own bucket, in batches whose row count comes from a short fixed list, so that the
number of programs stays small. A row's logits do not depend on which rows are beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.heads import pool
from adapters.hooks import GraftHooks
from adapters.model import GraftModel
from backbone.buckets import bucket_of, pad

# of a full batch: enough to keep the device busy, and no more than its last, partly filled batch can waste
TOKENS_PER_BATCH = {"cpu": 512, "gpu": 16384, "tpu": 16384}
SMALL_BATCHES = (1, 8)  # rows of the batches used when there are few


@functools.lru_cache(maxsize=64)
def forward_program(model: GraftModel, dtype: str) -> Callable[..., jax.Array]:
    """jit of (backbone, graft, ids int32 [B,T], mask bool [B,T]) -> logits float32 [B,C]."""

    def forward(backbone: Any, params: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return model.logits(backbone, params, {"ids": ids, "mask": mask}, dtype=jnp.dtype(dtype))

    return jax.jit(forward)


@functools.lru_cache(maxsize=64)
def features_program(model: GraftModel, dtype: str) -> Callable[..., jax.Array]:
    """jit of (backbone, adapter, ids int32 [B,T], mask bool [B,T]) -> head features float32 [B,F]."""

    def forward(backbone: Any, adapter: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        inputs = {"ids": ids, "mask": mask}
        return model.features(backbone, adapter, inputs, dtype=jnp.dtype(dtype)).astype(jnp.float32)

    return jax.jit(forward)


@functools.lru_cache(maxsize=64)
def states_program(model: GraftModel, dtype: str, taps: tuple[int, ...], pooled: bool) -> Callable[..., Any]:
    """jit of (backbone, adapter, inputs) -> (states, pooled).

    `inputs` as in `GraftModel.features`; `states` has the state [B,T,D] at each tap, in `dtype`, and
    `pooled` is float32 [B,L+1,D], the state of every boundary pooled as the head does, or None.
    """
    blocks = model.network.spec.blocks
    kind = "first" if model.head.pooling == "pooler" else model.head.pooling

    def forward(backbone: Any, adapter: Any, inputs: Any) -> tuple[dict[int, jax.Array], jax.Array | None]:
        network, given = model.network, inputs.get("states", {})
        start = max(given, default=0)
        hidden = given[start].astype(dtype) if given else network.embed(backbone, inputs, jnp.dtype(dtype))
        wanted = tuple(range(blocks + 1)) if pooled else taps
        hooks = GraftHooks(model.site_parts, adapter) if model.site_parts else None
        _, states = network.run_blocks(
            backbone, hidden, inputs["mask"], hooks, start=start, stop=max(wanted), taps=wanted
        )
        summary = None
        if pooled:
            ends = [network.finish(backbone, states[k]) if k == blocks else states[k] for k in wanted]
            summary = jnp.stack([pool(kind, network, backbone, h, inputs["mask"]) for h in ends], axis=1)
            summary = summary.astype(jnp.float32)
        return {k: states[k] for k in taps}, summary

    return jax.jit(forward)


@functools.lru_cache(maxsize=64)
def suffix_program(model: GraftModel, dtype: str) -> Callable[..., jax.Array]:
    """jit of (backbone, graft, inputs) -> logits float32 [B,C]; `inputs` as in `GraftModel.features`."""

    def forward(backbone: Any, params: Any, inputs: Any) -> jax.Array:
        return model.logits(backbone, params, inputs, dtype=jnp.dtype(dtype))

    return jax.jit(forward)


def full_batch(bucket: int) -> int:
    """Rows of a full batch in this bucket."""
    return max(SMALL_BATCHES[-1], TOKENS_PER_BATCH.get(jax.default_backend(), 16384) // bucket)


def grouped(lengths: Sequence[int], ladder: Sequence[int]) -> Iterator[tuple[int, int, np.ndarray]]:
    """(bucket, rows of the batch, indices) covering every row once, short inputs first.

    One batch size for each bucket, so one program; the last batch of a bucket may have fewer indices
    than rows, and the rest is filling.
    """
    buckets = np.array([bucket_of(length, ladder) for length in lengths], int)
    for bucket in np.unique(buckets):
        indices = np.flatnonzero(buckets == bucket)
        rows = next((size for size in SMALL_BATCHES if len(indices) <= size), full_batch(int(bucket)))
        for first in range(0, len(indices), rows):
            yield int(bucket), rows, indices[first : first + rows]


def run_rows(
    program: Callable[[np.ndarray, np.ndarray], jax.Array],
    rows: Sequence[np.ndarray],
    ladder: Sequence[int],
    fill: int = 0,
    on_rows: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """`program(ids, mask) -> [B, F]` over token rows of any length, results in the order of the rows.

    The next batch is dispatched before the last one is fetched. `on_rows` is told how many rows are done.
    """
    results: list[np.ndarray | None] = [None] * len(rows)
    waiting: tuple[jax.Array, np.ndarray] | None = None

    def collect(item: tuple[jax.Array, np.ndarray]) -> None:
        for index, value in zip(item[1], np.asarray(item[0]), strict=False):
            results[index] = value
        on_rows(len(item[1]))

    for bucket, size, indices in grouped([len(row) for row in rows], ladder):
        filler = [rows[indices[-1]]] * (size - len(indices))
        ids, mask = pad([*(rows[i] for i in indices), *filler], bucket, fill)
        output = program(ids, mask)
        if waiting:
            collect(waiting)
        waiting = (output, indices)
    if waiting:
        collect(waiting)
    return np.stack([r for r in results if r is not None])
