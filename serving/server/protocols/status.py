"""The state of a server: the page, the tasks, the history that it draws, and counters for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

import serving.server
from serving.drift import DriftReport
from serving.ladder import Option
from serving.server.app import Server
from serving.server.endpoint import Content, Endpoint, Protocol
from serving.server.monitoring import Stats
from serving.server.openapi import TEXT

PAGE = Path(serving.server.__path__[0]) / "page.html"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class TaskStatus:
    """One task that is served."""

    task: str
    version: str
    content_id: str
    generation: int
    resident: bool
    submodel: str
    options: tuple[Option, ...]
    given_up: float
    lineage: dict[str, Any]
    drift: DriftReport | None
    refused: str | None


@dataclass(frozen=True)
class Tasks:
    """The tasks that are served, in alphabetical order."""

    tasks: tuple[TaskStatus, ...]


async def page(server: Server, request: Request) -> Response:
    """Returns the page; it holds no data."""
    return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8")


async def tasks(server: Server, request: Request) -> Response:
    """Returns the state of each task: version, slot, drift, and why a newer version was refused."""
    return await run_in_threadpool(lambda: server.response(_tasks(server)))  # many tasks keep the event loop no longer


def _tasks(server: Server) -> Tasks:
    served = server.runtime.entries
    drift = server.metrics.drift.reports({task: one.content_id for task, one in served.items()})
    entries, refused, residency = server.follower.entries, server.follower.refused, server.runtime.residency
    return Tasks(
        tuple(
            TaskStatus(
                task,
                one.version,
                one.content_id,
                one.generation,
                resident=residency.resident(one.content_id),
                submodel=server.runtime.submodel_of(task),
                options=server.table.options(task) if server.table else (),
                given_up=server.runtime.given_up.get(task, 0.0),
                lineage=entries[task].lineage if task in entries else {},
                drift=drift.get(task),
                refused=refused.get(task) or residency.failed.get(one.content_id),
            )
            for task, one in sorted(served.items())
        )
    )


async def stats(server: Server, request: Request) -> Stats:
    """Returns the counters and the history that the page shows."""
    return server.metrics.stats()


async def metrics(server: Server, request: Request) -> Response:
    """Returns the counters in Prometheus' text format."""
    return Response(await run_in_threadpool(server.metrics.text), media_type=PROMETHEUS)


class Status(Protocol, tag="status"):
    """The page and what it shows. The page itself needs no token."""

    endpoints = (
        Endpoint("/", page, {200: Content("the page", "text/html", TEXT)}, open=True),
        Endpoint("/tasks", tasks, {200: Tasks}),
        Endpoint("/stats", stats, {200: Stats}),
        Endpoint("/metrics", metrics, {200: Content("counters", "text/plain", TEXT)}),
    )
