"""A backbone and many grafts in one process.

    runtime = Runtime(backbone, envelope, buckets=(16, 32, 64), batch_sizes=(1, 8, 32))
    runtime.load("banking77", "runs/banking77/graft")
    runtime.predict([("banking77", "I am still waiting on my card?"), ("emotion", "what a day")])

Rows of any tasks share batches. Every program is compiled when the constructor returns; loading,
swapping and removing grafts compiles nothing. Below the lowest adapted block the backbone runs once for
each distinct input of a batch, however many grafts are asked of it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters.artefact.exits import Exits
from adapters.graft import Graft, load_graft
from backbone.buckets import bucket_of, pad
from backbone.errors import InputError, nearest
from backbone.preprocessing import TextPreprocessing
from backbone.storage import Backbone
from backbone.trees import content_hash, map_leaves
from serving.answers import Answer, NotFinite, Pending, score_rows
from serving.bank import Bank, Envelope
from serving.batching import NO_GROUP, Batcher, Queued, fail
from serving.exiting import EarlyBatch
from serving.prefix_cache import PrefixCache
from serving.programs import Programs, cover
from serving.residency import LoadedGraft, Residency, Seat, Served


class UnknownTask(InputError):
    """No graft is served under this name."""


@dataclass
class ServingCounts:
    """What the device thread has done since the start."""

    batches: int = 0
    rows: int = 0
    padded_rows: int = 0  # rows computed, filling included
    inputs: int = 0  # distinct inputs that ran through the prefix
    prefix_hits: int = 0  # inputs whose prefix came from the cache
    plain_batches: int = 0  # batches that touched no bank
    scope_blocks: int = 0  # blocks of inputs that ran for an out-of-scope score alone
    device_seconds: float = 0.0


class Runtime:
    """Serves grafts by name; safe to use from any thread."""

    def __init__(
        self,
        backbone: Backbone,
        envelope: Envelope,
        *,
        buckets: Sequence[int] | None = None,
        batch_sizes: Sequence[int],
        max_wait: float = 0.002,
        max_waiting: int = 1024,
        host_bytes: int = 256 << 20,
        cache_bytes: int = 0,
        bfloat16: Backbone | None = None,
    ):
        """Compiles everything for these `buckets` (tokens; default: the backbone's ladder) and batch sizes.

        `max_wait` seconds a row waits for others, `max_waiting` rows in all, `host_bytes` of verified grafts
        kept beside the slots, `cache_bytes` of prefix states kept by input (0: none). `bfloat16` is the same backbone
        in bfloat16, for the submodel of that name.
        """
        if not isinstance(backbone.preprocessing, TextPreprocessing):
            raise InputError(f"{backbone.path}: takes images; the runtime serves text")
        self.backbone, self.envelope, self._preprocessing = backbone, envelope, backbone.preprocessing
        self.buckets = tuple(sorted(set(buckets or backbone.lengths)))
        if self.buckets[-1] > backbone.lengths[-1] or self.buckets[0] < 4:
            raise InputError(f"buckets: each must lie in 4..{backbone.lengths[-1]}, got {self.buckets}")
        self.banks = [Bank(backbone.network, group, envelope.labels) for group in envelope.groups]
        scopes = envelope.scope_boundaries(backbone.spec.blocks)
        self.programs = Programs(backbone, self.banks, self.buckets, batch_sizes, scopes, envelope.exits)
        self.bfloat16 = None if bfloat16 is None else Programs(bfloat16, self.banks, self.buckets, batch_sizes)
        self.submodel = "full"  # used from the next batch on; set by whoever controls it, from any thread
        self.counts = ServingCounts()
        self.answered: Counter[str] = Counter()  # rows by outcome: done, failed, cancelled
        self.answered_by: Counter[str] = Counter()  # rows of grafts by submodel
        self._prefix = PrefixCache(cache_bytes)
        self._batcher = Batcher(
            self._answer, max_rows=self.programs.sizes[-1], max_waiting=max_waiting, max_wait=max_wait
        )
        self.residency = Residency(self.banks, self._batcher.call, host_bytes, scopes)
        self._entries: dict[str, Served] = {}
        self._lock = threading.Lock()

    def load(self, task: str, graft: Graft | str | Path, *, version: str = "1", generation: int = 0) -> Served:
        """Serves `graft` (a folder or a loaded one) as `task`, in the place of what was served before.

        Returns when it is in its slot; until then the former version answers. Raises InputError if it does
        not load or lies outside the envelope, and then nothing has changed.
        """
        if not isinstance(graft, Graft):
            graft = load_graft(graft, self.backbone)
        loaded = graft
        own = map_leaves(np.asarray, loaded.params)
        for name, part in (("exits", loaded.exits), ("scope", loaded.scope)):
            own |= {} if part is None else {name: part.tensors()}
        text = repr((loaded.model, loaded.max_tokens))
        content_id = loaded.manifest.content_id if loaded.manifest else content_hash(own, text)
        served = Served(task, version, content_id, lambda: loaded, generation)
        self.warm(served)
        self.offer(served)
        return served

    def offer(self, served: Served) -> Served | None:
        """Serves `served` under its task's name from now on, loaded when first asked for; returns the former."""
        with self._lock:
            former = self._entries.get(served.task)
            self._entries[served.task] = served
        self._drop(former)
        return former

    def remove(self, task: str) -> None:
        """Serves the task no more; rows under way are still answered."""
        with self._lock:
            former = self._entries.pop(task, None)
        self._drop(former)

    def _drop(self, former: Served | None) -> None:
        if former is not None and former.content_id not in {s.content_id for s in self.entries.values()}:
            self.residency.drop(former.content_id)

    def warm(self, served: Served) -> None:
        """Puts a graft into a slot, and returns when it is there; raises what its load raised."""
        done: Future[Seat] = Future()

        def ready(outcome: Seat | Exception) -> None:
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

        self.residency.acquire(served, ready)
        self.residency.release(done.result())

    @property
    def entries(self) -> dict[str, Served]:
        """What is served, by task."""
        with self._lock:
            return dict(self._entries)

    @property
    def waiting(self) -> int:
        """Rows queued, or waiting for their graft."""
        return self._batcher.waiting

    def find(self, task: str) -> Served:
        """What is served as `task`; raises UnknownTask."""
        with self._lock:
            found = self._entries.get(task)
            if found is None:
                raise UnknownTask(f"no task {task!r} is served; {nearest(task, self._entries)}")
            return found

    def price_of_scope(self, prepared: LoadedGraft) -> dict[str, Any] | None:
        """What a graft's out-of-scope score is and costs, for people; None where it has none.

        `extra_blocks` of the bare backbone run for the score alone, once for each distinct input of a batch.
        """
        if (scope := prepared.scope) is None:
            return None
        return {
            "boundary": scope.boundary,
            "false_alarms": scope.false_alarms,
            "abstains": scope.abstain,
            "extra_blocks": max(0, scope.boundary - max(self.programs.needs[prepared.group])),
            "blocks": self.backbone.spec.blocks,
        }

    def submit(self, rows: Sequence[tuple[str | Served, str]], *, timeout: float | None = None) -> list[Pending]:
        """Queues (task, text) rows, all or none, each bound to the version that is live now.

        `timeout` seconds until a row that has not run fails with DeadlineExceeded. Raises UnknownTask,
        Overloaded or Closed.
        """
        chosen = [(task if isinstance(task, Served) else self.find(task), text) for task, text in rows]
        for number, (_, text) in enumerate(chosen):
            if not isinstance(text, str):
                raise InputError(f"rows[{number}]: expected (task, text), got {type(text).__name__} for the text")
        deadline = None if timeout is None else time.monotonic() + timeout
        self._batcher.reserve(len(chosen))
        return [self._submit(served, text, deadline) for served, text in chosen]

    def _submit(self, served: Served, text: str, deadline: float | None) -> Pending:
        pending = Pending(served)

        def ready(outcome: Seat | Exception) -> None:
            if isinstance(outcome, Exception):
                self._batcher.forget()
                fail(pending.future, outcome)
                return
            pending.prepared = outcome.prepared
            pending.future.add_done_callback(lambda _: self.residency.release(outcome))
            try:
                ids = self._ids(text, outcome.prepared.max_tokens)
                bucket = bucket_of(len(ids), self.buckets)
                scope, pending.tokens = outcome.prepared.scope, len(ids)
                row = Queued(
                    bucket, ids, outcome.prepared.group, outcome.slot, deadline, pending.future,
                    scope=None if scope is None else scope.boundary,
                    exits=self.usable(outcome.prepared), bfloat16=outcome.prepared.bfloat16, notes=pending.notes,
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - what one text raises belongs to its caller
                self._batcher.forget()
                fail(pending.future, error)
                return
            self._batcher.put(row)

        pending.future.add_done_callback(self._count_outcome)
        self.residency.acquire(served, ready)
        return pending

    def _ids(self, text: str, max_tokens: int) -> np.ndarray:
        return self._preprocessing.encode([text], min(max_tokens, self.buckets[-1]))[0]

    def _count_outcome(self, future: Future[np.ndarray]) -> None:
        outcome = "cancelled" if future.cancelled() else "failed" if future.exception() else "done"
        with self._lock:
            self.answered[outcome] += 1

    def predict(self, rows: Sequence[tuple[str, str]], *, timeout: float | None = None) -> list[Answer]:
        """Answers for (task, text) rows, in order; raises as `submit` and what a row raised."""
        pending = self.submit(rows, timeout=timeout)
        score_rows(pending)
        return [one.answer() for one in pending]

    def features(self, texts: Sequence[str], *, timeout: float | None = None) -> np.ndarray:
        """Mean-pooled output float32 [N,D] of the plain backbone; uses no bank."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not texts:
            return np.zeros((0, self.backbone.spec.width), np.float32)
        encoded = [self._ids(text, self.buckets[-1]) for text in texts]
        self._batcher.reserve(len(encoded))
        rows = [Queued(bucket_of(len(ids), self.buckets), ids, NO_GROUP, 0, deadline) for ids in encoded]
        for row in rows:
            self._batcher.put(row)
        return np.stack([row.future.result() for row in rows])

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Runs `function` on the thread that owns the device, between two batches."""
        return self._batcher.call(function)

    def close(self) -> None:
        """Takes no more rows, answers those that wait, ends the threads."""
        self._batcher.close()
        self.residency.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def usable(self, prepared: LoadedGraft) -> Exits | None:
        """The graft's exits if batches are split at all of them: their threshold holds for all together."""
        exits = prepared.exits
        return exits if exits is not None and set(exits.boundaries) <= set(self.programs.exits) else None

    def submodels_of(self, prepared: LoadedGraft) -> dict[str, Any]:
        """The cheaper submodels that a graft has here, for people: of bfloat16 whether, of exits what they promise."""
        exits = self.usable(prepared)
        bfloat16 = self.bfloat16 is not None and prepared.bfloat16
        return {"bfloat16": bfloat16, "exits": None if exits is None else exits.facts()}

    def _answer(self, rows: Sequence[Queued]) -> list[np.ndarray | Exception]:
        """One batch by the submodel that is in use; rows that have no such submodel are answered in full."""
        submodel = self.submodel
        early = np.array([submodel == "exits" and row.exits is not None for row in rows])
        low = np.array([submodel == "bfloat16" and row.bfloat16 and self.bfloat16 is not None for row in rows])
        results: list[np.ndarray | Exception] = [NotFinite("not computed")] * len(rows)
        for chosen, run in ((early, self._run_early), (low, self._run_bfloat16), (~early & ~low, self._run)):
            numbers = np.flatnonzero(chosen).tolist()
            for number, result in zip(numbers, run([rows[i] for i in numbers]) if numbers else (), strict=True):
                results[number] = result
        self.answered_by.update(row.notes.get("submodel", "full") for row in rows if row.group != NO_GROUP)
        return results

    def _inputs(self, rows: Sequence[Queued], programs: Programs) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """The number of each row's input int32 [N], how many are distinct, and those, filled to a batch: ids, mask."""
        keys = [row.ids.tobytes() for row in rows]
        distinct = {key: row.ids for key, row in zip(keys, rows, strict=True)}
        place = {key: number for number, key in enumerate(distinct)}
        inputs = list(distinct.values())
        filled = [*inputs, *[inputs[-1]] * (programs.size_for(len(inputs)) - len(inputs))]
        ids, mask = pad(filled, rows[0].bucket, self.backbone.preprocessing.fill)
        return np.array([place[key] for key in keys], np.int32), len(inputs), ids, mask

    def _run_early(self, rows: Sequence[Queued]) -> list[np.ndarray | Exception]:
        """One batch with early exits."""
        begun = time.perf_counter()
        index, inputs, ids, mask = self._inputs(rows, self.programs)
        batch = EarlyBatch(self.programs, rows, index, mask)
        found = batch.run(ids)
        counts = self.counts
        counts.batches += 1
        counts.rows += len(rows)
        counts.inputs += inputs
        counts.padded_rows += batch.computed_rows
        counts.device_seconds += time.perf_counter() - begun
        return [_finite(value) for value in found]

    def _run_bfloat16(self, rows: Sequence[Queued]) -> list[np.ndarray | Exception]:
        """One batch in bfloat16."""
        for row in rows:
            row.notes["submodel"] = "bfloat16"
        return self._run(rows, self.bfloat16)

    def _run(self, rows: Sequence[Queued], programs: Programs | None = None) -> list[np.ndarray | Exception]:
        """One batch: the prefix once for each distinct input, then each group's suffix."""
        begun, programs = time.perf_counter(), programs or self.programs
        index, inputs, ids, mask = self._inputs(rows, programs)
        groups = sorted({row.group for row in rows})
        last = self.backbone.spec.blocks
        answering = {b for g in groups for b in ((last,) if g == NO_GROUP else programs.needs[g])}
        scoped = sorted({(row.group, row.scope) for row in rows if row.scope is not None})
        wanted = sorted(answering | {boundary for _, boundary in scoped})
        states = self._states(programs, ids, mask, wanted, inputs)
        pooled = {key: programs.pooled(*key, states[key[1]], mask) for key in scoped}
        results: list[np.ndarray | Exception] = [NotFinite("not computed")] * len(rows)
        waiting = []
        for group in groups:
            chosen = np.array([i for i, row in enumerate(rows) if row.group == group])
            if group == NO_GROUP:
                waiting.append((chosen, programs.plain(states[last], mask), index[chosen]))
                continue
            needed = {boundary: states[boundary] for boundary in programs.needs[group]}
            for part in _parts(chosen, programs.sizes):
                waiting.append((part.rows, *self._suffix(programs, group, rows, part, index, needed, mask)))
        for chosen, values, where in waiting:
            for number, value in zip(chosen.tolist(), np.asarray(values)[where], strict=True):
                results[number] = _finite(value)
        _join_pooled(results, rows, index, {key: np.asarray(value) for key, value in pooled.items()})
        counts = self.counts
        counts.scope_blocks += (max(wanted) - max(answering)) * inputs
        counts.batches += 1
        counts.rows += len(rows)
        counts.inputs += inputs
        counts.plain_batches += groups == [NO_GROUP]
        counts.device_seconds += time.perf_counter() - begun
        return results

    def _suffix(
        self,
        programs: Programs,
        group: int,
        rows: Sequence[Queued],
        part: _Part,
        index: np.ndarray,
        states: Any,
        mask: np.ndarray,
    ) -> tuple[jax.Array, np.ndarray]:
        filled = np.concatenate([part.rows, np.repeat(part.rows[-1:], part.size - len(part.rows))])
        inputs = index[filled]
        if not np.array_equal(inputs, np.arange(len(mask))):
            states = programs.gather(states, inputs)
        slots = np.zeros(part.size, np.int32)
        slots[: len(part.rows)] = [rows[i].slot for i in part.rows]
        self.counts.padded_rows += part.size
        return programs.suffix(group, states, mask[inputs], slots), np.arange(len(part.rows))

    def _states(
        self, programs: Programs, ids: np.ndarray, mask: np.ndarray, wanted: Sequence[int], count: int
    ) -> dict[int, Any]:
        """States at the wanted boundaries, from the cache if every input's are there; it keeps none in bfloat16."""
        if not self._prefix.budget or programs is not self.programs:
            return dict(programs.prefix(ids, mask, wanted))
        keys = [(ids.shape[1], ids[i][mask[i]].tobytes()) for i in range(count)]
        found = [self._prefix.get(key, wanted) for key in keys]
        kept = [states for states in found if states is not None]
        if len(kept) == count:
            self.counts.prefix_hits += count
            kept += [kept[-1]] * (len(ids) - count)
            return {boundary: np.stack([states[boundary] for states in kept]) for boundary in wanted}
        states = programs.prefix(ids, mask, wanted)
        host = {boundary: np.asarray(state) for boundary, state in states.items()}
        for number, key in enumerate(keys):
            self._prefix.put(key, {boundary: state[number].copy() for boundary, state in host.items()})
        return dict(states)


def _join_pooled(
    results: list[np.ndarray | Exception],
    rows: Sequence[Queued],
    index: np.ndarray,
    pooled: dict[tuple[int, int], np.ndarray],
) -> None:
    """Puts the pooled state of a row's input after its logits, where the row has a scope."""
    for number, (row, result) in enumerate(zip(rows, results, strict=True)):
        if row.scope is not None and isinstance(result, np.ndarray):
            joined = np.concatenate([result, pooled[row.group, row.scope][index[number]]])
            results[number] = joined if np.isfinite(joined).all() else NotFinite("the backbone's state is not finite")


def _finite(value: np.ndarray | None) -> np.ndarray | Exception:
    if value is None:
        return NotFinite("not computed")
    return value if np.isfinite(value).all() else NotFinite("the graft's output is not finite")


@dataclass(frozen=True)
class _Part:
    """Rows that run together, and the batch size they run in."""

    rows: np.ndarray  # numbers of the rows
    size: int


def _parts(rows: np.ndarray, sizes: tuple[int, ...]) -> list[_Part]:
    parts, done = [], 0
    for size in cover(len(rows), sizes):
        parts.append(_Part(rows[done : done + size], size))
        done += size
    return parts
