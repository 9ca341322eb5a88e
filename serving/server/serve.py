"""The verb `serve`: one process that owns the device and answers over HTTP until SIGTERM.

On SIGTERM it takes no more connections, answers the requests that it has received, and ends with status 0; before it
listens, it ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from adapters.artefact.router import Router, read_router, require_trunk
from adapters.machine import ready_to_answer
from backbone.errors import InputError
from backbone.home import resolve_backbone, stored_ids
from backbone.storage import Backbone, load_backbone
from metering.energy import meter
from metering.thermal import thermometer
from metering.window import on_accelerator
from registry.budgets.place import budgets_for
from registry.database import open_registry
from registry.precisions import chosen
from registry.remote_store import opened
from serving.bank import Envelope
from serving.live.catalogue import Catalogue, FolderCatalogue, RegistryCatalogue, Timely
from serving.live.follow import Follower
from serving.residency import LoadedGraft, Served
from serving.runtime import Runtime
from serving.server import ending
from serving.server.app import Server
from serving.server.door import Door
from serving.server.endpoint import Endpoint, all_endpoints
from serving.server.envelopes import read_envelope, read_live
from serving.server.limits import Tokens
from serving.server.openapi import document
from serving.server.settings import Settings
from serving.server.usage import UsageLog
from serving.submodels import PRUNED
from serving.table import Table

log = logging.getLogger(__name__)

QUIET = 30.0  # seconds without any load after which the server begins without the rest
AHEAD = 8  # grafts that are read ahead of their slots at the start
BUCKETS = (16, 32, 64, 128)  # lengths in tokens by default; the backbone's longest input is added


@dataclass(frozen=True)
class ServeResult:
    """The result of `serve`; `--json` prints it."""

    requests: dict[str, int]  # rows by outcome: done, failed, cancelled
    batches: int
    exit: int = 0


def serve(settings: Settings) -> ServeResult:
    """Serves until SIGTERM or SIGINT. Raises InputError before anything is compiled if it cannot."""
    with ending.caught():
        ready_to_answer()
        for port in (settings.port, settings.admin_port):
            if port is not None:
                _require_free(settings.host, port)
        tokens = Tokens.read(settings.token_file)
        _require_readable(settings)
        endpoints = all_endpoints()
        document(endpoints, settings.limits, tokens=False)  # raises for a reply without a schema
        catalogue = Timely(_catalogue(settings))
        backbone = load_backbone(resolve_backbone(settings.backbone), precision=trunk_precision(settings))
        start = _Start(settings, backbone, catalogue, tokens, endpoints, _router(settings, backbone))
        try:
            if not start.begins():
                start.require_hope()
                start.later()
            with _admin(start.admin, settings):
                _listen(start.public, settings)
        finally:
            start.close()
    return start.result()


class _Start:
    """The way from settings to a server: at once if anything live can be read, else as soon as that is so."""

    def __init__(
        self,
        settings: Settings,
        backbone: Backbone,
        catalogue: Timely,
        tokens: Tokens,
        endpoints: Sequence[Endpoint],
        router: Router | None = None,
    ):
        self._router = router
        self._settings, self._backbone, self._catalogue = settings, backbone, catalogue
        self._tokens, self._endpoints = tokens, endpoints
        seconds = settings.limits.body_seconds + settings.limits.seconds  # a request may take so long anyhow
        self.public, self.admin = Door(seconds), Door(seconds)
        self.admin.retry = self.public.retry
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._foreign = False  # every live version is whole, and on another backbone

    def begins(self) -> bool:
        """Makes the server and opens its doors if anything live can be read; else notes why not."""
        doors = (self.public, self.admin)
        for door in doors:
            door.trying = True
        try:
            return self._begins()
        finally:
            for door in doors:
                door.tries, door.trying = door.tries + 1, False

    def _begins(self) -> bool:
        settings = self._settings
        if settings.envelope:
            envelope = read_envelope(settings.envelope)
        else:
            live = read_live(settings, self._backbone, self._catalogue)
            self._foreign = live.foreign
            if live.nothing is not None:
                if self.public.reason != live.nothing:
                    log.error("not ready: %s", live.nothing)
                self.public.reason = self.admin.reason = live.nothing
                return False
            envelope = live.envelope(settings)
        self.public.reason = self.admin.reason = "programs are compiled, and the first grafts loaded"
        self._server = self._made(envelope)
        refused = self._server.metrics.refused
        self.admin.open(self._server.admin(), refused=refused)
        self.public.open(self._server.app(), self._server.sample, refused)
        return True

    def require_hope(self) -> None:
        """Raises InputError where a folder holds whole grafts, all of them on other backbones: no waiting helps."""
        if self._settings.grafts is not None and self._foreign:
            raise InputError(f"--grafts: {self.public.reason}; name their backbone with --backbone, or other grafts")

    def _made(self, envelope: Envelope) -> Server:
        settings, start = self._settings, time.perf_counter()
        runtime = _runtime(settings, self._backbone, envelope, self._router)
        follower = Follower(runtime, self._catalogue, seconds=settings.poll_seconds)
        controller = settings.controller()
        runtime.submodel = controller.submodel
        server = Server(
            runtime, follower, settings.limits, self._tokens, controller, self._endpoints, settings.stall_seconds
        )
        if settings.usage is not None:
            server.usage = UsageLog(Path(settings.usage), server.metrics)
        follower.poll()
        warm(runtime, settings.load_seconds / 2)
        if controller.chooses or PRUNED in settings.submodels:
            server.table = Table(runtime, settings.submodels)
            runtime.standins = server.table.standins()
            for level in server.table.levels():
                log.info("level: %s: %.2f of the cost, %.4f of the rows worse", level.name, level.cost, level.lost)
        seconds = time.perf_counter() - start
        log.info("%d programs, %d tasks in %.1f s", runtime.programs.count, len(runtime.entries), seconds)
        if (reason := server.readiness().reason) is not None:
            log.error("not ready: %s", reason)
        follower.start()
        server.ready = True
        return server

    def later(self) -> None:
        """Tries again in a thread, every `poll_seconds` and for every request, until the server begins."""
        self._thread = threading.Thread(target=self._until_begun, name="start", daemon=True)
        self._thread.start()

    def _until_begun(self) -> None:
        while True:
            self.public.retry.wait(self._settings.poll_seconds)
            self.public.retry.clear()
            if self._closed:
                return
            try:
                if self.begins():
                    return
            except Exception as error:  # the next look may find it mended
                log.exception("the server could not begin")
                self.public.reason = self.admin.reason = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        """Ends the server, if it has begun; what hangs is left behind."""
        self._closed = True
        self.public.retry.set()
        if (server := self._server) is not None:
            if server.usage is not None:
                server.metrics.sample()
                server.usage.write()
            server.close()
            server.runtime.residency.close()
        self._catalogue.close()
        if server is not None:
            server.follower.stop()
            server.runtime.close()
        if (self._thread is not None and self._thread.is_alive()) or (
            server is not None and server.runtime.residency.readers.busy
        ):
            ending.leave_behind()  # it compiles, or reads what hangs

    def result(self) -> ServeResult:
        """Returns what was served."""
        if self._server is None:
            return ServeResult({}, 0)
        return ServeResult(dict(self._server.runtime.answered), self._server.runtime.counts.batches)


def _require_free(host: str, port: int) -> None:
    """Raises InputError if nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InputError(f"--host, --port: cannot listen on {host}:{port}: {error}") from error


def _require_readable(settings: Settings) -> None:
    """Raises InputError for a bound on a reading that this machine does not have."""
    for option, bound, source in (
        ("--max-watts", settings.bounds.max_watts, meter(on_accelerator())),
        ("--max-celsius", settings.bounds.max_celsius, thermometer(on_accelerator())),
    ):
        if bound is not None and source is None:
            raise InputError(f"{option}: cannot be read on this machine; bound --p95 or --max-queued instead")


def warm(runtime: Runtime, seconds: float = QUIET) -> None:
    """Loads as many grafts as there are slots.

    One that does not load is logged, and a request for it gets the reason. If nothing loads for `seconds`, since reads
    hang, the server begins without the rest.
    """
    room = [bank.group.slots for bank in runtime.banks]
    rest, reads = iter(runtime.entries.values()), dict[Future[LoadedGraft], Served]()
    while any(room):
        while len(reads) < AHEAD and (served := next(rest, None)) is not None:
            reads[runtime.residency.prepare_later(served)] = served
        if not reads:
            return
        done = wait(reads, seconds, FIRST_COMPLETED).done
        if not done:
            hanging = ", ".join(served.task for served in reads.values())
            log.error("%s: not loaded within %.0f s; the server begins without", hanging, seconds)
            return
        for future in [future for future in reads if future in done]:
            _seat(runtime, reads.pop(future), future, room)


def _seat(runtime: Runtime, served: Served, read: Future[LoadedGraft], room: list[int]) -> None:
    """Puts a graft that was read into a slot, if its group has room."""
    try:
        graft = read.result()
        if room[graft.group]:
            room[graft.group] -= 1
            runtime.warm(served)
            if (cost := runtime.scope_cost(graft)) and cost.extra_blocks:
                log.info("%s: its out-of-scope score runs %d blocks more", served.task, cost.extra_blocks)
    except Exception as error:  # noqa: BLE001 - whatever a bad graft raises harms no other
        log.error("%s version %s does not load: %s", served.task, served.version, error)


def trunk_precision(settings: Settings) -> str:
    """Returns the precision of the trunk: that of the settings, else the registry's; "" is that of this machine."""
    if settings.registry is None:
        return settings.precision
    with contextlib.closing(open_registry(settings.registry, create=False)) as registry:
        recorded = chosen(registry).get(stored_ids(settings.backbone)[0])
    if recorded is None:
        return settings.precision
    if settings.precision not in ("", recorded.precision):
        log.warning("--precision: %s, but the registry records %s", settings.precision, recorded.precision)
    return settings.precision or recorded.precision


def _catalogue(settings: Settings) -> Catalogue:
    if settings.grafts is not None:
        return FolderCatalogue(settings.grafts)
    assert settings.registry is not None
    assert settings.store is not None
    budgets = budgets_for(settings.budgets, settings.registry)
    registry = open_registry(settings.registry, create=False)
    return RegistryCatalogue(registry, opened(settings.store), budgets=budgets)


def _router(settings: Settings, backbone: Backbone) -> Router | None:
    """Returns the router of --router; raises InputError for one of another trunk."""
    if settings.router is None:
        return None
    router = read_router(settings.router)
    require_trunk(router, backbone.weights_id, backbone.preprocessing_id, f"--router {settings.router}")
    return router


def _runtime(settings: Settings, backbone: Backbone, envelope: Envelope, router: Router | None) -> Runtime:
    if "exits" in settings.submodels and not envelope.exits:
        log.warning("--submodels: no live graft has early exits, and the envelope names none: all rows run in full")
    return Runtime(
        backbone,
        envelope,
        buckets=settings.buckets or (*(b for b in BUCKETS if b < backbone.lengths[-1]), backbone.lengths[-1]),
        batch_sizes=settings.batch_sizes,
        max_wait=settings.max_wait_ms / 1e3,
        max_waiting=settings.max_waiting,
        host_bytes=settings.host_mb << 20,
        cache_bytes=settings.cache_mb << 20,
        load_seconds=settings.load_seconds,
        router=router,
    )


def _listen(door: Door, settings: Settings) -> None:
    """Runs uvicorn on the main thread; a signal ends it once the requests under way are answered."""
    config = uvicorn.Config(
        door,
        http=_counting(door),
        host=settings.host,
        port=settings.port,
        log_config=None,  # records go to the handlers of the command
        log_level="warning",
        access_log=False,
        # longer than load balancers keep a connection (60 s): otherwise a request may meet a connection that is closing
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.limits.seconds + settings.limits.body_seconds) + 1,
        server_header=False,
    )
    server = _Announcing(config)
    with ending.draining(server.drain):
        server.run()


def _counting(door: Door) -> type[asyncio.Protocol]:
    """Returns uvicorn's protocol with a count of what it refuses itself: bytes that are no HTTP request."""
    base: Any = AutoHTTPProtocol

    def send_400_response(protocol: Any, message: str) -> None:
        door.refused(400)
        base.send_400_response(protocol, message)

    return type("Counting", (base,), {"send_400_response": send_400_response})


class _Announcing(uvicorn.Server):
    """A server that logs its addresses once it listens, and leaves signals to `ending`."""

    def drain(self) -> None:
        """Takes no more connections, and ends once the requests under way are answered."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                log.info("serving on http://%s:%d", *listening.getsockname()[:2])


@contextlib.contextmanager
def _admin(door: Door, settings: Settings) -> Iterator[None]:
    """Serves the admin port, if there is one, in a thread of its own."""
    if settings.admin_port is None:
        yield
        return
    config = uvicorn.Config(
        door,
        http=_counting(door),
        host=settings.host,
        port=settings.admin_port,
        log_config=None,
        log_level="warning",
        access_log=False,
    )
    admin = _Announcing(config)
    thread = threading.Thread(target=admin.run, name="admin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        admin.should_exit = True
        thread.join(10)
