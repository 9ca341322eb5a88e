"""The server: Starlette applications for both ports over a runtime and its follower, built from the endpoints.

Work happens on the device thread; a handler hands rows over and waits for futures. When a client goes away, or its
time is up, its rows are cancelled before they cost anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters.artefact.router import Choice
from backbone.errors import InputError, shown
from serving.answers import Answer, NotFinite, Pending, score_rows
from serving.batching import Closed, DeadlineExceeded, Overloaded, Queued
from serving.controller import Controller, Reading
from serving.live.follow import Follower
from serving.live.readers import Readers
from serving.live.readiness import Readiness, readiness
from serving.live.revival import Revival
from serving.residency import LoadedGraft, Served
from serving.runtime import Runtime, UnknownTask
from serving.server.closing import Closing
from serving.server.endpoint import SMALL, Endpoint, Error, Port, TaskAnswers, all_endpoints, json_of
from serving.server.json_response import JSON
from serving.server.limits import Limits, Tokens
from serving.server.monitoring import Metrics
from serving.server.reading import Question, UnsupportedMedia
from serving.server.usage import UsageLog
from serving.table import Table

log = logging.getLogger(__name__)

T = TypeVar("T")

SAMPLE_SECONDS = 2.0  # seconds between two readings of the controller
STALL_SECONDS = 60.0  # seconds in one batch after which the device thread counts as stuck, by default
LOOKED_UP = 1000  # versions that were looked up, kept for when the catalogue does not answer


class Refused(Exception):
    """The artefact of a task does not load; other tasks are served."""


class Unreachable(Exception):
    """The catalogue, which alone knows a version, does not answer."""


class Gone(Exception):
    """The client went away."""


class Server:
    """The state that handlers share, and the steps that several of them take."""

    def __init__(
        self,
        runtime: Runtime,
        follower: Follower,
        limits: Limits,
        tokens: Tokens,
        controller: Controller | None = None,
        endpoints: Sequence[Endpoint] | None = None,
        stall_seconds: float = STALL_SECONDS,
        table: Table | None = None,
    ):
        """Takes the endpoints of every protocol by default; raises InputError if a user's file of them fails.

        After `stall_seconds` in one batch the device thread counts as stuck. The controller chooses by the `table`.
        """
        self.runtime, self.follower, self.limits, self.tokens = runtime, follower, limits, tokens
        self.controller, self.table = controller, table
        self.metrics = Metrics(runtime, follower, limits.tasks_in_metrics, controller)
        self.usage: UsageLog | None = None  # notes what answers take
        self.ready = False  # set once programs are compiled and the first grafts are in their slots
        self.stall_seconds = stall_seconds
        self._revival = Revival(runtime)
        self._lookups = Readers("lookup", seconds=limits.seconds)
        self._versions: OrderedDict[tuple[str, str], Served] = OrderedDict()
        self._endpoints = tuple(all_endpoints() if endpoints is None else endpoints)

    def endpoints_of(self, port: Port) -> list[Endpoint]:
        """Returns the endpoints of a port."""
        return [endpoint for endpoint in self._endpoints if endpoint.port == port]

    def app(self) -> Starlette:
        """Returns the application of the public port; while it runs, the controller gets its readings."""

        def no_route(_: Request, error: Exception) -> Response:
            response = _http_error(error)
            self.metrics.refused(response.status_code)
            return response

        return Starlette(
            routes=[_route(endpoint, self) for endpoint in self.endpoints_of("public")],
            exception_handlers={HTTPException: no_route},
            middleware=[Middleware(Closing)],
            lifespan=self._lifespan,
        )

    def admin(self) -> Starlette:
        """Returns the application of the admin port."""
        routes = [_route(endpoint, self) for endpoint in self.endpoints_of("admin")]
        return Starlette(
            routes=routes,
            exception_handlers={HTTPException: lambda _, error: _http_error(error)},
            middleware=[Middleware(Closing)],
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        sampling = asyncio.create_task(self.sample())
        try:
            yield
        finally:
            sampling.cancel()

    async def sample(self) -> None:
        """Takes readings for the controller and the page, and tries failed grafts again, until it is cancelled."""
        while True:
            try:
                self.control(self.metrics.sample())
                if self.usage is not None:
                    self.usage.step()
                self._revival.step()
            except Exception:  # a counter of the system that fails once must not end the control
                log.exception("a reading failed; the submodel stays %s", self.runtime.submodel)
            await asyncio.sleep(SAMPLE_SECONDS)

    def control(self, reading: Reading) -> None:
        """Lets the controller, if there is one, choose the submodel by a reading."""
        if self.controller is not None:
            if self.table is not None:
                self.runtime.standins = self.table.standins()
                self.controller.take(self.table.levels() if self.controller.chooses else ())
            self.controller.update(reading)
            level = self.controller.level
            self.runtime.submodels, self.runtime.submodel = level.submodels, level.everywhere

    # Steps of handlers

    async def served(self, request: Request) -> Served:
        """Returns the version that the path names, the live one by default; raises UnknownTask."""
        task, version = request.path_params["task"], request.path_params.get("version")
        request.state.tasks = (task,)
        live = self.runtime.find(task)
        if version is None or version == live.version:
            return live
        return await self._looked_up(task, version)

    async def _looked_up(self, task: str, version: str) -> Served:
        """Returns a version that is not live; one that was looked up before, if the catalogue does not answer."""
        key = (task, version)
        title = f"the catalogue, for {task} version {shown(version)}"
        try:
            look = self._lookups.submit(key, title, lambda: self.follower.version(task, version))
            served = await asyncio.wrap_future(look)
        except InputError as error:
            raise UnknownTask(str(error)) from error
        except Exception as error:  # whatever a database or a disk raises
            if key in self._versions:
                return self._versions[key]
            raise Unreachable(f"{task} version {shown(version)}: the catalogue does not answer: {error}") from error
        self._versions[key] = served
        self._versions.move_to_end(key)
        if len(self._versions) > LOOKED_UP:
            self._versions.popitem(last=False)
        return served

    async def loaded(self, served: Served) -> LoadedGraft:
        """Returns the graft, verified and on the host; raises Refused, also if that takes longer than an answer may."""
        return await self._in_time(self.runtime.residency.prepare_later(served), served)

    async def seated(self, served: Served) -> None:
        """Puts a graft into a slot; raises Refused as `loaded`."""
        await self._in_time(self.runtime.warm_later(served), served)

    async def _in_time(self, future: Future[T], served: Served) -> T:
        where = f"{served.task} version {served.version}"
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError as error:  # Unanswered is one, and has a message
            raise Refused(str(error) or f"{where}: not loaded within {self.limits.seconds:g} s; try again") from error
        except Exception as error:  # whatever a bad graft raises
            raise Refused(str(error) or f"{where}: {type(error).__name__}") from error

    async def polled(self) -> bool:
        """Looks at the catalogue now, and returns whether anything changed; raises Unreachable if that hangs."""
        try:
            poll = self._lookups.submit("poll", "the look at the catalogue", self.follower.poll)
            return await asyncio.wrap_future(poll)
        except OSError as error:  # the follower itself never raises
            raise Unreachable(str(error)) from error

    def close(self) -> None:
        """Says that it is not ready, and waits for no look-up any more."""
        self.ready = False
        self._lookups.close()

    def readiness(self) -> Readiness:
        """Returns what can be answered now."""
        return readiness(self.runtime, self.follower)

    @property
    def stalled(self) -> str | None:
        """Returns why the device thread counts as stuck; None: it moves."""
        if (seconds := self.runtime.stalled()) < self.stall_seconds:
            return None
        return "the device thread has ended" if seconds == math.inf else f"one batch has run for {seconds:.0f} s"

    def response(self, result: Any) -> Response:
        """Returns the response of what a handler returned: a dataclass as JSON, or a response as it is."""
        return result if isinstance(result, Response) else JSON(json_of(result))

    async def body(self, request: Request) -> bytes:
        """Returns the body; raises HTTPException beyond the limits of size (413) and time (408)."""
        content = bytearray()
        too_large = HTTPException(413, f"the body exceeds {self.limits.body_bytes} bytes", {"Connection": "close"})
        length = request.headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self.limits.body_bytes):
            raise too_large

        async def read() -> None:
            async for chunk in request.stream():
                content.extend(chunk)
                if len(content) > self.limits.body_bytes:
                    raise too_large

        try:
            await asyncio.wait_for(read(), self.limits.body_seconds)
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not arrive within {self.limits.body_seconds:g} s", {"Connection": "close"}
            ) from None
        return bytes(content)

    async def answers(self, request: Request, question: Question, versions: Sequence[Served]) -> list[TaskAnswers]:
        """Submits every text to each version, and returns the answers, one TaskAnswers for each version.

        Raises Refused, Gone, DeadlineExceeded, and what `Runtime.submit` and the rows raise.
        """
        rows = [(served, text) for served in versions for text in question.texts]
        answered = await self.answers_of_rows(request, rows, question.seconds)
        count, results = len(question.texts), []
        for first in range(0, len(answered), count):
            graft = answered[first][0].graft
            assert graft is not None
            results.append(TaskAnswers(graft, tuple(answer for _, answer in answered[first : first + count])))
        return results

    async def choices(self, request: Request, question: Question) -> tuple[list[Choice], list[Queued]]:
        """Returns the router's choice for every text, and the rows of its pass.

        Raises UnknownTask without a router, and what `answers` raises.
        """
        if (router := self.runtime.router) is None:
            raise UnknownTask("this server has no router; start it with --router")
        start = time.monotonic()
        rows = await run_in_threadpool(self.runtime.submit_routing, question.texts, timeout=question.seconds)
        try:
            await self._finished(request, rows, question.seconds - (time.monotonic() - start))
        finally:
            for row in rows:
                row.future.cancel()
        return router.chosen(np.stack([row.future.result() for row in rows])), rows

    async def answers_of_rows(
        self,
        request: Request,
        rows: Sequence[tuple[Served, str]],
        seconds: float,
        routed: Sequence[Queued] = (),
    ) -> list[tuple[Pending, Answer]]:
        """Submits rows, and returns each with its answer; raises what `answers` raises."""
        start = time.monotonic()
        pending = await run_in_threadpool(self.runtime.submit, rows, timeout=seconds, routed=routed)
        try:
            await self._finished(request, pending, seconds - (time.monotonic() - start))
        finally:
            for row in pending:
                row.future.cancel()
        if len(pending) > SMALL or any(row.graft is not None and row.graft.scope is not None for row in pending):
            answers = await run_in_threadpool(_answers, pending)  # off the event loop
        else:
            answers = _answers(pending)
        self.metrics.observe(pending, answers)
        return list(zip(pending, answers, strict=True))

    async def _finished(self, request: Request, queued: Sequence[Pending | Queued], seconds: float) -> None:
        """Returns once every row has its result; raises Refused, Gone, DeadlineExceeded or what a row raised."""
        rows = asyncio.gather(*(asyncio.wrap_future(row.future) for row in queued))
        pending = [row for row in queued if isinstance(row, Pending)]
        gone = asyncio.create_task(_disconnected(request))
        try:
            either: set[asyncio.Future[Any]] = {rows, gone}
            await asyncio.wait(either, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
            if rows.done():
                try:
                    rows.result()
                except (NotFinite, DeadlineExceeded, Closed):
                    raise
                except Exception as error:  # whatever a reader or the device thread raised; always raised again
                    if any(row.graft is None for row in pending):  # its load failed, whatever that raised
                        raise Refused(str(error) or type(error).__name__) from error
                    raise
            elif gone.done():
                raise Gone
            else:
                loading = sorted({row.served.task for row in pending if row.graft is None})
                where = f" while a graft was loaded: {', '.join(loading)}" if loading else ""
                raise DeadlineExceeded(f"the deadline passed{where}")
        finally:
            rows.cancel()
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await rows


def _answers(pending: Sequence[Pending]) -> list[Answer]:
    """Returns the answers of rows that are done."""
    score_rows(pending)
    return [row.answer(0) for row in pending]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _route(endpoint: Endpoint, server: Server) -> Route:
    """Returns the route of an endpoint: checks tokens, turns errors into JSON, counts responses.

    A request for answers is counted whatever becomes of it, another one if it fails. Probes are not counted.
    """

    async def handle(request: Request) -> Response:
        start, posted = time.perf_counter(), endpoint.method == "POST"
        server.metrics.in_progress += posted
        try:
            response = await _response(endpoint, server, request)
        finally:
            server.metrics.in_progress -= posted
        if endpoint.port == "public" and posted:
            tasks = getattr(request.state, "tasks", ())
            server.metrics.answered(tasks, response.status_code, time.perf_counter() - start)
        elif endpoint.port == "public" and not endpoint.open and response.status_code >= 400:
            server.metrics.refused(response.status_code)
        return response

    return Route(endpoint.path, handle, methods=[endpoint.method])


async def _response(endpoint: Endpoint, server: Server, request: Request) -> Response:
    """Returns the response of an endpoint, or the status and the message of the error that it raised."""
    if not endpoint.open and not server.tokens.admits(request.headers.get("authorization", "")):
        return _refusal(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
    try:
        return server.response(await endpoint.handle(server, request))
    except Overloaded as error:
        return _refusal(429, error, {"Retry-After": str(max(1, round(error.retry_after)))})
    except UnknownTask as error:
        return _refusal(404, error)
    except UnsupportedMedia as error:
        return _refusal(415, error)
    except InputError as error:
        return _refusal(400, error)
    except DeadlineExceeded as error:
        return _refusal(504, error)
    except (Closed, Refused, Unreachable) as error:
        return _refusal(503, error, {"Retry-After": "5"})
    except NotFinite as error:
        return _refusal(500, error)
    except Gone:
        return _refusal(499, "the client went away")
    except HTTPException as error:
        return _http_error(error)
    except Exception as error:  # a defect of ours, or of a user's endpoint
        log.error("a request failed", exc_info=error)
        return _refusal(500, f"internal error: {type(error).__name__}")


def _refusal(status: int, error: BaseException | str, headers: dict[str, str] | None = None) -> Response:
    return JSON(json_of(Error(str(error))), status, headers)


def _http_error(error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(error.status_code, error.detail, dict(error.headers or {}))
