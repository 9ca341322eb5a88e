"""Hidden states of a task's rows at chosen boundaries: computed once, kept by `backbone.cache`, read in batches.

    store = Boundaries(model, backbone, adapter, root, "float32", max_bytes)
    store.fill([train, dev], boundaries=(4,), pooled=True)      # one forward pass, length-sorted
    batch = store.states(4, train, bucket, indices, size)       # [size,bucket,D], padded with zeros

The identity of the adapter below a boundary is part of the key. Rows are shared by every task whose prefix holds no
adapter. Rows under a trained prefix belong to that prefix alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.forward import grouped, logits_of, pool_program, states_at
from adapters.machine import require_known_answers
from adapters.model import GraftModel
from backbone.buckets import TokenRow, pad, sides_of, tokens_of
from backbone.cache import (
    RowCache,
    Storage,
    Variant,
    bytes_per_token,
    collect_garbage,
    compress,
    expand,
    lossless,
    row_key,
    stored_bytes,
)
from backbone.records import canonical_json, encode
from backbone.storage import Backbone
from backbone.trees import Params, content_hash, flatten
from trainers.data.batches import Examples
from trainers.runs.logs import bar
from trainers.runs.run import ComputedRows

log = logging.getLogger(__name__)

SAMPLE = 8  # stored rows recomputed when a cache is opened, and the fewest rows of a batch that fills it
# largest difference of a recomputed state, relative to the largest magnitude of its row
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 2e-2}


def prefix_id(model: GraftModel, adapter: Mapping[str, Any], boundary: int) -> str:
    """Returns the identity of what adapts the blocks below `boundary`: "none", or a hash of settings and leaves.

    Leaves that are still exactly the identity (a zero B of LoRA) count as trained. A caller that knows a prefix to be
    untouched gives a model without adapters there.
    """
    below = {
        name: {block: sites for block, sites in adapter.get(name, {}).items() if int(block) < boundary}
        for name in model.site_parts
    }
    if not flatten(below):
        return "none"
    return content_hash(below, canonical_json([encode(spec) for spec in model.methods]))


def _pooling(model: GraftModel) -> str:
    """Returns how states are pooled, and how the sides of pairs encoded apart are joined.

    Attention pooling begins as the mean, and the cache keeps this beginning.
    """
    pooling = "mean" if model.head.pooling == "attention" else model.head.pooling
    return pooling if model.sides == 1 else f"{pooling} {model.head.pair}"


def _tokens(row: TokenRow, states: np.ndarray) -> np.ndarray:
    """Returns the states [t,D] of a row's tokens, side after side, from padded ones [S,T,D]."""
    return np.concatenate([state[: len(side)] for side, state in zip(sides_of(row), states, strict=True)])


@dataclass(frozen=True)
class CachedPrefix:
    """The stored states at one boundary, which the blocks above it read instead of running those below."""

    store: Boundaries
    boundary: int  # input of this block

    def states(self, rows: Sequence[TokenRow], bucket: int) -> dict[int, np.ndarray]:
        """Returns the states float32 [B,bucket,D] of `rows`, by boundary."""
        return {self.boundary: self.store.padded(self.boundary, rows, bucket)}


class Boundaries:
    """The cached states of one backbone under one (frozen) prefix."""

    def __init__(
        self,
        model: GraftModel,
        backbone: Backbone,
        adapter: Params,
        root: Path,
        storage: Storage,
        max_bytes: int,
        tally: ComputedRows | None = None,
    ):
        self._tally = tally or ComputedRows()
        self._model, self._backbone, self._adapter = model, backbone, adapter
        self._root, self._storage, self._max_bytes = root, storage, max_bytes
        self._layout = backbone.layout
        self._caches: dict[int | str, RowCache] = {}

    def _cache(self, boundary: int | str) -> RowCache:
        """Returns the cache of a boundary, or of "pooled"; `fill` recomputes a sample when it is opened."""
        if boundary not in self._caches:
            spec, pooled = self._backbone.spec, boundary == "pooled"
            at = spec.blocks if pooled else int(boundary)
            variant = Variant(
                weights_id=self._backbone.weights_id,
                boundary=at,
                prefix_id=prefix_id(self._model, self._adapter, at),
                content="pooled" if pooled else "states",
                pooling=_pooling(self._model) if pooled else "",
                width=self._model.pooled_width if pooled else spec.width,
                storage="float32" if pooled else self._storage,
                backend=jax.default_backend(),
                compiler=" ".join(filter(None, (require_known_answers().cache_key, self._layout.sums))),
            )
            self._caches[boundary] = RowCache(self._root, variant)
        return self._caches[boundary]

    def bytes_needed(self, splits: Sequence[Examples], boundaries: Sequence[int], pooled: bool) -> int:
        """Returns the bytes on disk of the distinct rows of `splits`."""
        distinct = {row_key(row): row for examples in splits for row in examples.rows}
        names = (*boundaries, *(("pooled",) if pooled else ()))
        return sum(self._bytes_of(name, row) for name in names for row in distinct.values())

    def _bytes_of(self, name: int | str, row: TokenRow) -> int:
        """Returns the bytes on disk of a row at a boundary, or of its pooled states."""
        spec = self._backbone.spec
        if name == "pooled":
            return (spec.blocks + 1) * self._model.pooled_width * 4
        return len(tokens_of(row)) * bytes_per_token(spec.width, self._storage)

    def fill(
        self,
        splits: Sequence[Examples],
        boundaries: Sequence[int],
        *,
        pooled: bool = False,
        below: CachedPrefix | None = None,
        show: bool = False,
    ) -> int:
        """Computes and stores what is missing, in one forward pass; returns the number of rows computed.

        `below` names a filled boundary to start from, so that an upgrade runs only the blocks between.
        Duplicate rows are computed once. Raises MemoryError if the rows exceed the limit in bytes.
        """
        needed = self.bytes_needed(splits, boundaries, pooled)
        if needed > self._max_bytes:
            raise MemoryError(f"the boundary cache would need {needed / 2**20:.0f} MiB")
        caches = {name: self._cache(name) for name in (*boundaries, *(("pooled",) if pooled else ()))}
        lengths, fill = splits[0].lengths, splits[0].fill
        requested = {row_key(row): (row, int(b)) for s in splits for row, b in zip(s.rows, s.buckets, strict=True)}
        for cache in caches.values():
            cache.check(requested)
        self._verify_sample(splits, boundaries, below)

        def missing() -> dict[bytes, tuple[TokenRow, int]]:
            return {k: row for k, row in requested.items() if not all(c.has(k, row[1]) for c in caches.values())}

        if not (rows := missing()):
            self._note_read(caches.values(), requested)
            return 0
        self._make_room(caches, requested)
        with ExitStack() as stack:
            for cache in caches.values():
                stack.enter_context(cache.writing())
            rows = missing()  # another process may have written some while it had the lock
            keys, values = list(rows), [row for row, _ in rows.values()]
            taps = tuple(range(self._backbone.spec.blocks + 1)) if pooled else tuple(boundaries)
            shown = stack.enter_context(bar(len(rows), "states", "row", show=show))
            for bucket, size, indices in grouped([len(row) for row in values], lengths, self._layout.shards):
                # a batch of one row is computed differently; from SAMPLE rows on, the bits do not depend on it
                inputs = self._inputs(values, indices, bucket, max(size, SAMPLE * self._layout.shards), fill, below)
                states = self._states(inputs, taps)
                for k in boundaries:
                    for i, array in zip(indices, self._by_row(states[k]), strict=False):
                        caches[k].add(keys[i], bucket, _tokens(values[i], array))
                if pooled:
                    summary = pool_program(self._model)(self._backbone.params, states, inputs["mask"])
                    for i, array in zip(indices, self._layout.fetched(summary), strict=False):
                        caches["pooled"].add(keys[i], bucket, array)
                shown.update(len(indices))
        self._tally.rows += len(rows)
        for cache in caches.values():
            self._tally.stored.setdefault(cache.folder, set()).update(rows)
        self._note_read(caches.values(), requested.keys() - rows.keys())
        return len(rows)

    def _note_read(self, caches: Iterable[RowCache], keys: Iterable[bytes]) -> None:
        """Notes the rows among `keys` whose states one of the caches held before this run."""
        stored = [self._tally.stored.get(cache.folder, set()) for cache in caches]
        self._tally.read |= {key for key in keys if any(key not in some for some in stored)}

    def _make_room(self, caches: Mapping[int | str, RowCache], requested: Mapping[bytes, tuple[TokenRow, int]]) -> None:
        """Removes the oldest segments, so that all caches together stay below the limit when `requested` is stored.

        Segments that hold rows of this run go last. This process can still read those that are removed.
        """
        missing = sum(
            self._bytes_of(name, row)
            for name, cache in caches.items()
            for key, (row, bucket) in requested.items()
            if not cache.has(key, bucket)
        )
        keep = set().union(*(cache.segments(requested) for cache in caches.values()))
        collect_garbage(self._root, self._max_bytes - missing, keep, verify=False)
        if stored_bytes(self._root) > self._max_bytes - missing:
            collect_garbage(self._root, self._max_bytes - missing, verify=False)

    @property
    def lossless(self) -> bool:
        """Returns whether the cache gives back exactly the states that were computed."""
        return lossless(self._storage)

    def _states(self, inputs: dict[str, Any], taps: Sequence[int]) -> dict[int, jax.Array]:
        model, backbone = self._model, self._backbone
        return states_at(model, backbone.params, self._adapter, inputs, taps)

    def _by_row(self, states: jax.Array) -> np.ndarray:
        """Returns the states [N,S,T,D] of S sides of each row, from those of a batch [N S,T,D]."""
        host = self._layout.fetched(states)
        by_row: np.ndarray = host.reshape(-1, self._model.sides, *host.shape[1:])
        return by_row

    def _inputs(
        self,
        rows: Sequence[TokenRow],
        indices: np.ndarray,
        bucket: int,
        size: int,
        fill: int,
        below: CachedPrefix | None,
    ) -> dict[str, Any]:
        chosen = [rows[i] for i in (*indices, *[indices[-1]] * (size - len(indices)))]
        ids, mask = pad(chosen, bucket, fill)
        if below is None:
            return self._layout.batch({"ids": ids, "mask": mask})
        return self._layout.batch({"mask": mask, "states": below.states(chosen, bucket)})

    def _verify_sample(self, splits: Sequence[Examples], boundaries: Sequence[int], below: CachedPrefix | None) -> None:
        """Recomputes a few stored rows; a variant that does not reproduce them is discarded."""
        for boundary in boundaries:
            cache = self._cache(boundary)
            stored = [
                (row, bucket)
                for examples in splits[:1]
                for row, bucket in zip(examples.rows, examples.buckets.tolist(), strict=True)
                if cache.has(row_key(row), bucket)
            ]
            if not stored:
                continue
            bucket = stored[0][1]
            rows = [row for row, other in stored if other == bucket][:SAMPLE]
            indices = np.arange(len(rows))
            inputs = self._inputs(rows, indices, bucket, SAMPLE * self._layout.shards, splits[0].fill, below)
            states = self._by_row(self._states(inputs, (boundary,))[boundary]).astype(np.float32)
            for row, state in zip(rows, states, strict=False):
                expected = expand(compress(_tokens(row, state), self._storage), self._storage)
                difference = np.abs(expected - cache.read(row_key(row))).max()
                if not difference <= TOLERANCE[self._storage] * max(1.0, float(np.abs(expected).max())):
                    log.warning(
                        "%s: stored states differ by %.2g from computed ones; computing again", cache.folder, difference
                    )
                    cache.discard()
                    break

    def padded(self, boundary: int, rows: Sequence[TokenRow], bucket: int) -> np.ndarray:
        """Returns the states float32 [B,bucket,D] of rows as `pad` lays them out, zero where there is no token."""
        cache, sides = self._cache(boundary), self._model.sides
        out = np.zeros((len(rows) * sides, bucket, self._backbone.spec.width), np.float32)
        for i, row in enumerate(rows):
            states, start = cache.read(row_key(row)), 0
            for s, side in enumerate(sides_of(row)):
                out[i * sides + s, : len(side)] = states[start : start + len(side)]
                start += len(side)
        return out

    def has_pooled(self, examples: Examples) -> bool:
        """Returns whether the pooled states of every row are stored."""
        return self._has(self._cache("pooled"), examples)

    def has_states(self, boundary: int, examples: Examples) -> bool:
        """Returns whether the states of every row at `boundary` are stored."""
        return self._has(self._cache(boundary), examples)

    @staticmethod
    def _has(cache: RowCache, examples: Examples) -> bool:
        return all(cache.has(row_key(r), b) for r, b in zip(examples.rows, examples.buckets.tolist(), strict=True))

    def pooled(self, examples: Examples) -> np.ndarray:
        """Returns the pooled states float32 [N,L+1,P] of every boundary."""
        cache = self._cache("pooled")
        return np.stack([cache.read(row_key(row)) for row in examples.rows])

    def logits(self, params: Params, examples: Examples, boundaries: Sequence[int]) -> np.ndarray:
        """Returns the logits float32 [N,C], or [N,T,C] for tagging, from the cached states at `boundaries`."""
        params = self._layout.params(params)
        tokens = (max(examples.buckets),) if self._model.head.pooling == "tokens" else ()
        out = np.zeros((len(examples), *tokens, len(self._model.labels)), np.float32)
        for bucket, size, indices in grouped(
            [len(row) for row in examples.rows], examples.lengths, self._layout.shards
        ):
            chosen = [examples.rows[i] for i in (*indices, *[indices[-1]] * (size - len(indices)))]
            _, mask = pad(chosen, bucket)
            states = {k: self.padded(k, chosen, bucket) for k in boundaries}
            inputs = self._layout.batch({"mask": mask, "states": states})
            logits = logits_of(self._model, self._backbone.params, params, inputs)
            out[(indices, slice(bucket)) if tokens else indices] = self._layout.fetched(logits)[: len(indices)]
        return out
