"""The application of a port from the first probe on: it answers for a server that has not begun, then steps aside.

A server begins with an envelope around what is live. While nothing live can be read (a store that is not mounted, a
registry without a promotion), it lives, is not ready, and says why. A request makes it look again, and waits for the
outcome and for the programs to be compiled, as long as an answer may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.server.endpoint import Error, json_of
from serving.server.json_response import JSON

LIVE, READY = "/v2/health/live", "/v2/health/ready"
TICK = 0.05  # seconds between two looks at whether the server has begun


def _uncounted(status: int) -> None:
    """Counts nothing."""


class Door:
    """An ASGI application."""

    def __init__(self, seconds: float):
        """`seconds` is how long a request waits for the server to begin."""
        self._seconds = seconds
        self._app: ASGIApp | None = None
        self._background: Callable[[], Awaitable[None]] | None = None
        self.reason = "starting"  # why the server has not begun
        self.trying = False  # the server tries to begin
        self.tries = 0  # tries that have failed
        self.retry = threading.Event()  # set while a request waits for another try
        self._refused: Callable[[int], None] = _uncounted

    def open(
        self,
        app: ASGIApp,
        background: Callable[[], Awaitable[None]] | None = None,
        refused: Callable[[int], None] | None = None,
    ) -> None:
        """Hands every request to `app` from now on, and runs `background` beside it; from any thread.

        `refused` counts the status of what no application sees.
        """
        self._refused = refused or _uncounted
        self._background, self._app = background, app

    def refused(self, status: int) -> None:
        """Counts a response that the HTTP parser gave; a server that has not begun has no counters."""
        self._refused(status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, or the life of the port."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._app is None and scope.get("path") not in (LIVE, READY):
            await self._tried()
        await (self._app or self._closed)(scope, receive, send)

    async def _tried(self) -> None:
        """Returns once the server has begun, or has failed to in a try that began later than now, or time is up."""
        enough, end = self.tries + 1 + self.trying, time.monotonic() + self._seconds
        self.retry.set()
        while self._app is None and self.tries < enough and time.monotonic() < end:
            await asyncio.sleep(TICK)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        beside = asyncio.create_task(self._beside())
        await receive()
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside
        await send({"type": "lifespan.shutdown.complete"})

    async def _beside(self) -> None:
        while self._app is None:
            await asyncio.sleep(TICK)
        if self._background is not None:
            await self._background()

    async def _closed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers while there is no server."""
        path = Request(scope).url.path if scope["type"] == "http" else ""
        if path == LIVE:
            response = JSON({"live": True})
        elif path == READY:
            empty = {"tasks": 0, "unable": 0, "reasons": {}, "catalogue": None}
            response = JSON({"ready": False, "reason": self.reason, **empty}, 503)
        else:
            error = json_of(Error(f"the server has not begun: {self.reason}"))
            response = JSON(error, 503, {"Retry-After": "5", "Connection": "close"})
        await response(scope, receive, send)
