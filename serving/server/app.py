"""The routes: a Starlette application over a runtime and its follower.

Work happens on the device thread; a handler hands rows over and waits for futures. A client that goes away, or
whose time is up, cancels its rows before they cost anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backbone.errors import InputError
from backbone.records import encode
from serving.answers import Answer, NotFinite, Pending, score_rows
from serving.batching import Closed, DeadlineExceeded, Overloaded
from serving.controller import Controller, Reading
from serving.follow import Follower
from serving.residency import Served
from serving.runtime import Runtime, UnknownTask
from serving.server.limits import Limits, Tokens
from serving.server.monitoring import Metrics
from serving.server.openapi import document
from serving.server.protocol import Question, infer_response, predict_response, read_infer, read_predict

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page.html"
OPEN = ("/", "/v2/health/live", "/v2/health/ready")  # asked without a token: probes, and the page that has no data
SAMPLE_SECONDS = 2.0


class Refused(Exception):
    """The artefact of a task does not load; other tasks are served."""


class Gone(Exception):
    """The client went away."""


class Server:
    """The handlers. `ready` is set once programs are compiled and the first grafts are in."""

    def __init__(
        self,
        runtime: Runtime,
        follower: Follower,
        limits: Limits,
        tokens: Tokens,
        controller: Controller | None = None,
    ):
        self.runtime, self.follower, self.limits, self.tokens = runtime, follower, limits, tokens
        self.controller = controller
        self.metrics = Metrics(runtime, follower, limits.tasks_in_metrics, controller)
        self.ready = False

    def app(self) -> Starlette:
        """The application for the public port."""
        routes = [
            Route("/", self.page),
            Route("/v2", self.about),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.is_ready),
            Route("/v2/models/{task}", self.model),
            Route("/v2/models/{task}/ready", self.model_ready),
            Route("/v2/models/{task}/infer", self.infer, methods=["POST"]),
            Route("/v2/models/{task}/versions/{version}", self.model),
            Route("/v2/models/{task}/versions/{version}/ready", self.model_ready),
            Route("/v2/models/{task}/versions/{version}/infer", self.infer, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/tasks", self.tasks),
            Route("/metrics", self.prometheus),
            Route("/stats", self.stats),
            Route("/openapi.json", self.openapi),
        ]
        return Starlette(
            routes=[_guarded(route, self) for route in routes],
            exception_handlers={HTTPException: _http_error, Exception: _defect},
            lifespan=self._lifespan,
        )

    def admin(self) -> Starlette:
        """The application for the admin port: poll the catalogue now, load a task, look inside."""
        routes = [
            Route("/admin/poll", self.admin_poll, methods=["POST"]),
            Route("/admin/load/{task}", self.admin_load, methods=["POST"]),
            Route("/admin/state", self.admin_state),
        ]
        return Starlette(routes=[_guarded(route, self) for route in routes], exception_handlers={Exception: _defect})

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
        """Lets the controller, where there is one, choose the submodel by a reading."""
        if self.controller is not None:
            self.controller.update(reading)
            self.runtime.submodel = self.controller.submodel

    # What is there

    async def page(self, request: Request) -> Response:
        return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8")

    async def about(self, request: Request) -> Response:
        from importlib.metadata import version

        backbone, programs = self.runtime.backbone, self.runtime.programs
        return JSONResponse(
            {
                "name": "topgraft",
                "version": version("topgraft"),
                "extensions": ["predict"],
                "backbone": {"weights_id": backbone.weights_id, "preprocessing_id": backbone.preprocessing_id},
                "envelope": encode(self.runtime.envelope),
                "buckets": list(programs.buckets),
                "batch_sizes": list(programs.sizes),
                "limits": encode(self.limits),
            }
        )

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def is_ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def tasks(self, request: Request) -> Response:
        entries = self.follower.entries
        live = {task: served.content_id for task, served in self.runtime.entries.items()}
        drift = self.metrics.drift.reports(live)
        found = []
        for task, served in sorted(self.runtime.entries.items()):
            entry = entries.get(task)
            found.append(
                {
                    "task": task,
                    "version": served.version,
                    "content_id": served.content_id,
                    "generation": served.generation,
                    "resident": self.runtime.residency.resident(served.content_id),
                    "lineage": entry.lineage if entry else {},
                    "drift": encode(drift[task]) if task in drift else None,
                    "refused": self.follower.refused.get(task) or self.runtime.residency.failed.get(served.content_id),
                }
            )
        return JSONResponse({"tasks": found})

    async def prometheus(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def stats(self, request: Request) -> Response:
        return JSONResponse(self.metrics.stats())

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.limits, bool(self.tokens.known)))

    async def model(self, request: Request) -> Response:
        served = await self._served(request)
        prepared = await self._loaded(served)
        group = self.runtime.banks[prepared.group].group
        scoped = [
            {"name": "out_of_scope_score", "datatype": "FP32", "shape": [-1]},
            {"name": "abstained", "datatype": "BOOL", "shape": [-1]},
        ]
        return JSONResponse(
            {
                "name": served.task,
                "versions": [served.version],
                "platform": "topgraft_jax",
                "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                "outputs": [
                    {"name": "labels", "datatype": "BYTES", "shape": [-1]},
                    {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(prepared.labels)]},
                    *(scoped if prepared.scope else []),
                ],
                "parameters": {
                    "labels": list(prepared.labels),
                    "head": prepared.head.kind,
                    "methods": list(prepared.methods),
                    "group": f"{prepared.group}: {group.title()}",
                    "content_id": served.content_id,
                    "generation": served.generation,
                    "max_tokens": prepared.max_tokens,
                    "out_of_scope": self.runtime.price_of_scope(prepared),
                    "submodels": self.runtime.submodels_of(prepared),
                },
            }
        )

    async def model_ready(self, request: Request) -> Response:
        served = await self._served(request)
        await self._loaded(served)
        return JSONResponse({"name": served.task, "ready": True})

    # Answers

    async def infer(self, request: Request) -> Response:
        served = await self._served(request)
        question = read_infer(await self._body(request), served.task, self.limits)
        pending = await self._answers(request, question, [served])
        assert pending[0].prepared is not None
        return JSONResponse(infer_response(question, await self._read(pending), pending[0].prepared))

    async def predict(self, request: Request) -> Response:
        question = read_predict(await self._body(request), self.limits)
        request.state.tasks = question.tasks
        pending = await self._answers(request, question, [self.runtime.find(task) for task in question.tasks])
        return JSONResponse(predict_response(question, await self._read(pending)))

    async def _read(self, pending: Sequence[Pending]) -> list[Answer]:
        """Answers of finished rows; those with an out-of-scope score are scored off the event loop, and counted."""
        if any(one.prepared is not None and one.prepared.scope is not None for one in pending):
            await run_in_threadpool(score_rows, pending)
        answers = [one.answer(0) for one in pending]
        self.metrics.observe(pending, answers)
        return answers

    async def _answers(self, request: Request, question: Question, served: Sequence[Served]) -> list[Pending]:
        """The finished rows, task by task; every version is chosen once for the whole request."""
        rows = [(one, text) for one in served for text in question.texts]
        begun = time.monotonic()
        pending = await run_in_threadpool(self.runtime.submit, rows, timeout=question.seconds)
        try:
            await self._finished(request, pending, question.seconds - (time.monotonic() - begun))
        finally:
            for one in pending:
                one.future.cancel()
        return pending

    async def _finished(self, request: Request, pending: Sequence[Pending], seconds: float) -> None:
        rows = asyncio.gather(*(asyncio.wrap_future(one.future) for one in pending))
        gone = asyncio.create_task(_disconnected(request))
        try:
            either: set[asyncio.Future[Any]] = {rows, gone}
            await asyncio.wait(either, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
            if rows.done():
                try:
                    rows.result()
                except (InputError, OSError) as error:  # of its load: the text was checked before
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

    async def _served(self, request: Request) -> Served:
        task, version = request.path_params["task"], request.path_params.get("version")
        request.state.tasks = (task,)
        live = self.runtime.find(task)
        if version is None or version == live.version:
            return live
        try:
            return await run_in_threadpool(self.follower.version, task, version)
        except InputError as error:
            raise UnknownTask(str(error)) from error

    async def _loaded(self, served: Served) -> Any:
        try:
            return await run_in_threadpool(self.runtime.residency.prepare, served)
        except (InputError, OSError) as error:
            raise Refused(str(error)) from error

    async def _body(self, request: Request) -> bytes:
        """The body, within the limits of size and time."""
        found = bytearray()

        async def read() -> None:
            async for chunk in request.stream():
                found.extend(chunk)
                if len(found) > self.limits.body_bytes:
                    raise HTTPException(413, f"the body exceeds {self.limits.body_bytes} bytes")

        try:
            await asyncio.wait_for(read(), self.limits.body_seconds)
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not arrive within {self.limits.body_seconds:g} s", {"Connection": "close"}
            ) from None
        return bytes(found)

    # Administration

    async def admin_poll(self, request: Request) -> Response:
        changed = await run_in_threadpool(self.follower.poll)
        return JSONResponse(
            {"changed": changed, "unreachable": self.follower.unreachable, "refused": self.follower.refused}
        )

    async def admin_load(self, request: Request) -> Response:
        served = await self._served(request)
        try:
            await run_in_threadpool(self.runtime.warm, served)
        except (InputError, OSError) as error:
            raise Refused(str(error)) from error
        return JSONResponse({"task": served.task, "version": served.version, "resident": True})

    async def admin_state(self, request: Request) -> Response:
        residency = self.runtime.residency
        return JSONResponse(
            {
                "slots_used": residency.slots_used,
                "host_bytes": residency.host_bytes,
                "loads": dict(residency.loads),
                "evictions": dict(residency.evictions),
                "failed": dict(residency.failed),
                "programs": self.runtime.programs.count,
            }
        )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _problem(status: int, error: BaseException | str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": str(error)}, status, headers)


def _guarded(route: Route, server: Server) -> Route:
    """The route with tokens checked, errors told as JSON, and the response counted."""
    handler: Callable[[Request], Awaitable[Response]] = route.endpoint

    async def guarded(request: Request) -> Response:
        begun = time.perf_counter()
        if route.path not in OPEN and not server.tokens.admits(request.headers.get("authorization", "")):
            return _problem(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if request.method != "POST":
            return await _told(handler, request)
        server.metrics.in_progress += 1
        try:
            response = await _told(handler, request)
        finally:
            server.metrics.in_progress -= 1
        if not route.path.startswith("/admin"):
            tasks = getattr(request.state, "tasks", ())
            server.metrics.answered(tasks, response.status_code, time.perf_counter() - begun)
        return response

    return Route(route.path, guarded, methods=sorted(route.methods or {"GET"}), name=route.name)


async def _told(handler: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await handler(request)
    except Overloaded as error:
        return _problem(429, error, {"Retry-After": str(max(1, round(error.retry_after)))})
    except UnknownTask as error:
        return _problem(404, error)
    except InputError as error:
        return _problem(400, error)
    except DeadlineExceeded as error:
        return _problem(504, error)
    except (Closed, Refused) as error:
        return _problem(503, error, {"Retry-After": "5"})
    except NotFinite as error:
        return _problem(500, error)
    except Gone:
        return _problem(499, "the client went away")
    except HTTPException as error:
        return _http_error(request, error)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, dict(error.headers or {}))


def _defect(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return _problem(500, f"internal error: {type(error).__name__}")
