"""Requests at the edge of what HTTP and JSON allow, and the end of their connections; each documented status."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from serving.residency import Served
from serving.server import closing
from serving.server.app import Server
from serving.server.endpoint import Endpoint, Error
from serving.server.limits import Limits, Tokens
from tests.serving.grafts import held_up

SERVING = Path(__file__).resolve().parents[2] / "docs/serving.md"
LIMITS = Limits(body_bytes=4000, inputs=8, characters=200, body_seconds=0.5, seconds=30)
GOOD = {"tasks": ["alpha"], "inputs": ["ban"]}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["ban"]}


@dataclass(frozen=True)
class Nothing:
    """An answer that is never given."""


async def defect(server, request):
    raise KeyError("a defect")


@pytest.fixture(scope="module")
def strict(server) -> Server:
    """The server with short limits, a token, and an endpoint that fails."""
    broken = Endpoint("/broken", defect, {200: Nothing, 500: Error})
    made = Server(server.runtime, server.follower, LIMITS, Tokens())
    made = Server(server.runtime, server.follower, LIMITS, Tokens(), endpoints=(*made._endpoints, broken))
    made.ready = True
    return made


@pytest.fixture(scope="module")
def address(strict) -> Iterator[tuple[str, int]]:
    """Where it listens, with the HTTP server of production."""
    closing.SECONDS, former = 0.2, closing.SECONDS
    listening = uvicorn.Server(uvicorn.Config(strict.app(), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=listening.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not listening.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield listening.servers[0].sockets[0].getsockname()[:2]
    listening.should_exit = True
    thread.join(60)
    closing.SECONDS = former


@dataclass(frozen=True)
class Reply:
    """A raw response; `closed`: the server ended the connection after it."""

    status: int
    head: str
    body: bytes
    closed: bool


def raw(address, request: bytes, *, then: bytes = b"", wait: float = 30.0) -> Reply:
    """Sends bytes, reads one response by its length, and looks whether the connection ends within `wait` seconds."""
    with socket.create_connection(address, 30) as connection:
        connection.sendall(request)
        if then:
            connection.sendall(then)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            assert part, received
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        length = int(re.search(r"(?i)content-length: (\d+)", text)[1])
        while len(body) < length:
            body += connection.recv(65536)
        connection.settimeout(wait)
        try:
            closed = connection.recv(1) == b""
        except ConnectionResetError:
            closed = True
        except TimeoutError:
            closed = False
    return Reply(int(text.split(" ", 2)[1]), text, body, closed)


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def filled(template: str, *parts: str) -> str:
    """Puts JSON in the place of each @."""
    for part in parts:
        template = template.replace("@", part, 1)
    return template


BODY = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("request_", "status", "closed"),
    [
        (post("/predict", BODY), 200, False),
        (post("/predict", BODY, "Connection: close"), 200, True),
        (post("/predict", BODY, "Connection: Close"), 200, True),
        (post("/predict", BODY, "Connection: foo, close"), 200, True),
        (post("/predict", BODY, version="1.0"), 200, True),
        (post("/nowhere", BODY), 404, False),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", 413, True),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 413, True),
        (post("/predict", b"x" * 5000), 413, True),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc", 404, True),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc", 408, True),
    ],
)
def test_connections_end_where_http_says_so(address, request_, status, closed):
    """Also where a body was refused: nobody reads on, and the client sees the response."""
    reply = raw(address, request_, wait=30.0 if closed else 0.3)
    assert (reply.status, reply.closed) == (status, closed), reply
    if closed:
        assert "connection: close" in reply.head.lower() or "HTTP/1.0" in request_.decode()


def test_a_client_that_sends_a_refused_body_to_its_end_sees_the_response(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
    reply = raw(address, head, then=b"x" * 3_000_000)
    assert (reply.status, reply.closed) == (413, True)


NUMBERS = ("1" + "0" * 400, "5e-324", "1e999", "-1e999", "NaN", "Infinity", "-1", "0", "true", '"1"', "[]", "1" * 5000)
INFER = "/v2/models/alpha/infer"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_timeout_that_is_none_is_malformed(strict, number):
    with TestClient(strict.app()) as client:
        for path, body in (
            ("/predict", filled('{"tasks":["alpha"],"inputs":["x"],"timeout_ms":@}', number)),
            (INFER, filled('{"inputs":[@],"parameters":{"timeout_ms":@}}', json.dumps(TENSOR), number)),
        ):
            response = client.post(path, content=body.encode())
            assert response.status_code in (400, 413), response.text
            assert len(response.content) < 500


@pytest.mark.parametrize("number", ["1e300", "1" + "0" * 300, "600000", "null"])
def test_a_long_timeout_is_that_of_the_limits(strict, number):
    with TestClient(strict.app()) as client:
        content = filled('{"tasks":["alpha"],"inputs":["x"],"timeout_ms":@}', number)
        assert client.post("/predict", content=content.encode()).status_code == 200


HALF = '"\\ud800"'
WRONG = [
    ("/predict", filled('{"tasks":["alpha"],"inputs":[@]}', HALF), "inputs[0]: holds a lone surrogate"),
    ("/predict", filled('{"tasks":[@],"inputs":["x"]}', HALF), "tasks[0]: holds a lone surrogate"),
    ("/predict", filled('{"tasks":["alpha"],"inputs":["x"],@:1}', HALF), "the name of a field: holds a lone surrogate"),
    (INFER, filled('{"id":@,"inputs":[@]}', HALF, json.dumps(TENSOR)), "id: holds a lone surrogate"),
    (INFER, filled('{"inputs":[{"name":@}]}', HALF), "inputs[0].name: holds a lone surrogate"),
    (INFER, filled('{"inputs":[],"outputs":[{"name":@}]}', HALF), "outputs[0].name: holds a lone surrogate"),
    ("/predict", '{"tasks":["' + "t" * 3000 + '"],"inputs":["x"]}', "no task 't"),
    ("/predict", '{"tasks":["a\\nb"],"inputs":["x"]}', "no task 'a\\nb'"),
    ("/predict", '{"' + "f" * 3000 + '":1}', "unknown"),
    ("/predict", '{"a\\u0000\\n":1}', "unknown"),
    (INFER, '{"inputs":[{"name":' + "[" * 300 + "]" * 300 + ',"data":["x"]}]}', "inputs[0].name"),
    (INFER, '{"inputs":[{"name":"text","datatype":"BYTES","shape":[true],"data":["x"]}]}', "shape"),
    (INFER, filled('{"inputs":[@],"outputs":[{"name":{}}]}', json.dumps(TENSOR)), "outputs"),
]


@pytest.mark.parametrize(("path", "body", "said"), WRONG)
def test_what_no_text_or_name_is_is_refused_in_few_words(strict, path, body, said):
    with TestClient(strict.app()) as client:
        response = client.post(path, content=body.encode())
        assert response.status_code in (400, 404), response.text
        assert said in response.json()["error"]
        assert len(response.content) < 500


def test_a_body_that_is_no_unicode_is_refused(strict):
    with TestClient(strict.app()) as client:
        for body in (
            b'{"tasks":["alpha"],"inputs":["\xed\xa0\x80"]}',
            '{"tasks":["\ud800"]}'.encode("utf-16", "surrogatepass"),
        ):
            assert client.post("/predict", content=body).status_code == 400
        assert client.post("/predict", content=json.dumps(GOOD).encode("utf-16")).status_code == 200


def test_fields_that_are_optional_may_be_null(strict):
    with TestClient(strict.app()) as client:
        for field in ("id", "parameters", "outputs"):
            assert client.post(INFER, json={"inputs": [TENSOR], field: None}).status_code == 200, field
        tensor = TENSOR | {"parameters": None}
        outputs = [{"name": "labels", "parameters": None}]
        body = {"inputs": [tensor], "outputs": outputs, "parameters": {"timeout_ms": None}}
        assert client.post(INFER, json=body).status_code == 200
        assert client.post("/predict", json=GOOD | {"timeout_ms": None}).status_code == 200


def test_extensions_that_are_not_spoken_are_refused_by_name(strict):
    """A client that asked for binary tensors and got JSON would read noise."""
    with TestClient(strict.app()) as client:
        for change, name in (
            ({"parameters": {"binary_data_output": True}}, "parameters.binary_data_output"),
            ({"inputs": [TENSOR | {"parameters": {"binary_data_size": 7}}]}, "inputs[0].parameters.binary_data_size"),
            ({"outputs": [{"name": "labels", "parameters": {"binary_data": True}}]}, "outputs.parameters.binary_data"),
            ({"outputs": [{"name": "labels", "parameters": {"classification": 2}}]}, "classification"),
        ):
            response = client.post(INFER, json={"inputs": [TENSOR]} | change)
            assert response.status_code == 400
            assert name in response.json()["error"]
        off = {"inputs": [TENSOR], "parameters": {"binary_data_output": False}}
        assert client.post(INFER, json=off).status_code == 200
        for header, value in (("Inference-Header-Content-Length", "80"), ("Content-Encoding", "gzip")):
            response = client.post(INFER, json={"inputs": [TENSOR]}, headers={header: value})
            assert response.status_code == 415
            assert header in response.json()["error"]


def test_errors_of_every_kind_are_counted(strict):
    guarded = Server(strict.runtime, strict.follower, LIMITS, Tokens(("t" * 16,)), endpoints=strict._endpoints)
    token = {"Authorization": f"Bearer {'t' * 16}"}
    with TestClient(guarded.app(), raise_server_exceptions=False) as client:
        for status, ask in (
            (500, lambda: client.get("/broken", headers=token)),
            (401, lambda: client.post("/predict", json=GOOD)),
            (401, lambda: client.get("/tasks")),
            (404, lambda: client.get("/nowhere")),
            (404, lambda: client.get("/v2/models/nobody", headers=token)),
            (405, lambda: client.delete("/predict")),
            (400, lambda: client.post("/predict", content=b"{", headers=token)),
        ):
            before = counted(guarded, status)
            assert ask().status_code == status
            assert counted(guarded, status) == before + 1, status
        client.get("/v2/health/ready")
        assert counted(guarded, 503) == 0, "a probe is no request"


def counted(server: Server, status: int) -> float:
    """The responses of a status in the metric that the alert rests on."""
    lines = server.metrics.text().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("topgraft_requests_total") and f'status="{status}"' in line
    )


def overloaded(server: Server, client: TestClient) -> int:
    gate = held_up(server.runtime)
    try:
        kept = server.runtime.submit([("alpha", "ban")] * 32)
        return client.post("/predict", json=GOOD).status_code
    finally:
        gate.set()
        for row in kept:
            row.answer(60)


def late(server: Server, client: TestClient) -> int:
    gate = held_up(server.runtime)
    try:
        return client.post("/predict", json=GOOD | {"timeout_ms": 1}).status_code
    finally:
        gate.set()


def unloadable(server: Server, client: TestClient) -> int:
    server.runtime.offer(Served("broken", "1", "sha256:broken", lambda: 1 / 0))
    try:
        return client.post("/predict", json=GOOD | {"tasks": ["broken"]}).status_code
    finally:
        server.runtime.remove("broken")


def not_a_number(server: Server, client: TestClient) -> int:
    run = server.runtime._batcher._run
    server.runtime._batcher._run = lambda rows: [ArithmeticError("not finite") for _ in rows]
    try:
        return client.post("/predict", json=GOOD).status_code
    finally:
        server.runtime._batcher._run = run


def without_token(server: Server, client: TestClient) -> int:
    guarded = Server(server.runtime, server.follower, LIMITS, Tokens(("t" * 16,)))
    return TestClient(guarded.app()).post("/predict", json=GOOD).status_code


STATUSES: dict[int, Callable[[Server, TestClient], int]] = {
    400: lambda server, client: client.post("/predict", content=b"{").status_code,
    401: without_token,
    404: lambda server, client: client.post("/predict", json=GOOD | {"tasks": ["nobody"]}).status_code,
    413: lambda server, client: client.post("/predict", content=b"x" * 5000).status_code,
    415: lambda server, client: client.post("/predict", json=GOOD, headers={"Content-Encoding": "br"}).status_code,
    429: overloaded,
    500: not_a_number,
    503: unloadable,
    504: late,
}


def test_each_row_of_the_status_table_is_a_status_that_is_given(strict):
    """408 is among the connections above: it needs a client that stalls."""
    text = SERVING.read_text(encoding="utf-8")
    table = text.split("| status | reason |")[1].split("\n\n")[0]
    documented = {
        int(status) for row in table.splitlines() if row for status in re.findall(r"\b\d{3}\b", row.split("|")[1])
    }
    assert documented == STATUSES.keys() | {408}
    with TestClient(strict.app(), raise_server_exceptions=False) as client:
        for status, ask in STATUSES.items():
            assert ask(strict, client) == status
        assert client.post("/predict", json=GOOD).status_code == 200
