"""The OpenAPI document of each port."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from serving.server.app import Server
from serving.server.endpoint import Content, Endpoint, Port, Protocol
from serving.server.json_response import JSON
from serving.server.openapi import FREE, document

DOCUMENT = Content("the OpenAPI document of this port", "application/json", FREE)


def _document(server: Server, port: Port) -> Response:
    return JSON(document(server.endpoints_of(port), server.limits, bool(server.tokens.known)))


async def public(server: Server, request: Request) -> Response:
    """Returns the document of the public port."""
    return _document(server, "public")


async def admin(server: Server, request: Request) -> Response:
    """Returns the document of the admin port."""
    return _document(server, "admin")


class Contract(Protocol, tag="contract"):
    """The offers of each port, for programs."""

    endpoints = (
        Endpoint("/openapi.json", public, {200: DOCUMENT}),
        Endpoint("/admin/openapi.json", admin, {200: DOCUMENT}, port="admin"),
    )
