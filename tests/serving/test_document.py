"""The document that a server publishes of its routes: complete, kept by every answer, extended by a protocol."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from backbone.errors import InputError
from serving.bank import Envelope
from serving.server.app import Server
from serving.server.endpoint import Endpoint, Error, Protocol, all_endpoints
from serving.server.limits import Limits, Tokens
from serving.server.openapi import document, schema_of
from serving.server.serve import serve
from serving.server.settings import Settings
from tests.serving.place import LIMITS


@pytest.mark.parametrize("port", ["public", "admin"])
def test_every_route_is_documented_and_every_documented_path_is_a_route(server, port):
    """A route that does not come from an endpoint, or a path that no route answers, fails here."""
    app, address = (server.app(), "/openapi.json") if port == "public" else (server.admin(), "/admin/openapi.json")
    routes = {(route.path, method.lower()) for route in app.routes for method in route.methods - {"HEAD"}}
    with TestClient(app) as client:
        served = client.get(address).json()
    documented = {(path, name) for path, item in served["paths"].items() for name in item.keys() - {"parameters"}}
    assert documented == routes
    schemas = served["components"]["schemas"]
    for path, name in documented:
        operation = served["paths"][path][name]
        for reply in operation["responses"].values():
            ((media, content),) = reply["content"].items()
            reference = content["schema"].get("$ref", "").rpartition("/")[2]
            assert reference in schemas or (not reference and "type" in content["schema"]), (path, media)
        named = [parameter["name"] for parameter in served["paths"][path].get("parameters", [])]
        assert named == re.findall(r"{(\w+)}", path)


def test_an_endpoint_needs_a_schema(server):
    async def handle(server, request):
        raise NotImplementedError

    with pytest.raises(TypeError, match="replies"):
        Endpoint("/undocumented", handle)
    assert schema_of(Envelope)["properties"]["groups"]["items"]["properties"]["methods"]["items"] == {"type": "object"}
    with pytest.raises(InputError, match=r"no JSON schema is known for the type bytes"):
        schema_of(dict[str, tuple[bytes, ...]])
    with pytest.raises(InputError, match=r"^Outer\.inner: Inner\.content: no JSON schema is known for the type bytes"):
        document([Endpoint("/outer", handle, {200: Outer})], LIMITS, tokens=False)


@dataclass(frozen=True)
class Inner:
    """What has no JSON."""

    content: bytes


@dataclass(frozen=True)
class Outer:
    """What holds it."""

    inner: tuple[Inner, ...]


@dataclass(frozen=True)
class Count:
    """The number of slots."""

    slots: int


@pytest.fixture
def no_protocol_stays(monkeypatch):
    """Forgets the protocols that a test defines."""
    all_endpoints()  # those of the folder are known
    for name in ("variants", "files"):
        monkeypatch.setattr(Protocol.registry, name, dict(getattr(Protocol.registry, name)))


def test_a_protocol_of_ones_own_in_one_file(server, tmp_path, monkeypatch, no_protocol_stays):
    """The handler's errors, the token and the document are those of every route."""
    script = tmp_path / "count.py"
    script.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from backbone.errors import InputError\n"
        "from serving.server.endpoint import Endpoint, Error, Protocol\n\n"
        "@dataclass(frozen=True)\n"
        "class Slots:\n"
        "    slots: int\n\n"
        "@dataclass(frozen=True)\n"
        "class Groups:\n"
        "    groups: tuple[Slots, ...]\n\n"
        "async def count(server, request):\n"
        "    if request.path_params['group'] != '0':\n"
        "        raise InputError('group: there is one')\n"
        "    return Groups(tuple(Slots(bank.group.slots) for bank in server.runtime.banks))\n\n"
        "class Counts(Protocol, tag='count'):\n"
        "    endpoints = (Endpoint('/slots/{group}', count, {200: Groups, 400: Error}),)\n"
    )
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(script))
    with TestClient(Server(server.runtime, server.follower, LIMITS, Tokens(("t" * 16,))).app()) as client:
        assert client.get("/slots/0").status_code == 401
        headers = {"Authorization": f"Bearer {'t' * 16}"}
        assert client.get("/slots/0", headers=headers).json() == {"groups": [{"slots": 2}]}
        assert client.get("/slots/1", headers=headers).json() == {"error": "group: there is one"}
        served = client.get("/openapi.json", headers=headers).json()
    groups = served["components"]["schemas"]["Groups"]["properties"]["groups"]
    assert groups["items"]["properties"] == {"slots": {"type": "integer"}}
    assert served["paths"]["/slots/{group}"]["get"]["responses"].keys() == {"200", "400", "401"}

    script.write_text(script.read_text().replace("/slots/{group}", "/tasks"))
    with pytest.raises(InputError, match=r"GET /tasks: a route of .*count.py and of .*status.py"):
        all_endpoints()
    script.write_text("1/0\n")
    with pytest.raises(InputError, match=r"TOPGRAFT_VARIANTS: .*count.py:1: ZeroDivisionError"):
        serve(Settings(backbone="b", grafts=".", port=0))


def test_two_schemas_of_one_name_are_refused():
    async def handle(server, request):
        raise NotImplementedError

    other = type("Count", (), {"__annotations__": {"rows": int}, "__module__": __name__})
    endpoints = [Endpoint(path, handle, {200: cls}) for path, cls in (("/a", Count), ("/b", dataclass(other)))]
    with pytest.raises(InputError, match="Count: two endpoints name different JSON so"):
        document(endpoints, LIMITS, tokens=False)


def check(cases, count: int, status: int | None = None) -> None:
    """Makes `count` requests, and checks that each answer is a documented one, and has the status."""

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)
    @given(case=cases)
    def ask(case) -> None:
        # a schema cannot say that a tensor's shape is the number of its data
        inferring = case.path.endswith("/infer")
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance] if inferring else [])
        where = f"{case.method} {case.path}"
        assert status in (None, response.status_code), f"{where}: {response.status_code} for a task that nobody serves"

    ask()


def keep_document(app, address: str, path: str) -> None:
    """Makes requests from a document by schemathesis, right and wrong, and checks every response of a path against it.

    A status that the document lacks is a failure, and so is another one than 404 for a task that nobody serves.
    """
    schema = schemathesis.openapi.from_asgi(address, app).include(path=path)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert operations
    for operation in operations:
        check(operation.as_strategy(), 6)
        if "{task}" in path:
            names = dict.fromkeys(re.findall(r"{(\w+)}", path), "nobody")
            check(operation.as_strategy(path_parameters=names), 1, 404)


ADDRESSES = {"public": "/openapi.json", "admin": "/admin/openapi.json"}
DOCUMENTED = list(dict.fromkeys((e.port, e.path) for e in all_endpoints() if e.path not in ADDRESSES.values()))


@pytest.mark.parametrize(("port", "path"), DOCUMENTED)
def test_the_served_document_is_kept(server, port, path):
    wide = Server(server.runtime, server.follower, Limits(), Tokens())
    wide.ready = True
    keep_document(wide.app() if port == "public" else wide.admin(), ADDRESSES[port], path)


@dataclass(frozen=True)
class Named:
    """A task, whether it is served or not."""

    task: str


async def any_task(server, request):
    return Named(request.path_params["task"])


async def served_task(server, request):
    return Named((await server.served(request)).task)


@pytest.mark.parametrize(
    ("handle", "replies", "message"),
    [
        (any_task, {200: Named, 404: Error}, "200 for a task that nobody serves"),
        (served_task, {200: Named}, "Undocumented status code"),
        (served_task, {200: Named, 404: Error}, ""),
    ],
)
def test_a_status_that_breaks_the_document_is_a_failure(server, handle, replies, message):
    contract = [e for e in server.endpoints_of("public") if e.path == "/openapi.json"]
    endpoints = (*contract, Endpoint("/named/{task}", handle, replies))
    app = Server(server.runtime, server.follower, LIMITS, Tokens(), endpoints=endpoints).app()
    with pytest.raises(BaseException, match=message) if message else contextlib.nullcontext():
        keep_document(app, "/openapi.json", "/named/{task}")
