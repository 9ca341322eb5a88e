"""Endpoints of the server, and the one way from a request to its answer: read, submit, respond.

A file of `serving/server/protocols` defines a protocol: the endpoints that belong together. The routes and the OpenAPI
documents are built from them, so that a new endpoint is one new file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from backbone.errors import InputError
from backbone.records import encode
from backbone.variants.registered import Registered, run_named_variants, variants
from serving.answers import Answer
from serving.residency import LoadedGraft
from serving.server.limits import Limits
from serving.server.reading import Question, only_json

if TYPE_CHECKING:
    from serving.server.app import Server

Schema = dict[str, Any]  # JSON schema
Port = Literal["public", "admin"]

SMALL = 64  # rows of a response that is made on the event loop

OPTIONAL = {"optional": True}  # metadata of a dataclass field that is left out of the JSON if it is None


def described(text: str) -> Any:
    """Returns a dataclass field whose JSON schema has a description."""
    return field(metadata={"description": text})


@dataclass(frozen=True)
class Error:
    """The JSON of every refusal."""

    error: str


@dataclass(frozen=True)
class Content:
    """An answer that no dataclass describes."""

    description: str
    media: str  # media type
    schema: Schema


@dataclass(frozen=True)
class Body:
    """The JSON of a request."""

    name: str  # name of the schema in the OpenAPI document
    schema: Callable[[Limits], Schema]


@dataclass(frozen=True)
class Endpoint:
    """A route: its path, what it does, and what it returns."""

    path: str  # path of the URL; names in braces are read from it: /v2/models/{task}
    handle: Callable[[Server, Request], Awaitable[Any]]  # returns a dataclass, sent as JSON, or a Response
    replies: Mapping[int, type | Content]  # dataclass of the JSON of each status, for the OpenAPI document
    method: Literal["GET", "POST"] = "GET"
    body: Body | None = None  # JSON that the request holds
    port: Port = "public"  # port that has this route
    open: bool = False  # no bearer token is needed, even if the server has tokens


@dataclass(frozen=True)
class TaskAnswers:
    """The answers of one task, in the order of the texts."""

    graft: LoadedGraft
    answers: tuple[Answer, ...]

    @property
    def submodel(self) -> str:
        """Returns the submodel that answered, or `mixed` if several did."""
        submodels = {answer.submodel for answer in self.answers}
        return submodels.pop() if len(submodels) == 1 else "mixed"


Read = Callable[[bytes, Mapping[str, str], Limits], Question]  # body, names from the path, limits of the server
Respond = Callable[[Question, Sequence[TaskAnswers]], Any]  # returns a dataclass; one TaskAnswers for each task

FAILURES: dict[int, type | Content] = dict.fromkeys((400, 404, 408, 413, 415, 429, 500, 503, 504), Error)


def inference(path: str, read: Read, respond: Respond, *, body: Body, reply: type) -> Endpoint:
    """Returns the endpoint that answers texts by grafts.

    `read` makes a question of the request; what it refuses with InputError is answered with 400. `respond` makes the
    `reply` of the answers. A path with `{task}`, and perhaps `{version}`, names the graft. Otherwise the live versions
    of the question's tasks answer.
    """

    async def handle(server: Server, request: Request) -> Any:
        only_json(request.headers)
        named = [await server.served(request)] if "task" in request.path_params else []
        question = read(await server.body(request), request.path_params, server.limits)
        request.state.tasks = question.tasks
        versions = named or [server.runtime.find(task) for task in question.tasks]
        tasks = await server.answers(request, question, versions)
        if len(question.texts) * len(tasks) <= SMALL:
            return respond(question, tasks)
        return await run_in_threadpool(lambda: server.response(respond(question, tasks)))  # off the event loop

    return Endpoint(path, handle, {200: reply} | FAILURES, "POST", body)


class Protocol(Registered, by="protocol", folder="serving.server.protocols", needs=("endpoints",)):
    """Endpoints that belong together."""

    endpoints: ClassVar[tuple[Endpoint, ...]]


def all_endpoints() -> tuple[Endpoint, ...]:
    """Returns the endpoints of every protocol, those of `TOPGRAFT_VARIANTS` included.

    Raises InputError if a file of a user fails, or if two protocols have the same route.
    """
    run_named_variants()
    endpoints: list[Endpoint] = []
    files: dict[tuple[Port, str, str], str] = {}
    for tag, protocol in variants(Protocol).items():
        file = Protocol.registry.files[tag]
        for endpoint in protocol.endpoints:
            route = (endpoint.port, endpoint.method, endpoint.path)
            if route in files:
                where = f"{endpoint.method} {endpoint.path}"
                raise InputError(f"{where}: a route of {files[route]} and of {file}; choose another path")
            files[route] = file
            endpoints.append(endpoint)
    return tuple(endpoints)


def json_of(result: Any) -> Any:
    """Returns the JSON values of a dataclass, without optional fields that are None."""
    left_out = {f.name for f in fields(result) if f.metadata.get("optional") and getattr(result, f.name) is None}
    return {name: value for name, value in encode(result).items() if name not in left_out}
