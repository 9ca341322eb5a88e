"""The compiled programs of a runtime, all of them made before it is ready.

A batch of rows runs in three steps:

    prefix   the plain backbone on the distinct inputs [U,T], as far as the batch needs, cut where groups begin
    gather   states of the inputs to states of the rows [B,T,D]
    suffix   the adapted blocks and the heads of one group [B,C]

Rows without a graft use `plain` instead of a suffix: the pooled output of the backbone, with no bank. `pooled` gives
the states of the bare backbone that out-of-scope scores read [U,D].

If batches may be split for early exits, the prefix stops at those boundaries too. A group then has its suffix a
second time in pieces: `segment` up to each of them, with the pooled states [B,D] there, and `rest`.

Programs are compiled ahead of time for the fixed buckets and batch sizes: a shape outside them is an error, never a
compilation.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters.artefact.router import Router
from adapters.heads.pooling import pool
from adapters.hooks import GraftHooks
from adapters.routing import head_of, probabilities_of
from backbone.errors import InputError
from backbone.storage import Backbone
from serving.bank import Bank

PLAIN_POOLING = ("mean", True)  # pooling of the program `plain`, after the last norm
TIMED_TOKENS = 32  # tokens of the bucket in which two batch sizes are timed, at least, where there is one so long
TIMED_CALLS = 3  # calls of each size, of which the fastest counts; one more comes before
MAX_CALL_ROWS = 32.0  # most that a call counts, in rows


@functools.cache
def cover(rows: int, sizes: tuple[int, ...], call_rows: float) -> tuple[int, ...]:
    """Returns the batch sizes that hold `rows` rows at the least cost, largest first; a call costs `call_rows` rows."""
    best: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, ())]  # cost, calls and sizes for 0, 1, ... rows
    for count in range(1, rows + 1):
        options = []
        for size in sizes:
            cost, calls, chosen = best[max(0, count - size)]
            options.append((cost + size + call_rows, calls + 1, (size, *chosen)))
        best.append(min(options, key=lambda option: option[:2]))
    return tuple(sorted(best[max(0, rows)][2], reverse=True))


class Programs:
    """Compiled steps for each bucket and batch size; the constructor compiles everything."""

    def __init__(
        self,
        backbone: Backbone,
        banks: Sequence[Bank],
        buckets: Sequence[int],
        sizes: Sequence[int],
        scopes: Sequence[int] = (),
        exits: Sequence[int] = (),
        router: Router | None = None,
    ):
        """Compiles everything.

        Scores are measured at the boundaries `scopes`, and batches may be split at the boundaries `exits`. Rows that
        name no task go by `router`. Raises InputError for exits at or above the last boundary, or
        if a group cannot be split there.
        """
        self.backbone, self.banks = backbone, tuple(banks)
        self.buckets, self.sizes = tuple(sorted(buckets)), tuple(sorted(sizes))
        last = backbone.spec.blocks
        self.needs = [tuple(sorted({b.start, *(t for t in b.model.taps if t < b.start)})) for b in self.banks]
        self.scopes = tuple(scopes)
        if exits and not max(exits) < last:
            raise InputError(f"exits: boundary {max(exits)} is not below the last of {last} blocks")
        self.exits = tuple(sorted(exits))
        self.splits = [tuple(b for b in self.exits if b > bank.start and not bank.group.drops) for bank in self.banks]
        for number, (bank, splits) in enumerate(zip(self.banks, self.splits, strict=True)):
            if splits and bank.model.taps != (last,):
                raise InputError(
                    f"exits: group {number} ({bank.group.title()}) reads several boundaries and adapts blocks: it "
                    f"cannot be split at {splits[0]}; declare no exits above boundary {bank.start}"
                )
        begins = {boundary for needs in self.needs for boundary in needs}
        self.routes = () if router is None else router.record.boundaries
        self._router_head = None if router is None else jax.device_put(head_of(router))
        # boundaries at which a row may go on behind a router's pass
        top = max(self.routes, default=-1)
        self.kept = tuple(sorted({b for b in {*begins, *self.scopes} if b <= top} | {*self.routes[-1:]}))
        self.stops = tuple(sorted({0, last, *self.scopes, *self.exits, *self.routes, *begins}))
        self._compiled: dict[tuple[Any, ...], Any] = {}
        for bucket in self.buckets:
            for size in self.sizes:
                self._compile(bucket, size)
        self.call_rows = self._measured_call_rows()

    def _compile(self, bucket: int, size: int) -> None:
        spec, network, params = self.backbone.spec, self.backbone.network, self.backbone.params
        ids, mask = jax.ShapeDtypeStruct((size, bucket), jnp.int32), jax.ShapeDtypeStruct((size, bucket), jnp.bool_)
        state = jax.ShapeDtypeStruct((size, bucket, spec.width), jnp.float32)
        number = jax.ShapeDtypeStruct((size,), jnp.int32)

        def keep(name: tuple[Any, ...], function: Any, *arguments: Any) -> None:
            self._compiled[name] = jax.jit(function).lower(*arguments).compile()

        keep(("embed", bucket, size), lambda p, i: network.embed(p, {"ids": i}), params, ids)
        for start, stop in itertools.pairwise(self.stops):
            run = functools.partial(network.run_blocks, start=start, stop=stop)
            keep(("blocks", start, bucket, size), run, params, state, mask)
        keep(("plain", bucket, size), self._plain, params, state, mask)
        for kind in sorted(
            {self._pooling(pooling, b) for pooling in self._poolings for b in self.scopes} - {PLAIN_POOLING}
        ):
            keep(("pooled", *kind, bucket, size), functools.partial(self._pooled, kind), params, state, mask)
        for group, bank in enumerate(self.banks):
            states = dict.fromkeys(self.needs[group], state)
            suffix = functools.partial(self._suffix, bank)
            keep(("suffix", group, bucket, size), suffix, params, bank.leaves, states, mask, number)
            splits = self.splits[group]
            for start, stop in itertools.pairwise((bank.start, *splits) if splits else ()):
                segment = functools.partial(self._segment, bank, start, stop)
                keep(("segment", group, start, bucket, size), segment, params, bank.leaves, state, mask, number)
            if splits:
                keep(("rest", group, bucket, size), suffix, params, bank.leaves, {splits[-1]: state}, mask, number)
        if self.exits:
            keep(("pool", bucket, size), self._pool, state, mask)
        if self.routes:
            states = dict.fromkeys(self.routes, state)
            keep(("route", bucket, size), self._route, params, self._router_head, states, mask)
        for rows in self.sizes:
            index = jax.ShapeDtypeStruct((rows,), jnp.int32)
            keep(("gather", bucket, size, rows), _gather, state, index)

    def _measured_call_rows(self) -> float:
        """Returns what a call costs beside its rows, in rows: from the times of the two smallest sizes."""
        if len(self.sizes) < 2:
            return 0.0
        bucket = next((bucket for bucket in self.buckets if bucket >= TIMED_TOKENS), self.buckets[-1])
        small, large = self.sizes[:2]
        one, several = (self._seconds(bucket, size) for size in (small, large))
        row = (several - one) / (large - small)
        return min(MAX_CALL_ROWS, max(0.0, one / row - small)) if row > 0 else MAX_CALL_ROWS

    def _seconds(self, bucket: int, size: int) -> float:
        """Returns the seconds of one call of the whole trunk."""
        mask, seconds = np.ones((size, bucket), bool), []
        ids = np.full((size, bucket), self.backbone.preprocessing.fill, np.int32)
        for _ in range(1 + TIMED_CALLS):
            start = time.perf_counter()
            jax.block_until_ready(self.prefix(ids, mask, (self.stops[-1],)))
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    def cover(self, rows: int) -> tuple[int, ...]:
        """Returns the batch sizes that hold so many rows at the least cost on this machine, largest first."""
        return cover(rows, self.sizes, self.call_rows)

    def _plain(self, params: Any, state: jax.Array, mask: jax.Array) -> jax.Array:
        network = self.backbone.network
        return pool("mean", network, params, network.finish(params, state), mask).astype(jnp.float32)

    def _suffix(self, bank: Bank, params: Any, leaves: Any, states: Any, mask: Any, slots: Any) -> jax.Array:
        inputs = {"states": states, "mask": mask}
        return bank.model.logits(params, leaves, inputs, slots=slots)

    @property
    def _poolings(self) -> set[str]:
        return {bank.group.pooling for bank in self.banks}

    def _pooling(self, pooling: str, boundary: int) -> tuple[str, bool]:
        """Returns the kind of a score's program: its pooling, and whether the backbone's last norm comes first."""
        # attention starts as the mean, and the bare backbone knows no query
        return ("mean" if pooling == "attention" else pooling, boundary == self.backbone.spec.blocks)

    def _pooled(self, kind: tuple[str, bool], params: Any, state: jax.Array, mask: jax.Array) -> jax.Array:
        network, (pooling, finished) = self.backbone.network, kind
        hidden = network.finish(params, state) if finished else state
        return pool(pooling, network, params, hidden, mask).astype(jnp.float32)

    def _segment(
        self, bank: Bank, start: int, stop: int, params: Any, leaves: Any, state: Any, mask: Any, slots: Any
    ) -> tuple[jax.Array, jax.Array]:
        hooks = GraftHooks(bank.model.site_parts, leaves.get("adapter", {}), slots)
        params = bank.model.trunk(params, leaves, slots)
        hidden = self.backbone.network.run_blocks(params, state, mask, hooks, start=start, stop=stop)
        return hidden, self._pool(hidden, mask)

    def _pool(self, state: jax.Array, mask: jax.Array) -> jax.Array:
        return pool("mean", self.backbone.network, {}, state, mask).astype(jnp.float32)

    def _route(self, params: Any, head: Any, states: Any, mask: jax.Array) -> jax.Array:
        last = self.backbone.spec.blocks
        parts = [
            self._plain(params, states[b], mask) if b == last else self._pool(states[b], mask) for b in self.routes
        ]
        return probabilities_of(head, jnp.concatenate(parts, axis=1))

    def size_for(self, rows: int) -> int:
        """Returns the smallest batch size that holds so many rows."""
        return next(size for size in self.sizes if size >= rows)

    def embed(self, ids: np.ndarray) -> jax.Array:
        """Returns states [U,T,D] at boundary 0."""
        size, bucket = ids.shape
        return self._compiled["embed", bucket, size](self.backbone.params, ids)

    def block(self, start: int, state: jax.Array, mask: np.ndarray) -> jax.Array:
        """Runs the bare backbone from `start` to the next stop, and returns the states [U,T,D] there."""
        size, bucket = mask.shape
        return self._compiled["blocks", start, bucket, size](self.backbone.params, state, mask)

    def pool(self, state: jax.Array, mask: np.ndarray) -> jax.Array:
        """Returns the mean over tokens float32 [U,D]."""
        size, bucket = mask.shape
        return self._compiled["pool", bucket, size](state, mask)

    def segment(
        self, group: int, start: int, state: jax.Array, mask: np.ndarray, slots: np.ndarray
    ) -> tuple[jax.Array, jax.Array]:
        """Runs a group's rows from `start` to its next split.

        Returns the states [B,T,D] there, and their mean over tokens float32 [B,D].
        """
        size, bucket = mask.shape
        run = self._compiled["segment", group, start, bucket, size]
        return run(self.backbone.params, self.banks[group].leaves, state, mask, slots)

    def rest(self, group: int, state: jax.Array, mask: np.ndarray, slots: np.ndarray) -> jax.Array:
        """Returns logits as `suffix` does, from the states at the group's last split."""
        size, bucket = mask.shape
        run = self._compiled["rest", group, bucket, size]
        return run(self.backbone.params, self.banks[group].leaves, {self.splits[group][-1]: state}, mask, slots)

    def prefix(
        self,
        ids: np.ndarray,
        mask: np.ndarray,
        boundaries: Sequence[int],
        known: Mapping[int, Any] | None = None,
    ) -> dict[int, Any]:
        """Returns states [U,T,D] at the boundaries, each of which is one of `stops`, computed once.

        `known` are states that were computed before, of every boundary up to their highest.
        """
        size, bucket = ids.shape
        states = dict(known) if known else {0: self._compiled["embed", bucket, size](self.backbone.params, ids)}
        first = max(states)
        hidden = states[first]
        for start, stop in itertools.pairwise(self.stops):
            if start < first:
                continue
            if start >= max(boundaries):
                break
            hidden = self._compiled["blocks", start, bucket, size](self.backbone.params, hidden, mask)
            states[stop] = hidden
        return {boundary: states[boundary] for boundary in boundaries}

    def gather(self, states: dict[int, jax.Array], index: np.ndarray) -> dict[int, jax.Array]:
        """Returns the states of rows [B,T,D] from those of inputs [U,T,D]; `index` int32 [B] is each row's input."""
        gathered = {}
        for boundary, state in states.items():
            size, bucket, _ = state.shape
            gathered[boundary] = self._compiled["gather", bucket, size, len(index)](state, index)
        return gathered

    def suffix(self, group: int, states: dict[int, jax.Array], mask: np.ndarray, slots: np.ndarray) -> jax.Array:
        """Returns logits float32 [B,C] of rows of one group, C the envelope's labels; `slots` int32 [B]."""
        size, bucket = mask.shape
        run = self._compiled["suffix", group, bucket, size]
        return run(self.backbone.params, self.banks[group].leaves, states, mask, slots)

    def plain(self, state: jax.Array, mask: np.ndarray) -> jax.Array:
        """Returns the mean-pooled output float32 [U,D] of the plain backbone."""
        size, bucket = mask.shape
        return self._compiled["plain", bucket, size](self.backbone.params, state, mask)

    def routed(self, states: Mapping[int, Any], mask: np.ndarray) -> jax.Array:
        """Returns the router's probabilities float32 [U,C] from states [U,T,D] by boundary."""
        size, bucket = mask.shape
        chosen = {boundary: states[boundary] for boundary in self.routes}
        return self._compiled["route", bucket, size](self.backbone.params, self._router_head, chosen, mask)

    def pooled(self, group: int, boundary: int, state: jax.Array, mask: np.ndarray) -> jax.Array:
        """Pools states [U,T,D] at a scope's boundary as the group's heads do: float32 [U,D]."""
        kind = self._pooling(self.banks[group].group.pooling, boundary)
        if kind == PLAIN_POOLING:
            return self.plain(state, mask)
        size, bucket = mask.shape
        return self._compiled["pooled", *kind, bucket, size](self.backbone.params, state, mask)

    @property
    def count(self) -> int:
        """Returns the number of compiled programs, the banks' writes included."""
        return len(self._compiled) + len(self.banks)


def _gather(state: jax.Array, index: jax.Array) -> jax.Array:
    return state[index]
