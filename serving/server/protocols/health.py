"""Probes of the process, at the paths of the Open Inference Protocol: it lives, and it is ready for requests.

It lives while its device thread moves. It is ready while something that is live can be answered. The body says which
tasks cannot be; without a token, where tokens are needed, it names none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from serving.live.standing import Word
from serving.server.app import Server
from serving.server.endpoint import OPTIONAL, Endpoint, Protocol, json_of
from serving.server.json_response import JSON

NAMED = 20  # tasks that a response names


@dataclass(frozen=True)
class Live:
    """Whether the device thread moves."""

    live: bool
    reason: str | None = field(metadata=OPTIONAL)  # why it does not


@dataclass(frozen=True)
class Ready:
    """Whether something that is live can be answered, and what of it cannot."""

    ready: bool
    reason: str | None  # why nothing can be answered
    tasks: int  # tasks with a live version
    unable: int  # tasks that cannot be answered
    reasons: dict[str, str]  # reason by task, of the first of them
    following: Word  # state of the catalogue: current, or why what is served stays as it is
    catalogue: str | None  # the same in words


async def live(server: Server, request: Request) -> Response:
    """Returns 200 while the device thread moves, else 503."""
    reason = server.stalled
    return JSON(json_of(Live(reason is None, reason)), 200 if reason is None else 503)


async def ready(server: Server, request: Request) -> Response:
    """Returns 200 while something that is live can be answered, else 503."""
    state = server.readiness()
    reason = server.stalled or state.reason
    if not server.ready:
        reason = "starting or shutting down"
    admitted = server.tokens.admits(request.headers.get("authorization", ""))
    named = {task: state.unable[task] for task in sorted(state.unable)[:NAMED]} if admitted else {}
    catalogue = state.catalogue if admitted or state.catalogue is None else state.following
    body = Ready(reason is None, reason, state.tasks, len(state.unable), named, state.following, catalogue)
    return JSON(json_of(body), 200 if body.ready else 503)


class Health(Protocol, tag="health"):
    """Probes; they need no token."""

    endpoints = (
        Endpoint("/v2/health/live", live, {200: Live, 503: Live}, open=True),
        Endpoint("/v2/health/ready", ready, {200: Ready, 503: Ready}, open=True),
    )
