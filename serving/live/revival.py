"""Another try, beside all requests, for grafts of live tasks that did not load.

A server of which nothing can be answered gets no requests, so that nothing else would ever try again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.residency import Served
from serving.runtime import Runtime

FIRST, LAST = 2.0, 60.0  # seconds between two tries of a graft; they double from the first to the last
AT_ONCE = 4  # grafts that are tried in one step


class Revival:
    """Tries failed grafts again, each after a pause that doubles."""

    def __init__(self, runtime: Runtime, clock: Callable[[], float] = time.monotonic):
        self._runtime, self._clock = runtime, clock
        self._pauses: dict[str, tuple[float, float]] = {}  # (time of the next try, pause after it) by content id

    def step(self) -> int:
        """Starts some tries without waiting for them, and returns how many."""
        now, residency = self._clock(), self._runtime.residency
        live = {served.content_id: served for served in self._runtime.entries.values()}
        able = {content_id: residency.answers(content_id) for content_id in live}
        failing = [content_id for content_id, answers in able.items() if answers is False]
        if not any(able.values()):  # nothing is known to answer: those that nobody has tried count as well
            failing += [content_id for content_id, answers in able.items() if answers is None]
        self._pauses = {content_id: self._pauses[content_id] for content_id in failing if content_id in self._pauses}
        due = [content_id for content_id in failing if self._pauses.get(content_id, (0.0, 0.0))[0] <= now][:AT_ONCE]
        for content_id in due:
            self._try(live[content_id], now)
        return len(due)

    def _try(self, served: Served, now: float) -> None:
        _, pause = self._pauses.get(served.content_id, (0.0, FIRST))
        self._pauses[served.content_id] = (now + pause, min(2 * pause, LAST))
        self._runtime.residency.prepare_later(served)
