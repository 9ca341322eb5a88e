"""Probes of the process, at the paths of the Open Inference Protocol: it lives, and it is ready for requests."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.server.app import Server
from serving.server.endpoint import Endpoint, Protocol, json_of


@dataclass(frozen=True)
class Live:
    """Whether the process answers."""

    live: bool


@dataclass(frozen=True)
class Ready:
    """Whether programs are compiled and the first grafts are in their slots."""

    ready: bool


async def live(server: Server, request: Request) -> Live:
    """Returns that the process answers."""
    return Live(True)


async def ready(server: Server, request: Request) -> Response:
    """Returns 200 once the server is ready, else 503."""
    return JSONResponse(json_of(Ready(server.ready)), 200 if server.ready else 503)


class Health(Protocol, tag="health"):
    """Probes; they need no token."""

    endpoints = (
        Endpoint("/v2/health/live", live, {200: Live}, open=True),
        Endpoint("/v2/health/ready", ready, {200: Ready, 503: Ready}, open=True),
    )
