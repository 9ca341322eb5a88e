"""Threads for calls that may never end, such as reads of a store that hangs; apart from the threads that answer.

Each call has a key and a deadline. Calls of one key under way are one call. After the deadline its waiters get
Unanswered, and so does everybody who asks for the key until the call has ended. Its thread is left alone: nothing can
stop a read that the kernel holds. All threads are daemons, so that they do not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 2.0  # seconds after which a call no longer keeps others from starting: it waits for something slow
MAX_THREADS = 64  # threads of one object, those of calls without an end included


class Unanswered(TimeoutError):
    """A call that has not ended within its deadline, or did not even begin."""


@dataclass(eq=False)
class _Call:
    key: Hashable
    title: str  # subject of the message if the call does not end
    function: Callable[[], Any]
    waiters: list[Future[Any]] = field(default_factory=list)
    submitted: float = field(default_factory=time.monotonic)  # monotonic time, seconds
    started: float | None = None  # monotonic time, seconds; None: queued
    overdue: bool = False  # the deadline has passed

    def crowds(self, now: float) -> bool:
        """Returns whether the call runs and has not yet proved to be slow."""
        return self.started is not None and now - self.started < PATIENCE


class Readers:
    """Daemon threads that make calls, a few at a time; safe to use from any thread."""

    def __init__(self, name: str, *, threads: int = 4, seconds: float | None = 60.0):
        """Starts nothing yet. `seconds` is the deadline of a call; None: there is none.

        At most `threads` calls run side by side, not counting those that have run for `PATIENCE` seconds.
        """
        self._name, self._threads, self._seconds = name, threads, seconds
        self._changed = threading.Condition()
        self._calls: dict[Hashable, _Call] = {}
        self._queue: deque[_Call] = deque()
        self._watching = self._closed = False

    def submit(self, key: Hashable, title: str, function: Callable[[], T]) -> Future[T]:
        """Starts a call, or joins the one of this key that is under way; `title` begins the message of Unanswered."""
        future: Future[T] = Future()
        with self._changed:
            call = None if self._closed else self._calls.get(key)
            if call is None and not self._closed:
                call = self._calls[key] = _Call(key, title, function)
                self._queue.append(call)
            if call is not None and not call.overdue:
                call.waiters.append(future)
                self._start()
                return future
        future.set_exception(Unanswered(f"{title}: shutting down") if call is None else self._reason(call))
        return future

    def call(self, key: Hashable, title: str, function: Callable[[], T]) -> T:
        """Returns the result of a call, or raises what it raised; raises Unanswered after the deadline."""
        return self.submit(key, title, function).result()

    @property
    def overdue(self) -> int:
        """Returns how many calls have not ended within their deadline, and are not ended yet."""
        with self._changed:
            return sum(call.overdue and call.started is not None for call in self._calls.values())

    @property
    def busy(self) -> bool:
        """Returns whether a call is under way."""
        return bool(self._calls)

    def close(self) -> None:
        """Fails every waiter, and leaves calls under way alone."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            waiters = [(call.title, waiter) for call in self._calls.values() for waiter in call.waiters]
            for call in self._calls.values():
                call.waiters = []
            self._changed.notify_all()
        for title, waiter in waiters:
            _settle(waiter, None, Unanswered(f"{title}: shutting down"))

    def _reason(self, call: _Call) -> Unanswered:
        waited = time.monotonic() - call.submitted
        if call.started is None:
            return Unanswered(f"{call.title}: not begun within {waited:.0f} s: other reads hang")
        return Unanswered(f"{call.title}: no end after {waited:.0f} s: is its disk or network store well?")

    def _start(self) -> None:
        """Starts threads for queued calls, and the watch; the lock is held."""
        now = time.monotonic()
        running = [call for call in self._calls.values() if call.started is not None]
        crowd = sum(call.crowds(now) for call in running)
        while self._queue and crowd < self._threads and len(running) < MAX_THREADS:
            call = self._queue.popleft()
            call.started = now
            running.append(call)
            crowd += 1
            threading.Thread(target=self._run, args=(call,), name=self._name, daemon=True).start()
        if self._calls and not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, name=f"{self._name} watch", daemon=True).start()
        self._changed.notify_all()

    def _run(self, call: _Call) -> None:
        result, error = None, None
        try:
            result = call.function()
        except BaseException as raised:  # noqa: BLE001 - whatever a call raises belongs to its waiters
            error = raised
        with self._changed:
            self._calls.pop(call.key, None)
            waiters, call.waiters = call.waiters, []
            self._start()
        for waiter in waiters:
            _settle(waiter, result, error)

    def _watch(self) -> None:
        """Fails the waiters of calls that are overdue, and lets others start beside slow ones; ends without calls."""
        while True:
            with self._changed:
                if self._closed or not self._calls:
                    self._watching = False
                    return
                now, late = time.monotonic(), list[_Call]()
                for call in list(self._calls.values()):
                    if not call.overdue and self._seconds is not None and now - call.submitted >= self._seconds:
                        call.overdue = True
                        late.append(call)
                        if call.started is None:
                            self._queue.remove(call)
                            del self._calls[call.key]
                failed = [(waiter, self._reason(call)) for call in late for waiter in call.waiters]
                for call in late:
                    call.waiters = []
                self._start()
                if not failed:
                    self._changed.wait(self._pause(now))
            for waiter, error in failed:
                _settle(waiter, None, error)

    def _pause(self, now: float) -> float | None:
        """Returns the seconds until a call is overdue or slow; None: no time matters until something changes."""
        times = [call.submitted + self._seconds for call in self._calls.values() if self._seconds and not call.overdue]
        if self._queue:
            times += [call.started + PATIENCE for call in self._calls.values() if call.started and call.crowds(now)]
        return max(0.01, min(times) - now) if times else None


def _settle(future: Future[Any], result: Any, error: BaseException | None) -> None:
    """Sets the result or the error of a future, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
