"""Answers as real servers frame them, usable ones and others, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable

import pytest

from backbone.errors import InputError
from tests.tiny import rows, write_csv
from trainers.scenarios.connections import address_of
from trainers.scenarios.load import run
from trainers.scenarios.measure import measure_scenario
from trainers.scenarios.request import Load
from trainers.scenarios.systems import ServerSystem

OK = json.dumps({"answers": {"topics": {"predictions": [{"labels": ["a"]}]}}}).encode()


def answer(content: bytes = OK, status: str = "200 OK", fields: str | None = None, version: str = "1.1") -> bytes:
    fields = f"Content-Length: {len(content)}\r\n" if fields is None else fields
    return f"HTTP/{version} {status}\r\n{fields}\r\n".encode() + content


def of(value: object) -> bytes:
    return answer(json.dumps({"answers": {"topics": value}}).encode())


CHUNKED = answer(f"{len(OK) - 9:X};x=y\r\n".encode() + OK[:-9] + b"\r\n9\r\n" + OK[-9:] + b"\r\n0\r\nSum: 1\r\n\r\n",
                 fields="transfer-encoding: Chunked\r\n")  # fmt: skip
LONE = answer(fields="")  # it ends with the connection
UNUSABLE = {
    "an HTML page": (answer(b"<html>try later</html>"), "no labels of topics: '<html>"),
    "no JSON object": (answer(b"[]"), "no labels of topics"),
    "NaN": (answer(b"NaN"), "no labels of topics"),
    "no UTF-8": (answer(b"\xff\xfe"), "no labels of topics"),
    "deep brackets": (answer(b"[" * 50_000), "no labels of topics"),
    "another task": (answer(b'{"answers": {}}'), "no labels of topics"),
    "an error": (of({"error": "busy"}), "no labels of topics: .*busy"),
    "no predictions": (of({"predictions": []}), "no labels of topics"),
    "no labels": (of({"predictions": [{"label": "a"}]}), "no labels of topics"),
    "null labels": (of({"predictions": [{"labels": None}]}), "no list of names: None"),
    "labels in one text": (of({"predictions": [{"labels": "ab"}]}), "no list of names: 'ab'"),
    "labels that are no texts": (of({"predictions": [{"labels": [["a"]]}]}), "no list of names"),
    "another status": (answer(b"\x1b[31mbusy", "503 Busy"), r"status 503: '\\x1b\[31mbusy'"),
    "no status": (b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n", "no HTTP answer: 'HTTP/1.1 abc'"),
    "no HTTP": (b"\x00\x01\r\n\r\n", "no HTTP answer"),
    "an empty head": (b"\r\n\r\n", "no HTTP answer"),
    "an endless head": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000 + b"\r\n\r\n", "does not end"),
    "half a head": (b"HTTP/1.1 200", "ended within an answer"),
    "half an answer": (answer(fields="Content-Length: 9999\r\n"), "ended within an answer"),
    "a negative length": (answer(fields="Content-Length: -5\r\n"), "no length: '-5'"),
    "a length in words": (answer(fields="Content-Length: abc\r\n"), "no length: 'abc'"),
    "a strange coding": (answer(fields="Transfer-Encoding: gzip\r\n"), "unknown Transfer-Encoding"),
    "a chunk without its size": (answer(b"-5\r\nab\r\n", fields="Transfer-Encoding: chunked\r\n"), "without its size"),
}


class Raw:
    """A server that sends chosen bytes to each query, and then may close the connection or let it end when idle."""

    def __init__(
        self, sent: Callable[[int], bytes], *, closes: Callable[[bytes], bool] = lambda sent: False, idle=None
    ):
        self.sent, self.closes, self.idle = sent, closes, idle
        self.queries = self.connections = 0
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(self.idle)
        with connection, contextlib.suppress(OSError):
            while True:
                request = b""
                while b"\r\n\r\n" not in request or len(request.partition(b"\r\n\r\n")[2]) < length(request):
                    if not (part := connection.recv(65536)):
                        return
                    request += part
                self.queries += 1
                sent = self.sent(self.queries)
                connection.sendall(sent)
                if self.closes(sent):
                    return


def length(request: bytes) -> int:
    return int(re.search(rb"Content-Length: (\d+)", request)[1])


def system_of(url: str) -> ServerSystem:
    return ServerSystem(url, address_of(url, "topics"), ["x", "y"], [["a"], ["b"]])


def ends(sent: bytes) -> bool:
    return sent not in (answer(), CHUNKED)


@pytest.mark.parametrize("scenario", ["single_stream", "server"])
@pytest.mark.parametrize("why", UNUSABLE)
def test_an_unusable_answer_is_a_failed_query_with_its_reason(why, scenario):
    content, reason = UNUSABLE[why]
    with Raw(lambda number: content if number % 4 == 0 else answer(), closes=ends) as raw:
        trace = run(scenario, system_of(raw.url), 2, seconds=0.02, seed=0, rate=1000.0)
    assert trace.queries == len(trace.latencies) + len(trace.failures)
    assert trace.failures
    assert trace.latencies
    assert all(re.search(reason, failure) for failure in trace.failures), trace.failures
    with Raw(lambda number: content, closes=ends) as raw, pytest.raises(InputError, match=reason):
        system_of(raw.url).warm_up()


def test_queries_without_a_usable_answer_lie_beyond_the_bound(tmp_path):
    content = [(text, "a") for text, _ in rows(24, seed=5)]
    file = write_csv(tmp_path / "rows.csv", [*content[:-1], (content[-1][0], "b")])
    load = Load(scenario="server", files=(str(file),), rate=900.0, seconds=1.0, task="topics", max_latency_ms=1e5)
    with Raw(lambda number: answer(b"<html>") if number > 800 else answer()) as raw:
        result = measure_scenario(raw.url, load)
    assert result.failures == result.queries - 799, "the first one was the warm-up's"
    assert [check.verdict for check in result.checks] == ["FAIL"]


def with_connection(word: str, version: str = "1.1") -> bytes:
    return answer(fields=f"Connection: {word}\r\nContent-Length: {len(OK)}\r\n", version=version)


KEPT = {
    "kept": (answer(), None, 1),
    "chunks": (CHUNKED, None, 1),
    "closed, as it says": (with_connection("Close"), True, 9),
    "closed, as one of its words says": (with_connection("te, CLOSE"), True, 9),
    "HTTP/1.0": (answer(version="1.0"), True, 9),
    "HTTP/1.0, kept": (with_connection("Keep-Alive", "1.0"), None, 1),
    "an answer that ends with its connection": (LONE, True, 9),
    "closed, as it does not say": (answer(), True, 9),
}


@pytest.mark.parametrize("how", KEPT)
def test_connections_end_as_servers_say(how):
    content, closes, connections = KEPT[how]

    async def ask(system: ServerSystem) -> None:
        for number in range(9):
            await system.ask(number % 2)
        system.close()

    with Raw(lambda number: content, closes=lambda sent: bool(closes)) as raw:
        asyncio.run(ask(system := system_of(raw.url)))
        assert (raw.queries, raw.connections) == (9, connections)
    assert system.scores() == ({"accuracy": 0.5}, 2)


def test_a_connection_that_ended_while_it_was_idle_fails_no_query():
    async def ask(system: ServerSystem) -> None:
        for _ in range(3):
            await system.ask(0)
            await asyncio.sleep(0.15)
        system.close()

    with Raw(lambda number: answer(), idle=0.05) as raw:
        asyncio.run(ask(system_of(raw.url)))
        assert (raw.queries, raw.connections) == (3, 3)


def test_a_request_goes_out_twice_at_most():
    with Raw(lambda number: answer() if number == 1 else b"", closes=ends) as raw:
        trace = run("single_stream", system_of(raw.url), 2, seconds=1e-9, seed=0)
        assert (trace.queries, raw.queries) == (1, 1)

        async def ask(system: ServerSystem) -> None:
            raw.queries = 0
            await system.ask(0)
            with pytest.raises(ConnectionError, match="closed the connection"):
                await system.ask(0)

        asyncio.run(ask(system_of(raw.url)))
        assert raw.queries == 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:99999", "Port out of range"),
        ("http://127.0.0.1:abc", "Port could not be cast"),
        ("http://127.0.0.1:-1", "Port could not be cast|Port out of range"),
        ("http://127.0.0.1:0", "expected http://HOST:PORT"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://" + "a" * 300 + ":80", "label"),
        ("http://a..b:80", "label"),
        ("ftp://a", "expected http://HOST:PORT"),
        ("http://a/?x=y", "give the server alone"),
        ("http://a?x=y", "give the server alone"),
        ("http://user:secret@a", "^http://a: a server takes no password"),
    ],
)
def test_a_url_that_names_no_server_is_refused(url, reason):
    with pytest.raises(InputError, match=reason):
        address_of(url, "topics")


def test_addresses():
    assert (address_of("HTTP://A:81", "t").host, address_of("HTTP://A:81", "t").port) == ("a", 81)
    assert (address_of("https://a", "t").port, address_of("http://[::1]/", "t").host) == (443, "::1")
    assert address_of("http://bücher.example", "t").host == "xn--bcher-kva.example"
