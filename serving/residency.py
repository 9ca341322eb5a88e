"""Grafts in slots: each loads off the hot path; the seat unused for longest makes room.

A graft can be in three places, each with its own budget: slots of the banks on the device, verified copies on the host
(bytes), and the source (registry, folder). A row holds its graft's seat from submission to answer. Only a seat that no
row holds is given to another graft. So a row is always answered by the version it was bound to, whatever is promoted or
evicted meanwhile. Grafts are read on threads apart, with a deadline (`serving.live.readers`): one whose read hangs
fails the rows that want it, and harms no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import jax

from adapters.artefact.exits import Exits
from adapters.artefact.scope import Scope
from adapters.graft import Graft, trained_in
from adapters.specs import Head
from backbone.errors import InputError
from serving.bank import Bank, SlotLeaves, place_in
from serving.batching import Closed
from serving.exiting import on_the_way
from serving.live.readers import Readers

log = logging.getLogger(__name__)

LOADERS = 4  # grafts that are read, verified and shaped for a slot side by side
LOAD_SECONDS = 60.0  # seconds for a graft to be read and verified, by default
OUTCOMES = 20_000  # grafts whose last load is remembered


@dataclass(frozen=True)
class Served:
    """One version of a task, as the catalogue names it."""

    task: str
    version: str
    content_id: str  # content of the graft; equal content shares a slot
    load: Callable[[], Graft] = field(repr=False, compare=False)  # reads and verifies the graft; raises InputError
    generation: int = 0  # promotions of the task when it became live; 0 if nobody counts them


@dataclass(frozen=True)
class LoadedGraft:
    """A verified graft on the host, in the shapes of a slot."""

    group: int  # number of its bank
    slot_leaves: SlotLeaves
    labels: tuple[str, ...]
    head: Head
    max_tokens: int  # longest input; longer texts are cut
    methods: tuple[str, ...]
    scope: Scope | None = None  # its out-of-scope score
    exits: Exits | None = None  # early exits that may answer in this precision
    pruned_from: str = ""  # content_id of the graft that it was pruned from
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # score by split and metric

    @property
    def bytes(self) -> int:
        """Returns its bytes on the host."""
        size = self.slot_leaves.bytes + (self.scope.bytes if self.scope else 0)
        return size + (0 if self.exits is None else self.exits.kernels.nbytes)


@dataclass
class Seat:
    """A graft in a slot."""

    content_id: str
    graft: LoadedGraft
    slot: int
    holders: int = 0  # rows that rely on it
    used: float = 0.0  # monotonic time of the last release, seconds


class Residency:
    """Seats by content."""

    def __init__(
        self,
        banks: Sequence[Bank],
        call: Callable[[Callable[[], Any]], Future[Any]],
        host_bytes: int,
        scopes: Sequence[int] = (),
        load_seconds: float = LOAD_SECONDS,
    ):
        """Takes the banks; `call` runs a function on the device thread.

        `scopes` are the boundaries that out-of-scope scores may be measured at. A graft that is not read and verified
        within `load_seconds` is not loaded.
        """
        self._banks, self._call, self.host_budget, self._scopes = banks, call, host_bytes, tuple(scopes)
        self._changed = threading.Condition()
        self._seats: dict[str, Seat] = {}
        self._free = [list(range(bank.group.slots, 0, -1)) for bank in banks]
        self._loading: dict[str, list[Callable[[Seat | Exception], None]]] = {}
        self._host: OrderedDict[str, LoadedGraft] = OrderedDict()
        self.readers = Readers("load", threads=LOADERS, seconds=load_seconds)
        self._seating = Readers("seat", threads=LOADERS, seconds=None)  # a wait for a slot is no hung read
        self._closed = False
        self.loads: Counter[str] = Counter()  # loads by cause: source, host
        self.evictions: Counter[str] = Counter()  # evictions by cause: slots, bytes, removed
        self.longest_write = 0.0  # seconds that a load kept the device thread
        self.read_seconds = 0.0  # seconds in which grafts were read and verified
        self.failed: OrderedDict[str, str] = OrderedDict()  # reason of the last load by content id, where it failed
        self._proven: OrderedDict[str, None] = OrderedDict()  # content ids whose last load succeeded

    def acquire(self, served: Served, ready: Callable[[Seat | Exception], None]) -> None:
        """Calls `ready` with a held seat, or with the error of the load.

        That happens at once if the graft is resident, else when its load has ended. Raises Closed after `close`.
        """
        with self._changed:
            if self._closed:
                raise Closed("shut down")
            seat = self._seats.get(served.content_id)
            if seat is not None:
                seat.holders += 1
            elif served.content_id in self._loading:
                self._loading[served.content_id].append(ready)
                return
            else:
                self._loading[served.content_id] = [ready]
        if seat is not None:
            ready(seat)
        else:
            self.prepare_later(served).add_done_callback(lambda graft: self._loaded(served, graft))

    def release(self, seat: Seat) -> None:
        """Releases a held seat."""
        with self._changed:
            seat.holders -= 1
            seat.used = time.monotonic()
            if not seat.holders:
                self._changed.notify_all()

    def prepare(self, served: Served) -> LoadedGraft:
        """Returns the verified graft, from the host or the source, without taking a slot.

        Raises InputError for a bad graft, and Unanswered, an OSError, if the read does not end.
        """
        return self.prepare_later(served).result()

    def prepare_later(self, served: Served) -> Future[LoadedGraft]:
        """Returns the future of `prepare`; it is done at once if the graft is on the host."""
        with self._changed:
            graft = self._host.get(served.content_id)
            if graft is not None:
                self._host.move_to_end(served.content_id)
                self.loads["host"] += 1
        if graft is not None:
            done: Future[LoadedGraft] = Future()
            done.set_result(graft)
            return done
        title = f"{served.task} version {served.version}"
        future = self.readers.submit(served.content_id, title, lambda: self._read_to_host(served))
        future.add_done_callback(lambda done: self._note(served, None if done.cancelled() else done.exception()))
        return future

    def _read_to_host(self, served: Served) -> LoadedGraft:
        start = time.monotonic()
        graft = self._read(served)
        with self._changed:
            self.read_seconds += time.monotonic() - start
            self.loads["source"] += 1
            self._host[served.content_id] = graft
            while self.host_bytes > self.host_budget and len(self._host) > 1:
                self._host.popitem(last=False)
                self.evictions["bytes"] += 1
            self._prove(served.content_id)  # also where a late read ends, and nobody waits for it any more
        return graft

    def _prove(self, content_id: str) -> None:
        self.failed.pop(content_id, None)
        self._proven[content_id] = None
        if len(self._proven) > OUTCOMES:
            self._proven.popitem(last=False)

    def _note(self, served: Served, error: BaseException | None) -> None:
        """Remembers why a graft did not load."""
        if error is None:
            return
        with self._changed:
            known = self.failed.get(served.content_id)
            self.failed[served.content_id] = str(error)
            self._proven.pop(served.content_id, None)
            if len(self.failed) > OUTCOMES:
                self.failed.popitem(last=False)
        if known is None:
            log.warning("%s version %s was not loaded: %s", served.task, served.version, error)

    def answers(self, content_id: str) -> bool | None:
        """Returns whether the graft can answer: it is loaded, or its last load succeeded; None: nobody has tried."""
        if content_id in self._seats or content_id in self._host or content_id in self._proven:
            return True
        return False if content_id in self.failed else None

    def _read(self, served: Served) -> LoadedGraft:
        where = f"{served.task} version {served.version}"
        graft = served.load()
        if graft.manifest is not None and graft.manifest.content_id != served.content_id:
            raise InputError(
                f"{where}: the artefact is {graft.manifest.content_id[:19]}..., "
                f"the catalogue says {served.content_id[:19]}..."
            )
        if graft.scope is not None and graft.scope.boundary not in self._scopes:
            raise InputError(
                f"{where}: its out-of-scope score is measured at boundary "
                f"{graft.scope.boundary}, the envelope declared at start has {self._scopes}; widen its scopes "
                "(--envelope) and start again"
            )
        group, slot_leaves = place_in(self._banks, graft.model, graft.params, where)
        # an early answer could not abstain if its score were measured above
        cheaper = graft.exits is not None and on_the_way(graft.scope, graft.exits, self._banks[group].start)
        # exits were calibrated in the precision of their run
        precision = graft.backbone.precision
        calibrated_in = trained_in(graft.manifest, graft.backbone.base_id) if graft.manifest else precision
        if graft.exits is not None and calibrated_in != precision:
            log.warning("%s: its exits were calibrated in %s: not used in %s", where, calibrated_in, precision)
        return LoadedGraft(
            group,
            slot_leaves,
            graft.model.labels,
            graft.model.head,
            graft.max_tokens,
            methods=tuple(spec.method for spec in graft.model.methods),
            scope=graft.scope,
            exits=graft.exits if cheaper and calibrated_in == precision else None,
            pruned_from=str(graft.manifest.training.config.get("pruned_from", "")) if graft.manifest else "",
            metrics=graft.manifest.training.metrics if graft.manifest else {},
        )

    def drop(self, content_id: str) -> None:
        """Frees the host copy of a graft that is no longer served, and its slot if no row holds it."""
        with self._changed:
            self._host.pop(content_id, None)
            self.failed.pop(content_id, None)
            self._proven.pop(content_id, None)
            seat = self._seats.get(content_id)
            if seat is not None and not seat.holders:
                self._vacate(seat, "removed")

    def loaded(self, content_id: str) -> LoadedGraft | None:
        """Returns a graft that is in a slot or on the host; None for any other."""
        with self._changed:
            seat = self._seats.get(content_id)
            return self._host.get(content_id) if seat is None else seat.graft

    def resident(self, content_id: str) -> bool:
        """Returns whether the graft is in a slot."""
        return content_id in self._seats

    @property
    def host_bytes(self) -> int:
        """Returns the bytes of the host copies."""
        return sum(graft.bytes for graft in self._host.values())

    @property
    def slots_used(self) -> list[int]:
        """Returns how many slots of each bank are taken."""
        return [bank.group.slots - len(free) for bank, free in zip(self._banks, self._free, strict=True)]

    def close(self) -> None:
        """Refuses new loads, and fails the rows that wait for one; reads under way are left alone."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.readers.close()
        self._seating.close()

    def _loaded(self, served: Served, graft: Future[LoadedGraft]) -> None:
        """Seats a graft that was read, off the threads that read; else tells the rows that wait for it."""
        if error := graft.exception():
            self._tell(served, error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return
        title = f"{served.task} version {served.version}"
        seat = self._seating.submit(served.content_id, title, lambda: self._seat(served, graft.result()))
        seat.add_done_callback(lambda done: self._seated(served, done))

    def _seated(self, served: Served, seat: Future[Seat]) -> None:
        error = seat.exception()
        if error is not None and not isinstance(error, Closed):
            self._note(served, error)
        self._tell(served, seat.result() if error is None else error if isinstance(error, Exception) else Closed())

    def _tell(self, served: Served, outcome: Seat | Exception) -> None:
        with self._changed:
            waiting = self._loading.pop(served.content_id)
            if isinstance(outcome, Seat):
                outcome.holders += len(waiting) - 1  # `_seat` counted one of them
        for ready in waiting:
            ready(outcome)

    def _seat(self, served: Served, graft: LoadedGraft) -> Seat:
        """Writes the graft into a slot, and returns its seat, held once."""
        slot = self._take_slot(graft.group)
        bank = self._banks[graft.group]
        leaves = jax.device_put(graft.slot_leaves.leaves)

        def write() -> float:
            start = time.perf_counter()
            bank.write(slot, leaves)
            bank.settle()  # the next batch waits for the write anyhow, so its time counts as a stall
            return time.perf_counter() - start

        try:
            self.longest_write = max(self.longest_write, self._call(write).result())
        except BaseException:
            with self._changed:
                self._free[graft.group].append(slot)
                self._changed.notify_all()
            raise
        seat = Seat(served.content_id, graft, slot, holders=1, used=time.monotonic())
        with self._changed:
            self._seats[served.content_id] = seat
        return seat

    def _take_slot(self, group: int) -> int:
        """Returns a free slot, or that of the seat unused for longest; waits while rows hold all of them."""
        with self._changed:
            while not self._free[group]:
                idle = [s for s in self._seats.values() if s.graft.group == group and not s.holders]
                if idle:
                    self._vacate(min(idle, key=lambda s: s.used), "slots")
                elif self._closed:
                    raise Closed("shutting down")
                else:
                    self._changed.wait()
            return self._free[group].pop()

    def _vacate(self, seat: Seat, cause: str) -> None:
        del self._seats[seat.content_id]
        self._free[seat.graft.group].append(seat.slot)
        self.evictions[cause] += 1
        self._changed.notify_all()
