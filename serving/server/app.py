"""The server: Starlette applications for both ports over a runtime and its follower, built from the endpoints.

Work happens on the device thread; a handler hands rows over and waits for futures. When a client goes away, or its
time is up, its rows are cancelled before they cost anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backbone.errors import InputError
from serving.answers import NotFinite, Pending, score_rows
from serving.batching import Closed, DeadlineExceeded, Overloaded
from serving.controller import Controller, Reading
from serving.follow import Follower
from serving.residency import LoadedGraft, Served
from serving.runtime import Runtime, UnknownTask
from serving.server.endpoint import Endpoint, Error, Port, TaskAnswers, all_endpoints, json_of
from serving.server.limits import Limits, Tokens
from serving.server.monitoring import Metrics
from serving.server.reading import Question

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 2.0  # seconds between two readings of the controller


class Refused(Exception):
    """The artefact of a task does not load; other tasks are served."""


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
    ):
        """Takes the endpoints of every protocol by default; raises InputError if a user's file of them fails."""
        self.runtime, self.follower, self.limits, self.tokens = runtime, follower, limits, tokens
        self.controller = controller
        self.metrics = Metrics(runtime, follower, limits.tasks_in_metrics, controller)
        self.ready = False  # set once programs are compiled and the first grafts are in their slots
        self._endpoints = tuple(all_endpoints() if endpoints is None else endpoints)

    def endpoints_of(self, port: Port) -> list[Endpoint]:
        """Returns the endpoints of a port."""
        return [endpoint for endpoint in self._endpoints if endpoint.port == port]

    def app(self) -> Starlette:
        """Returns the application of the public port; while it runs, the controller gets its readings."""
        return Starlette(
            routes=[_route(endpoint, self) for endpoint in self.endpoints_of("public")],
            exception_handlers={HTTPException: _http_error, Exception: _defect},
            lifespan=self._lifespan,
        )

    def admin(self) -> Starlette:
        """Returns the application of the admin port."""
        routes = [_route(endpoint, self) for endpoint in self.endpoints_of("admin")]
        return Starlette(routes=routes, exception_handlers={Exception: _defect})

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        sampling = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            sampling.cancel()

    async def _sample(self) -> None:
        while True:
            try:
                self.control(self.metrics.sample())
            except Exception:  # a counter of the system that fails once must not end the control
                log.exception("a reading failed; the submodel stays %s", self.runtime.submodel)
            await asyncio.sleep(SAMPLE_SECONDS)

    def control(self, reading: Reading) -> None:
        """Lets the controller, if there is one, choose the submodel by a reading."""
        if self.controller is not None:
            self.controller.update(reading)
            self.runtime.submodel = self.controller.submodel

    # Steps of handlers

    async def served(self, request: Request) -> Served:
        """Returns the version that the path names, the live one by default; raises UnknownTask."""
        task, version = request.path_params["task"], request.path_params.get("version")
        request.state.tasks = (task,)
        live = self.runtime.find(task)
        if version is None or version == live.version:
            return live
        try:
            return await run_in_threadpool(self.follower.version, task, version)
        except InputError as error:
            raise UnknownTask(str(error)) from error

    async def loaded(self, served: Served) -> LoadedGraft:
        """Returns the graft, verified and on the host; raises Refused."""
        try:
            return await run_in_threadpool(self.runtime.residency.prepare, served)
        except (InputError, OSError) as error:
            raise Refused(str(error)) from error

    async def body(self, request: Request) -> bytes:
        """Returns the body; raises HTTPException beyond the limits of size (413) and time (408)."""
        content = bytearray()

        async def read() -> None:
            async for chunk in request.stream():
                content.extend(chunk)
                if len(content) > self.limits.body_bytes:
                    raise HTTPException(413, f"the body exceeds {self.limits.body_bytes} bytes")

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
        start = time.monotonic()
        pending = await run_in_threadpool(self.runtime.submit, rows, timeout=question.seconds)
        try:
            await self._finished(request, pending, question.seconds - (time.monotonic() - start))
        finally:
            for row in pending:
                row.future.cancel()
        if any(row.graft is not None and row.graft.scope is not None for row in pending):
            await run_in_threadpool(score_rows, pending)  # off the event loop
        answers = [row.answer(0) for row in pending]
        self.metrics.observe(pending, answers)
        count, results = len(question.texts), []
        for first in range(0, len(answers), count):
            graft = pending[first].graft
            assert graft is not None
            results.append(TaskAnswers(graft, tuple(answers[first : first + count])))
        return results

    async def _finished(self, request: Request, pending: Sequence[Pending], seconds: float) -> None:
        """Returns once every row has its result; raises Refused, Gone, DeadlineExceeded or what a row raised."""
        rows = asyncio.gather(*(asyncio.wrap_future(row.future) for row in pending))
        gone = asyncio.create_task(_disconnected(request))
        try:
            either: set[asyncio.Future[Any]] = {rows, gone}
            await asyncio.wait(either, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
            if rows.done():
                try:
                    rows.result()
                except (InputError, OSError) as error:  # the load failed: the text was checked before
                    raise Refused(str(error)) from error
            elif gone.done():
                raise Gone
            else:
                raise DeadlineExceeded("the deadline passed")
        finally:
            rows.cancel()
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await rows


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _route(endpoint: Endpoint, server: Server) -> Route:
    """Returns the route of an endpoint: checks tokens, turns errors into JSON, counts responses."""

    async def handle(request: Request) -> Response:
        start = time.perf_counter()
        if not endpoint.open and not server.tokens.admits(request.headers.get("authorization", "")):
            return _refusal(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if endpoint.method != "POST":
            return await _response(endpoint, server, request)
        server.metrics.in_progress += 1
        try:
            response = await _response(endpoint, server, request)
        finally:
            server.metrics.in_progress -= 1
        if endpoint.port == "public":
            tasks = getattr(request.state, "tasks", ())
            server.metrics.answered(tasks, response.status_code, time.perf_counter() - start)
        return response

    return Route(endpoint.path, handle, methods=[endpoint.method])


async def _response(endpoint: Endpoint, server: Server, request: Request) -> Response:
    """Returns the response of an endpoint, or the status and the message of the error that it raised."""
    try:
        result = await endpoint.handle(server, request)
        return result if isinstance(result, Response) else JSONResponse(json_of(result))
    except Overloaded as error:
        return _refusal(429, error, {"Retry-After": str(max(1, round(error.retry_after)))})
    except UnknownTask as error:
        return _refusal(404, error)
    except InputError as error:
        return _refusal(400, error)
    except DeadlineExceeded as error:
        return _refusal(504, error)
    except (Closed, Refused) as error:
        return _refusal(503, error, {"Retry-After": "5"})
    except NotFinite as error:
        return _refusal(500, error)
    except Gone:
        return _refusal(499, "the client went away")
    except HTTPException as error:
        return _http_error(request, error)


def _refusal(status: int, error: BaseException | str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(json_of(Error(str(error))), status, headers)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(error.status_code, error.detail, dict(error.headers or {}))


def _defect(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return _refusal(500, f"internal error: {type(error).__name__}")
