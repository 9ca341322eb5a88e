"""When a loop leaves its batches before their end: to save, because its time is over, or on a signal.

A scheduler that takes a machine away sends SIGTERM first, and kills some seconds later. The signal is noted, and the
loop saves at the next step. Of several processes the signal may reach one alone, and clocks differ. So they ask each
other, every so many steps, and all do the same.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from backbone.meshes.processes import any_of_all, several


class Interruption:
    """A clock that says when a checkpoint is due, when the time of this process is over, and whether a signal came."""

    def __init__(self, checkpoint_seconds: float, max_seconds: float, together: int):
        self._every, self._max, self._together = checkpoint_seconds, max_seconds, together
        self._start = self._saved = time.monotonic()
        self._former: Any = None
        self.due = False  # a checkpoint is due
        self.over = False  # the run has to stop here, to be resumed
        self.signalled = False  # a signal asked for it

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # signals reach no other thread
            self._former = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def look(self, done: int) -> bool:
        """Looks at clock and signal after `done` batches; returns whether the loop has to leave its batches.

        Several processes look every `together` batches, and agree.
        """
        if several() and done % self._together:
            return False
        now = time.monotonic()
        self.due = 0 < self._every <= now - self._saved
        self.over = self.signalled or 0 < self._max <= now - self._start
        if several():
            self.due, self.over, self.signalled = any_of_all(self.due, self.over, self.signalled)
        return self.due or self.over

    def saved(self) -> None:
        """Begins the next interval."""
        self._saved, self.due = time.monotonic(), False
