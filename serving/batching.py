"""Continuous batching: one thread owns the device; all others hand it rows and wait for futures.

Rows queue by length bucket. A bucket is due when it fills a batch, or when its oldest row has waited `max_wait`. Of the
buckets that are due, the one with the oldest row runs. While a batch runs the next one gathers, so load makes batches
full by itself. Where nobody else asks, waiting gains nothing: after a batch of one row that left no other waiting, rows
run as soon as all that were promised a place are there. Rows of different grafts and groups share a batch. A row that
was cancelled, or whose deadline passed, is dropped before it costs anything.

Rows are admitted by places. Those whose graft is still being loaded have places of their own, and each graft only a
share of them, so that a load which hangs keeps nobody else out.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adapters.artefact.exits import Exits

NO_GROUP = -1  # group of rows without a graft
ROUTING = -2  # group of rows for which a router chooses the graft
LOADING_SHARE = 4  # one graft's rows may take 1/4 of the places of rows whose graft loads


class Overloaded(Exception):
    """The queue is full; a caller may try again after `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} rows are waiting; try again in {retry_after:.1f} s")
        self.retry_after = retry_after


class DeadlineExceeded(Exception):
    """The row's deadline passed before it ran."""


class Closed(Exception):
    """The runtime no longer takes rows."""


@dataclass
class Queued:
    """One input for one graft."""

    bucket: int  # padded length, tokens
    ids: np.ndarray  # int32 [t], at most `bucket` tokens
    group: int  # number of the graft's bank, or NO_GROUP
    slot: int  # slot of the graft in its bank
    deadline: float | None = None  # time of the monotonic clock after which the row is dropped
    # resolves to logits [C], followed by the pooled state [D] if the graft has an out-of-scope score; for rows of
    # NO_GROUP, to features [D]; for rows of ROUTING, to the probabilities of the router [C]
    future: Future[np.ndarray] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)  # time of the monotonic clock
    scope: int | None = None  # boundary of the bare backbone whose pooled state the out-of-scope score needs
    exits: Exits | None = None  # early exits of the graft that may answer
    task: str = ""  # name of the task, by which the submodel is chosen
    lost: float = 0.0  # share of the rows like this that the cheaper submodel answers worse
    states: RoutedStates | None = None  # states of the bare backbone that a router's pass computed
    place: int = 0  # place of the row in these
    submodel: str = "full"  # submodel that answered; set by the device thread before the future resolves


class RoutedStates:
    """The states of a router's pass, which stay on the device until the last of its rows has run."""

    def __init__(self, states: Mapping[int, Any]):
        """Takes states [U,T,D] by boundary, in the bucket of the rows."""
        self.on_device = dict(states)

    @functools.cached_property
    def on_host(self) -> dict[int, np.ndarray]:
        """Returns the states as arrays of the host, for batches of rows from several passes."""
        return {boundary: np.asarray(state) for boundary, state in self.on_device.items()}


def fail(future: Future[Any], error: BaseException) -> None:
    """Sets the error of a future that has not run, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _fits(present: int, rows: int, places: int) -> bool:
    """Returns whether rows are admitted beside those present; many count as half of the places."""
    return not rows or present + min(rows, max(1, places // 2)) <= places


class Batcher:
    """The device thread and its queues."""

    def __init__(
        self,
        run: Callable[[Sequence[Queued]], Sequence[np.ndarray | Exception]],
        *,
        max_rows: int,
        max_waiting: int = 1024,
        max_wait: float = 0.002,
    ):
        """Starts the device thread. `run` returns the result or the error of each row of a batch of one bucket.

        A batch has at most `max_rows` rows, all queues at most `max_waiting`. A row waits at most `max_wait` seconds
        for others to join, and not at all after a row that was alone.
        """
        self._run, self._max_rows, self._max_waiting, self._max_wait = run, max_rows, max_waiting, max_wait
        self._changed = threading.Condition()
        self._queues: dict[int, deque[Queued]] = {}
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._reserved = 0  # rows that were promised a place
        self._loading: Counter[str] = Counter()  # rows whose graft loads, by content id
        self._busy_since: float | None = None  # monotonic time when the batch or call under way began, seconds
        self._waiting = 0  # rows in the queues
        self._alone = True  # whether the last batch had one row, and left none waiting
        self._row_seconds = 0.0  # recent device time of a row, seconds
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run_until_closed, name="device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Returns how many rows are queued, were promised a place, or wait for their graft."""
        return self._waiting + self._reserved + self._loading.total()

    @property
    def loading(self) -> int:
        """Returns how many rows wait for their graft."""
        return self._loading.total()

    def reserve(self, rows: int, loading: Mapping[str, int] | None = None) -> None:
        """Promises places to `rows` rows, and to those whose graft loads, by content id: to all or none.

        More rows than half of the places count as half of them. So every request is admitted once enough is free, and
        the queue exceeds its bound by at most one. Raises Overloaded or Closed.
        """
        loading = loading or {}
        with self._changed:
            if self._closing:
                raise Closed("shutting down")
            queued = self._waiting + self._reserved
            admitted = _fits(queued, rows, self._max_waiting)
            admitted &= _fits(self._loading.total(), sum(loading.values()), self._max_waiting)
            share = max(1, self._max_waiting // LOADING_SHARE)
            admitted &= all(_fits(self._loading[graft], count, share) for graft, count in loading.items())
            if not admitted:
                raise Overloaded(self.waiting, max(0.1, queued * self._row_seconds))
            self._reserved += rows
            self._loading.update(loading)

    def forget(self, loading: str | None = None) -> None:
        """Gives back the place of a row; `loading` names the graft that it waited for."""
        with self._changed:
            self._take_place(loading)
            self._changed.notify_all()

    def put(self, row: Queued, loading: str | None = None) -> None:
        """Queues a row that was promised a place; `loading` names the graft that it waited for."""
        with self._changed:
            self._take_place(loading)
            if not self._ended:
                self._waiting += 1
                self._queues.setdefault(row.bucket, deque()).append(row)
            self._changed.notify_all()
            ended = self._ended
        if ended:
            fail(row.future, Closed("shut down"))

    def _take_place(self, loading: str | None) -> None:
        if loading is None:
            self._reserved -= 1
        else:
            self._loading[loading] -= 1
            if self._loading[loading] <= 0:
                del self._loading[loading]

    def stalled(self) -> float:
        """Returns the seconds since which the device thread has been in one batch or call; infinite if it has ended."""
        if not self._thread.is_alive():
            return math.inf
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Runs `function` on the device thread between two batches; raises Closed if that thread has ended."""
        future: Future[Any] = Future()
        with self._changed:
            if self._ended:
                raise Closed("shut down")
            self._calls.append((function, future))
            self._changed.notify_all()
        return future

    def close(self, timeout: float | None = None) -> None:
        """Refuses new rows, answers those that wait, and ends the thread.

        A thread that has been in one batch for `timeout` seconds is left behind.
        """
        self.refuse()
        while self._thread.is_alive() and (timeout is None or self.stalled() < timeout):
            self._thread.join(timeout if timeout is None else min(timeout, 1.0))

    def refuse(self) -> None:
        """Refuses new rows from now on."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def drained(self, timeout: float) -> bool:
        """Waits until no row waits for its graft, at most `timeout` seconds; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._loading.total(), timeout)

    def _due(self, now: float) -> list[Queued] | None:
        """Returns the rows of the next batch if one is due."""
        every = self._closing or (self._alone and not self._reserved)
        due = [
            queue
            for queue in self._queues.values()
            if queue and (every or len(queue) >= self._max_rows or queue[0].arrived + self._max_wait <= now)
        ]
        if not due:
            return None
        queue = min(due, key=lambda q: q[0].arrived)
        rows = [queue.popleft() for _ in range(min(len(queue), self._max_rows))]
        self._waiting -= len(rows)
        return rows

    def _pause(self, now: float) -> float | None:
        """Returns the seconds until a bucket is due by time; None if no row waits."""
        heads = [queue[0].arrived for queue in self._queues.values() if queue]
        return max(0.0, min(heads) + self._max_wait - now) if heads else None

    def _run_until_closed(self) -> None:
        """Runs calls and batches; ends once the batcher is closing and no row is left or promised."""
        while True:
            call, rows = None, None
            with self._changed:
                while True:
                    now = time.monotonic()
                    if self._calls:
                        call = self._calls.popleft()
                    rows = self._due(now)
                    left = self._waiting  # rows of other lengths, which may belong to the same request
                    if call or rows:
                        break
                    if self._closing and not self._reserved and not self._loading.total():
                        self._ended = True
                        return
                    self._changed.wait(self._pause(now))
            self._busy_since = time.monotonic()
            if call:
                self._run_call(*call)
            if rows:
                self._run_rows(rows)
                self._alone = len(rows) == 1 and self._waiting <= left
            self._busy_since = None

    def _run_call(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - the waiting caller gets it
            future.set_exception(error)

    def _run_rows(self, rows: list[Queued]) -> None:
        now, live = time.monotonic(), []
        for row in rows:
            if not row.future.set_running_or_notify_cancel():
                continue
            if row.deadline is not None and row.deadline < now:
                row.future.set_exception(DeadlineExceeded("the deadline passed while the row waited"))
            else:
                live.append(row)
        if not live:
            return
        try:
            results = self._run(live)
        except Exception as error:  # noqa: BLE001 - the whole batch failed: each row gets the error
            results = [error] * len(live)
        each = (time.monotonic() - now) / len(live)
        self._row_seconds = each if not self._row_seconds else 0.9 * self._row_seconds + 0.1 * each
        for row, result in zip(live, results, strict=True):
            with contextlib.suppress(Exception):  # a callback of one caller must not stop the others
                if isinstance(result, Exception):
                    row.future.set_exception(result)
                else:
                    row.future.set_result(result)
