"""Requests to a server over kept HTTP connections, as RFC 9112 frames them. An unusable answer is a ConnectionError."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsIndex
from urllib.parse import SplitResult, urlsplit

from backbone.errors import InputError, shown

STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: |$)")
SIZE = re.compile(rb"[0-9a-fA-F]{1,12}")  # bytes of a chunk, in hexadecimal
LENGTH = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True)
class Address:
    """The place of a task on a server."""

    host: str
    port: int
    secure: bool  # https
    task: str
    token: str = ""  # bearer token; "" for none


def address_of(url: str, task: str, token: str = "") -> Address:
    """Returns the address behind a URL; raises InputError for one that no server of Topgraft has."""
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except ValueError as error:
        raise InputError(f"{url}: {error}; expected http://HOST:PORT of a `topgraft serve`") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise InputError(f"{url}: expected http://HOST:PORT of a `topgraft serve`")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise InputError(f"{url}: give the server alone, and the task as --task NAME")
    if "@" in parts.netloc:
        raise InputError(f"{parts.scheme}://{host}: a server takes no password; pass its token as --token-file FILE")
    if not task:
        raise InputError(f"{url}: name the task of the server to measure: --task NAME")
    secure = parts.scheme == "https"
    return Address(host, (443 if secure else 80) if port is None else port, secure, task, token)


def _host(parts: SplitResult) -> str:
    """Returns the host as DNS spells it; raises ValueError for a name that it cannot have."""
    host = parts.hostname or ""
    return host if ":" in host else host.encode("idna").decode()


class _Closed(ConnectionError):
    """The server closed a connection before it sent anything."""


@dataclass(frozen=True)
class _Head:
    """What stands before the content of an answer."""

    status: int
    fields: dict[str, str]  # by their names in small letters
    minor: int  # version of HTTP/1: 0 or 1

    @property
    def kept(self) -> bool:
        """Returns whether the connection stays open behind the answer."""
        if not self.fields.keys() & {"content-length", "transfer-encoding"}:
            return False
        wishes = self.listed("connection")
        return "close" not in wishes and (self.minor == 1 or "keep-alive" in wishes)

    def listed(self, name: str) -> set[str]:
        """Returns the items of a field, in small letters."""
        return {item.strip().lower() for item in self.fields.get(name, "").split(",")}


@dataclass(frozen=True)
class Answer:
    """An answer of a server."""

    status: int
    content: bytes
    arrived: float  # instant of its last bytes, by `time.perf_counter`


class _Reader(asyncio.StreamReader):
    """A reader that knows when bytes arrived last."""

    arrived = 0.0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.arrived = time.perf_counter()
        super().feed_data(data)


class Connections:
    """Kept connections to one server."""

    def __init__(self, address: Address):
        self._address = address
        self._idle: list[tuple[_Reader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> Answer:
        """Returns the answer of `POST /predict`; raises OSError where none came that can be read.

        A kept connection may have ended by now. Where nothing came over it, the request goes over a fresh one.
        """
        if self._idle:
            try:
                return await self._exchange(*self._idle.pop(), body)
            except _Closed:
                pass
        return await self._exchange(*await self._open(), body)

    def close(self) -> None:
        """Closes the connections."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _open(self) -> tuple[_Reader, asyncio.StreamWriter]:
        """Opens a connection, as `asyncio.open_connection` does."""
        place, loop = self._address, asyncio.get_running_loop()
        reader = _Reader(loop=loop)
        transport, protocol = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop), place.host, place.port, ssl=place.secure or None
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _exchange(self, reader: _Reader, writer: asyncio.StreamWriter, body: bytes) -> Answer:
        kept = False
        try:
            writer.write(self._request(body))
            head = await _head(reader)
            content = await _content(reader, head)
            kept = head.kept
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the connection ended within an answer") from error
        except asyncio.LimitOverrunError as error:
            raise ConnectionError("the head of the answer does not end") from error
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return Answer(head.status, content, reader.arrived)

    def _request(self, body: bytes) -> bytes:
        place = self._address
        host = f"[{place.host}]" if ":" in place.host else place.host
        token = f"Authorization: Bearer {place.token}\r\n" if place.token else ""
        fields = f"Host: {host}:{place.port}\r\n{token}Content-Length: {len(body)}\r\n"
        return f"POST /predict HTTP/1.1\r\n{fields}\r\n".encode() + body


async def _head(reader: asyncio.StreamReader) -> _Head:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        raise _Closed("the server closed the connection") from error
    except (ConnectionResetError, BrokenPipeError) as error:
        raise _Closed(f"the server closed the connection: {error}") from error
    match = STATUS_LINE.match(lines[0])
    if match is None:
        raise ConnectionError(f"no HTTP answer: {shown(lines[0])}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
    return _Head(int(match[2]), fields, int(match[1]))


async def _content(reader: asyncio.StreamReader, head: _Head) -> bytes:
    """Returns the content by its chunks or its length; without either it ends with the connection."""
    if "transfer-encoding" in head.fields:
        if head.listed("transfer-encoding") != {"chunked"}:
            raise ConnectionError(f"unknown Transfer-Encoding: {shown(head.fields['transfer-encoding'])}")
        return await _chunks(reader)
    length = head.fields.get("content-length")
    if length is None:
        return await reader.read()
    if not LENGTH.fullmatch(length):
        raise ConnectionError(f"Content-Length is no length: {shown(length)}")
    return await reader.readexactly(int(length))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        line = (await reader.readuntil(b"\r\n")).partition(b";")[0].strip()
        if not SIZE.fullmatch(line):
            raise ConnectionError(f"a chunk without its size: {shown(line)}")
        if not (size := int(line, 16)):
            break
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # fields behind the content
    return b"".join(parts)
