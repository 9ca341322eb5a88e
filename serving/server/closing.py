"""The end of connections whose request was not read to its end.

Without it a server goes on reading the body of a request that it has refused, for as long as the client sends. Such a
response says `Connection: close`, unless the rest is small and comes at once. What arrives within `SECONDS` more is
thrown away, up to `BYTES`: a connection that closes on unread bytes is reset, and the client may never see the
response.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = 1.0  # seconds that a client may go on sending after the response
SMALL = 1 << 16  # bytes of a body that is waited for, so that its connection may go on
AT_ONCE = 0.05  # seconds that it is waited for
BYTES = 8 << 20  # bytes that it may send in them


class Closing:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        length = headers.get("content-length", "0")
        unread = length != "0" or "transfer-encoding" in headers
        closes = False

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            unread &= message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal closes
            if message["type"] == "http.response.start" and unread:
                if length.isdecimal() and len(length) < 18 and int(length) <= SMALL:
                    await discarded(AT_ONCE)
                if unread:
                    closes = True
                    MutableHeaders(scope=message)["connection"] = "close"
            if not closes or message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            await discarded(SECONDS)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def discarded(seconds: float) -> None:
            count = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while unread and count < BYTES:
                        count += len((await reading()).get("body", b""))

        await self._app(scope, reading, sending)
