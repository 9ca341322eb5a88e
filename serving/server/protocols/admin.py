"""The admin port: look at the catalogue now, load a task, look inside."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from serving.server.app import Server
from serving.server.endpoint import Endpoint, Error, Protocol


@dataclass(frozen=True)
class Polled:
    """The outcome of one look at the catalogue."""

    changed: bool
    unreachable: str | None
    refused: dict[str, str]


@dataclass(frozen=True)
class Loaded:
    """A task whose live version is in a slot."""

    task: str
    version: str
    resident: bool


@dataclass(frozen=True)
class State:
    """Slots, host copies and compiled programs."""

    slots_used: tuple[int, ...]
    host_bytes: int
    loads: dict[str, int]
    evictions: dict[str, int]
    failed: dict[str, str]
    programs: int


async def poll(server: Server, request: Request) -> Polled:
    """Serves what is live in the catalogue now."""
    changed = await server.polled()
    return Polled(changed, server.follower.unreachable, server.follower.refused)


async def load(server: Server, request: Request) -> Loaded:
    """Puts the live version of a task into a slot."""
    served = await server.served(request)
    await server.seated(served)
    return Loaded(served.task, served.version, resident=True)


async def state(server: Server, request: Request) -> State:
    """Returns what is in memory."""
    residency = server.runtime.residency
    return State(
        tuple(residency.slots_used),
        residency.host_bytes,
        dict(residency.loads),
        dict(residency.evictions),
        dict(residency.failed),
        server.runtime.programs.count,
    )


class Admin(Protocol, tag="admin"):
    """Routes that should not be reachable from outside."""

    endpoints = (
        Endpoint("/admin/poll", poll, {200: Polled, 503: Error}, "POST", port="admin"),
        Endpoint("/admin/load/{task}", load, {200: Loaded, 404: Error, 503: Error}, "POST", port="admin"),
        Endpoint("/admin/state", state, {200: State}, port="admin"),
    )
