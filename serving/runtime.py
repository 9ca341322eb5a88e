"""A backbone and many grafts in one process.

    runtime = Runtime(backbone, envelope, buckets=(16, 32, 64), batch_sizes=(1, 8, 32))
    runtime.load("banking77", "runs/banking77/graft")
    runtime.predict([("banking77", "I am still waiting on my card?"), ("emotion", "what a day")])

Rows of any tasks share batches. Every program is compiled when the constructor returns; loading, swapping and removing
grafts compiles nothing. Below the lowest adapted block the backbone runs once for each distinct input of a batch,
whatever the number of grafts that answer it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adapters.artefact.exits import Exits
from adapters.artefact.router import Router, require_trunk
from adapters.graft import Graft
from backbone.buckets import bucket_of
from backbone.errors import InputError, shown
from backbone.preprocessing import TextPreprocessing
from backbone.storage import Backbone
from backbone.trees import content_hash, map_leaves
from serving.answers import Answer, Pending, score_rows
from serving.bank import Bank, Envelope
from serving.batching import NO_GROUP, ROUTING, Batcher, Queued, fail
from serving.execution import Executor
from serving.live.loading import load_for_serving
from serving.live.readers import Unanswered
from serving.names import Names
from serving.prefix_cache import PrefixCache
from serving.programs import Programs
from serving.residency import LOAD_SECONDS, LoadedGraft, Residency, Seat, Served
from serving.submodels import PRUNED, ScopeCost, Standin, Submodels

CLOSE_SECONDS = 30.0  # seconds that `close` waits for loads, and for the device


class UnknownTask(InputError):
    """No graft is served under this name."""


class _Place:
    """The place of a row in the queue: taken by the row, or given back, whichever comes first."""

    def __init__(self, give_back: Callable[[], None]):
        self._give_back, self._lock, self._open = give_back, threading.Lock(), True

    def taken(self) -> bool:
        """Returns whether the row may take it."""
        with self._lock:
            was_open, self._open = self._open, False
        return was_open

    def give_back(self) -> None:
        """Gives it back, unless the row has taken it."""
        if self.taken():
            self._give_back()


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
        load_seconds: float = LOAD_SECONDS,
        router: Router | None = None,
    ):
        """Compiles everything for these `buckets` (tokens; default: the backbone's lengths) and batch sizes (rows).

        A row waits at most `max_wait` seconds for others, where others ask. At most `max_waiting` rows wait.
        `host_bytes` of verified grafts are kept beside the slots, and `cache_bytes` of prefix states by input (0:
        none). A graft that is not read and verified within `load_seconds` fails the rows that want it. `router` names
        the task of rows that name none. Raises InputError for a backbone for images, and for buckets, an envelope or a
        router that do not fit the backbone.
        """
        if not isinstance(backbone.preprocessing, TextPreprocessing):
            raise InputError(f"{backbone.path}: takes images; the runtime serves text")
        self.backbone, self.envelope, self._preprocessing = backbone, envelope, backbone.preprocessing
        self.buckets = tuple(sorted(set(buckets or backbone.lengths)))
        if self.buckets[-1] > backbone.lengths[-1] or self.buckets[0] < 4:
            raise InputError(f"buckets: each must lie in 4..{backbone.lengths[-1]}, got {self.buckets}")
        self.banks = [Bank(backbone.network, group, envelope.labels) for group in envelope.groups]
        scopes = envelope.scope_boundaries(backbone.spec.blocks)
        self.router = router
        if router is not None:
            require_trunk(router, backbone.weights_id, backbone.preprocessing_id, "router")
        self.programs = Programs(backbone, self.banks, self.buckets, batch_sizes, scopes, envelope.exits, router)
        self.submodel = "full"  # submodel in use from the next batch on; any thread may set it
        self.submodels: Mapping[str, str] = {}  # submodel by task, where it is not `submodel`; any thread may set it
        self.standins: Mapping[str, Standin] = {}  # pruned graft by task; any thread may set it
        self.answered: Counter[str] = Counter()  # rows by outcome: done, failed, cancelled
        executor = Executor(self.programs, PrefixCache(cache_bytes))
        self.counts, self.answered_by = executor.counts, executor.answered_by
        self.rows_of, self.given_up = executor.rows_of, executor.given_up
        self._batcher = Batcher(
            lambda rows: executor.run(rows, self.submodel_of),
            max_rows=self.programs.sizes[-1],
            max_waiting=max_waiting,
            max_wait=max_wait,
        )
        self.residency = Residency(self.banks, self._batcher.call, host_bytes, scopes, load_seconds)
        self._entries: dict[str, Served] = {}
        self._names: Names | None = None  # names of the entries; None: to be made anew
        self._lock = threading.Lock()

    def load(self, task: str, graft: Graft | str | Path, *, version: str = "1", generation: int = 0) -> Served:
        """Serves `graft` (a folder or a loaded one) as `task`, in the place of the former version.

        Returns when it is in its slot; until then the former version answers. Raises InputError, and changes nothing,
        if it does not load or lies outside the envelope.
        """
        if not isinstance(graft, Graft):
            graft = load_for_serving(graft, self.backbone)
        loaded = graft
        tensors = map_leaves(np.asarray, loaded.params)
        for name, part in (("exits", loaded.exits), ("scope", loaded.scope)):
            parts = {} if part is None else {key.replace(".", "/"): leaf for key, leaf in part.tensors().items()}
            tensors |= {name: parts} if parts else {}
        text = repr((loaded.model, loaded.max_tokens))
        content_id = loaded.manifest.content_id if loaded.manifest else content_hash(tensors, text)
        served = Served(task, version, content_id, lambda: loaded, generation)
        self.warm(served)
        self.offer(served)
        return served

    def offer(self, served: Served) -> Served | None:
        """Serves `served` as its task from now on, and returns the former version. The first request loads it."""
        with self._lock:
            former = self._entries.get(served.task)
            self._entries[served.task] = served
            self._names = self._names if former is not None else None
        self._drop(former)
        return former

    def remove(self, task: str) -> None:
        """Stops serving the task; rows under way are still answered."""
        with self._lock:
            former = self._entries.pop(task, None)
            self._names = None
        self._drop(former)

    def _drop(self, former: Served | None) -> None:
        if former is not None and former.content_id not in {s.content_id for s in self.entries.values()}:
            self.residency.drop(former.content_id)

    def warm(self, served: Served, seconds: float | None = None) -> None:
        """Puts a graft into a slot, and returns when it is in; raises what its load raised.

        After `seconds` it raises Unanswered; the load goes on.
        """
        done = self.warm_later(served)
        if wait([done], seconds).not_done:
            raise Unanswered(
                f"{served.task} version {served.version}: not loaded within {seconds:g} s; the load goes on"
            )
        done.result()

    def warm_later(self, served: Served) -> Future[None]:
        """Returns the future of `warm`."""
        done: Future[None] = Future()

        def ready(outcome: Seat | Exception) -> None:
            if isinstance(outcome, Exception):
                fail(done, outcome)
                return
            self.residency.release(outcome)
            if done.set_running_or_notify_cancel():
                done.set_result(None)

        self.residency.acquire(served, ready)
        return done

    @property
    def entries(self) -> dict[str, Served]:
        """Returns the version that is served of each task."""
        with self._lock:
            return dict(self._entries)

    @property
    def waiting(self) -> int:
        """Returns how many rows are queued or wait for their graft."""
        return self._batcher.waiting

    def submodel_of(self, task: str) -> str:
        """Returns the submodel in use of a task."""
        return self.submodels.get(task, self.submodel)

    def _answering(self, served: Served) -> Served:
        """Returns a version with the content of its pruned graft, where that is in use and was made from it."""
        standin = self.standins.get(served.task) if self.submodel_of(served.task) == PRUNED else None
        if standin is None or self._entries.get(served.task) != served:
            return served
        return replace(served, content_id=standin.served.content_id, load=standin.served.load)

    def find(self, task: str) -> Served:
        """Returns the version that is served as `task`; raises UnknownTask."""
        with self._lock:
            if (served := self._entries.get(task)) is not None:
                return served
            if self._names is None:
                self._names = Names(self._entries)
            names = self._names
        raise UnknownTask(f"no task {shown(task)} is served; {names.nearest(task)}")

    def serves(self, task: str) -> bool:
        """Returns whether a version is served as `task`."""
        return task in self._entries

    def scope_cost(self, graft: LoadedGraft) -> ScopeCost | None:
        """Describes a graft's out-of-scope score and its cost; None if it has none."""
        if (scope := graft.scope) is None:
            return None
        extra = max(0, scope.boundary - max(self.programs.needs[graft.group]))
        return ScopeCost(scope.boundary, scope.false_alarms, scope.abstain, extra, self.backbone.spec.blocks)

    def submit(
        self,
        rows: Sequence[tuple[str | Served, str]],
        *,
        timeout: float | None = None,
        routed: Sequence[Queued] = (),
    ) -> list[Pending]:
        """Queues (task, text) rows, all or none, each bound to the version that is live now.

        A row that has not run after `timeout` seconds fails with DeadlineExceeded. `routed` are the rows of
        `submit_routing` behind these, whose states are used again. Raises UnknownTask, Overloaded or Closed.
        """
        chosen = [(self._answering(task if isinstance(task, Served) else self.find(task)), text) for task, text in rows]
        for number, (_, text) in enumerate(chosen):
            if not isinstance(text, str):
                raise InputError(f"rows[{number}]: expected (task, text), got {type(text).__name__} for the text")
        deadline = None if timeout is None else time.monotonic() + timeout
        rows_of = Counter(served.content_id for served, _ in chosen)
        loading = {graft: count for graft, count in rows_of.items() if not self.residency.resident(graft)}
        self._batcher.reserve(len(chosen) - sum(loading.values()), loading)
        before: list[Queued | None] = list(routed) or [None] * len(chosen)
        for number, (served, _) in enumerate(chosen):
            if served.content_id in loading:
                before[number] = None  # a row that waits for its graft keeps no states on the device meanwhile
        return [
            self._submit(served, text, deadline, served.content_id in loading, row)
            for (served, text), row in zip(chosen, before, strict=True)
        ]

    def submit_routing(self, texts: Sequence[str], *, timeout: float | None = None) -> list[Queued]:
        """Queues texts, all or none, whose futures resolve to the router's probabilities: float32 [C].

        Raises InputError without a router, Overloaded or Closed.
        """
        if self.router is None:
            raise InputError("this runtime has no router")
        deadline = None if timeout is None else time.monotonic() + timeout
        encoded = [self._ids(text, self.router.record.max_tokens) for text in texts]
        self._batcher.reserve(len(encoded))
        rows = [Queued(bucket_of(len(ids), self.buckets), ids, ROUTING, 0, deadline) for ids in encoded]
        for row in rows:
            self._batcher.put(row)
        return rows

    def _submit(
        self, served: Served, text: str, deadline: float | None, loads: bool, routed: Queued | None = None
    ) -> Pending:
        """Binds a row to its graft's seat, and queues it once it has one; `loads`: it has a place of loading rows."""
        pending, loading = Pending(served), served.content_id if loads else None
        place = _Place(lambda: self._batcher.forget(loading))

        def ready(outcome: Seat | Exception) -> None:
            if isinstance(outcome, Exception):
                fail(pending.future, outcome)
                return
            pending.graft = outcome.graft
            pending.future.add_done_callback(lambda _: self.residency.release(outcome))
            try:
                row = pending.row = self._queued(text, outcome, served, deadline, pending.future, routed)
            except Exception as error:  # noqa: BLE001 - whatever one text raises belongs to its caller
                fail(pending.future, error)
                return
            if place.taken():
                self._batcher.put(row, loading)

        pending.future.add_done_callback(self._count_outcome)
        pending.future.add_done_callback(lambda _: place.give_back())  # also where a client goes while the graft loads
        self.residency.acquire(served, ready)
        return pending

    def _queued(
        self,
        text: str,
        seat: Seat,
        served: Served,
        deadline: float | None,
        future: Future[np.ndarray],
        routed: Queued | None = None,
    ) -> Queued:
        graft = seat.graft
        states, place = None, 0
        if routed is not None and len(routed.ids) <= graft.max_tokens:  # else the graft cuts the text further
            ids, states, place = routed.ids, routed.states, routed.place
        else:
            ids = self._ids(text, graft.max_tokens)
        exits, standin = self.usable_exits(graft), self.standins.get(served.task)
        pruned = standin is not None and standin.served.content_id == served.content_id
        return Queued(
            bucket_of(len(ids), self.buckets),
            ids,
            graft.group,
            seat.slot,
            deadline,
            future,
            scope=None if graft.scope is None else graft.scope.boundary,
            exits=exits,
            task=served.task,
            submodel=PRUNED if pruned else "full",
            lost=standin.lost if standin and pruned else exits.losses / exits.rows if exits else 0.0,
            states=states,
            place=place,
        )

    def _ids(self, text: str, max_tokens: int) -> np.ndarray:
        return self._preprocessing.encode([text], min(max_tokens, self.buckets[-1]))[0]

    def _count_outcome(self, future: Future[np.ndarray]) -> None:
        outcome = "cancelled" if future.cancelled() else "failed" if future.exception() else "done"
        with self._lock:
            self.answered[outcome] += 1

    def predict(self, rows: Sequence[tuple[str, str]], *, timeout: float | None = None) -> list[Answer]:
        """Returns the answers of (task, text) rows, in order; raises what `submit` and the rows raise."""
        pending = self.submit(rows, timeout=timeout)
        score_rows(pending)
        return [row.answer() for row in pending]

    def features(self, texts: Sequence[str], *, timeout: float | None = None) -> np.ndarray:
        """Returns the mean-pooled output float32 [N,D] of the plain backbone; uses no bank."""
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
        """Runs `function` on the device thread between two batches."""
        return self._batcher.call(function)

    def stalled(self) -> float:
        """Returns the seconds since which the device thread has been in one batch; infinite if it has ended."""
        return self._batcher.stalled()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Refuses new rows, answers those that wait, and ends the threads.

        Rows whose graft is not loaded within `seconds` fail. A device thread that is in one batch for so long is left
        behind.
        """
        self._batcher.refuse()
        self._batcher.drained(seconds)
        self.residency.close()
        self._batcher.close(seconds)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def usable_exits(self, graft: LoadedGraft) -> Exits | None:
        """Returns the graft's exits if batches are split at all of them: their threshold holds for all together."""
        exits = graft.exits
        return exits if exits is not None and set(exits.boundaries) <= set(self.programs.exits) else None

    def submodels_of(self, graft: LoadedGraft) -> Submodels:
        """Describes which cheaper submodels can serve this graft."""
        exits = self.usable_exits(graft)
        return Submodels(None if exits is None else exits.facts())
