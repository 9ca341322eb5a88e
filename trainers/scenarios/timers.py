"""An event loop with exact timers. epoll counts whole milliseconds, and so does asyncio on Linux."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys


def exact_loop() -> asyncio.AbstractEventLoop:
    """Returns a new event loop with exact timers."""
    return asyncio.SelectorEventLoop(_Exact() if sys.platform == "linux" else None)


if sys.platform == "linux":

    class _Exact(selectors.EpollSelector):
        """epoll behind `select`, which takes microseconds: the descriptor of epoll itself can be waited for."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)
