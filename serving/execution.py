"""The execution of one batch: each row by the submodel in use, or in full where its graft has none.

Shape letters: `N` rows, `U` inputs filled to a batch size, `T` tokens, `D` width, `C` labels of the envelope.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from backbone.buckets import pad
from serving.answers import NotFinite
from serving.batching import NO_GROUP, ROUTING, Queued, RoutedStates
from serving.exiting import EarlyBatch, filled
from serving.prefix_cache import PrefixCache
from serving.programs import Programs
from serving.submodels import PRUNED

Result = np.ndarray | Exception  # logits of a row, or the reason why there are none


@dataclass
class ServingCounts:
    """Counters of the device thread since the start."""

    batches: int = 0  # batches run
    rows: int = 0  # rows answered
    padded_rows: int = 0  # rows computed, filling included
    inputs: int = 0  # distinct inputs that ran through the prefix
    prefix_hits: int = 0  # inputs whose prefix came from the cache
    plain_batches: int = 0  # batches that touched no bank
    scope_blocks: int = 0  # blocks of inputs that ran for an out-of-scope score alone
    device_seconds: float = 0.0  # seconds of the device thread in batches


@dataclass(frozen=True)
class _Inputs:
    """The distinct inputs of a batch, filled to a batch size."""

    of_rows: np.ndarray  # int32 [N], number of each row's input
    count: int  # inputs without the filling
    ids: np.ndarray  # int32 [U,T]
    mask: np.ndarray  # bool [U,T]


@dataclass(frozen=True)
class _Waiting:
    """Rows whose values are computed on the device."""

    rows: np.ndarray  # int [n], numbers of the rows
    values: jax.Array  # float32 [.,C]
    places: np.ndarray  # int [n], place of each row in `values`


class Executor:
    """Runs batches; used by the device thread only."""

    def __init__(self, programs: Programs, prefix_cache: PrefixCache):
        self._programs, self._prefix_cache = programs, prefix_cache
        self.counts = ServingCounts()
        self.answered_by: Counter[str] = Counter()  # rows of grafts by submodel
        self.rows_of: Counter[str] = Counter()  # rows by task
        # expected number of rows that a cheaper submodel answered worse than full depth would, by task
        self.given_up: defaultdict[str, float] = defaultdict(float)

    def run(self, rows: Sequence[Queued], submodel_of: Callable[[str], str]) -> list[Result]:
        """Returns the result of each row [N] of one bucket, and notes in each row which submodel answered it.

        `submodel_of` gives the submodel in use of a task.
        """
        early = np.array([row.exits is not None and submodel_of(row.task) == "exits" for row in rows])
        routing = np.array([row.group == ROUTING for row in rows])
        known = ~early & np.array([row.states is not None for row in rows])
        others = ~early & ~routing & ~known
        results: list[Result] = [NotFinite("not computed")] * len(rows)
        for chosen, run in (
            (routing, self._run_routing),
            (early, self._run_early),
            (known, self._run),
            *((part, self._run) for part in self._parts(rows, np.flatnonzero(others))),
        ):
            numbers = np.flatnonzero(chosen).tolist()
            for number, result in zip(numbers, run([rows[i] for i in numbers]) if numbers else (), strict=True):
                results[number] = result
        for row, left in zip(rows, early.tolist(), strict=True):
            if left or row.submodel == PRUNED:
                self.given_up[row.task] += row.lost
        self.rows_of.update(row.task for row in rows if row.task)
        self.answered_by.update(row.submodel for row in rows if row.group not in (NO_GROUP, ROUTING))
        return results

    def _parts(self, rows: Sequence[Queued], numbers: np.ndarray) -> Iterator[np.ndarray]:
        """Yields masks bool [N] of the rows of each batch, so that their inputs fill batches at the least cost.

        Rows of one input stay together, since they share its prefix.
        """
        inputs: dict[bytes, list[int]] = {}
        for number in numbers.tolist():
            inputs.setdefault(rows[number].ids.tobytes(), []).append(number)
        of_inputs = iter(inputs.values())
        for size in self._programs.cover(len(inputs)):
            part = np.zeros(len(rows), bool)
            for chosen in itertools.islice(of_inputs, size):
                part[chosen] = True
            yield part

    def _run_routing(self, rows: Sequence[Queued]) -> list[Result]:
        """Returns the router's probabilities for each row, and leaves the states from which its graft goes on."""
        start, programs = time.perf_counter(), self._programs
        inputs = self._inputs(rows)
        states = self._states(inputs, sorted({*programs.kept, *programs.routes}))
        values = np.asarray(programs.routed(states, inputs.mask))
        kept = RoutedStates({boundary: states[boundary] for boundary in programs.kept})
        for row, place in zip(rows, inputs.of_rows.tolist(), strict=True):
            row.states, row.place = kept, place
        self._count(rows, inputs, start)
        return [_finite(values[place]) for place in inputs.of_rows.tolist()]

    def _run_early(self, rows: Sequence[Queued]) -> list[Result]:
        start = time.perf_counter()
        inputs = self._inputs(rows)
        batch = EarlyBatch(self._programs, rows, inputs.of_rows, inputs.mask)
        values = batch.run(inputs.ids)
        self.counts.padded_rows += batch.computed_rows
        self._count(rows, inputs, start)
        results = [_finite(value) for value in values]
        for number, pooled in batch.pooled.items():
            results[number] = _joined(results[number], pooled)
        return results

    def _run(self, rows: Sequence[Queued]) -> list[Result]:
        """Runs the prefix once for each distinct input, then the suffix of each group."""
        start, programs = time.perf_counter(), self._programs
        inputs = self._inputs(rows)
        groups = sorted({row.group for row in rows})
        last = programs.backbone.spec.blocks
        answering = {b for g in groups for b in ((last,) if g == NO_GROUP else programs.needs[g])}
        scoped = sorted({(row.group, row.scope) for row in rows if row.scope is not None})
        boundaries = sorted(answering | {boundary for _, boundary in scoped})
        known = self._known(rows, inputs)
        states = programs.prefix(inputs.ids, inputs.mask, boundaries, known) if known else None
        states = states or self._states(inputs, boundaries)
        pooled = {key: programs.pooled(*key, states[key[1]], inputs.mask) for key in scoped}
        waiting: list[_Waiting] = []
        for group in groups:
            chosen = np.array([i for i, row in enumerate(rows) if row.group == group])
            if group == NO_GROUP:
                waiting.append(_Waiting(chosen, programs.plain(states[last], inputs.mask), inputs.of_rows[chosen]))
            else:
                waiting += self._suffixes(group, rows, chosen, inputs, states)
        results: list[Result] = [NotFinite("not computed")] * len(rows)
        for part in waiting:
            for number, value in zip(part.rows.tolist(), np.asarray(part.values)[part.places], strict=True):
                results[number] = _finite(value)
        _append_pooled(results, rows, inputs.of_rows, {key: np.asarray(value) for key, value in pooled.items()})
        self.counts.scope_blocks += (max(boundaries) - max(answering)) * inputs.count
        self.counts.plain_batches += groups == [NO_GROUP]
        self._count(rows, inputs, start)
        return results

    def _count(self, rows: Sequence[Queued], inputs: _Inputs, start: float) -> None:
        self.counts.batches += 1
        self.counts.rows += len(rows)
        self.counts.inputs += inputs.count
        self.counts.device_seconds += time.perf_counter() - start

    def _inputs(self, rows: Sequence[Queued]) -> _Inputs:
        keys = [row.ids.tobytes() for row in rows]
        distinct = {key: row.ids for key, row in zip(keys, rows, strict=True)}
        places = {key: number for number, key in enumerate(distinct)}
        inputs = list(distinct.values())
        size = self._programs.size_for(len(inputs))
        padded = [*inputs, *[inputs[-1]] * (size - len(inputs))]
        ids, mask = pad(padded, rows[0].bucket, self._programs.backbone.preprocessing.fill)
        return _Inputs(np.array([places[key] for key in keys], np.int32), len(inputs), ids, mask)

    def _states(self, inputs: _Inputs, boundaries: Sequence[int]) -> dict[int, Any]:
        """Returns states [U,T,D] at the boundaries, from the cache if it has those of every input."""
        programs, cache, ids, mask = self._programs, self._prefix_cache, inputs.ids, inputs.mask
        if not cache.budget:
            return programs.prefix(ids, mask, boundaries)
        keys = [(ids.shape[1], ids[i][mask[i]].tobytes()) for i in range(inputs.count)]
        cached = [kept for key in keys if (kept := cache.get(key, boundaries)) is not None]
        if len(cached) == inputs.count:
            self.counts.prefix_hits += inputs.count
            cached += [cached[-1]] * (len(ids) - inputs.count)
            return {boundary: np.stack([kept[boundary] for kept in cached]) for boundary in boundaries}
        states = programs.prefix(ids, mask, boundaries)
        host = {boundary: np.asarray(state) for boundary, state in states.items()}
        for number, key in enumerate(keys):
            cache.put(key, {boundary: state[number].copy() for boundary, state in host.items()})
        return states

    def _known(self, rows: Sequence[Queued], inputs: _Inputs) -> dict[int, Any]:
        """Returns states [U,T,D] by boundary that a router's pass left; empty if it did not see the rows.

        Rows of one pass stay on the device.
        """
        first = {place: row for row, place in zip(rows[::-1], inputs.of_rows[::-1].tolist(), strict=True)}
        chosen = [first[place] for place in range(inputs.count)]
        chosen += [chosen[-1]] * (len(inputs.ids) - inputs.count)
        passes = [(row.states, row.place) for row in chosen if row.states is not None]
        if len(passes) < len(chosen):
            return {}
        if len({id(states) for states, _ in passes}) > 1:
            kept = [(states.on_host, place) for states, place in passes]
            return {boundary: np.stack([states[boundary][place] for states, place in kept]) for boundary in kept[0][0]}
        on_device, places = passes[0][0].on_device, np.array([place for _, place in passes], np.int32)
        same = np.array_equal(places, np.arange(len(next(iter(on_device.values())))))
        return on_device if same else self._programs.gather(on_device, places)

    def _suffixes(
        self,
        group: int,
        rows: Sequence[Queued],
        chosen: np.ndarray,
        inputs: _Inputs,
        states: dict[int, Any],
    ) -> list[_Waiting]:
        """Starts the suffix of a group for its rows `chosen` int [n], in the cheapest batches that cover them."""
        programs = self._programs
        needed, waiting, done = {boundary: states[boundary] for boundary in programs.needs[group]}, [], 0
        for size in programs.cover(len(chosen)):
            part = chosen[done : done + size]
            done += size
            places = inputs.of_rows[filled(part, size)]
            gathered = needed
            if not np.array_equal(places, np.arange(len(inputs.mask))):
                gathered = programs.gather(needed, places)
            slots = np.zeros(size, np.int32)
            slots[: len(part)] = [rows[i].slot for i in part]
            self.counts.padded_rows += size
            values = programs.suffix(group, gathered, inputs.mask[places], slots)
            waiting.append(_Waiting(part, values, np.arange(len(part))))
        return waiting


def _append_pooled(
    results: list[Result], rows: Sequence[Queued], inputs: np.ndarray, pooled: dict[tuple[int, int], np.ndarray]
) -> None:
    """Puts the pooled state of a row's input after its logits if the row has a scope."""
    for number, (row, result) in enumerate(zip(rows, results, strict=True)):
        if row.scope is not None:
            results[number] = _joined(result, pooled[row.group, row.scope][inputs[number]])


def _joined(result: Result, pooled: np.ndarray) -> Result:
    """Returns logits, and behind them the pooled state of the row's input."""
    if isinstance(result, Exception):
        return result
    joined = np.concatenate([result, pooled])
    return joined if np.isfinite(joined).all() else NotFinite("the backbone's state is not finite")


def _finite(value: np.ndarray | None) -> Result:
    if value is None:
        return NotFinite("not computed")
    return value if np.isfinite(value).all() else NotFinite("the graft's output is not finite")
