"""The verb `serve`: one process that owns the device and answers over HTTP until SIGTERM.

On SIGTERM it takes no more connections, answers the requests that it has received, and ends with status 0.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from adapters.artefact.exits import read_exits
from adapters.artefact.manifest import read_manifest
from adapters.artefact.scope import read_scope
from adapters.artefact.write import model_on
from adapters.machine import ready_to_answer
from adapters.model import GraftModel
from adapters.specs import Lora
from backbone.errors import InputError
from backbone.home import resolve_backbone
from backbone.records import decode
from backbone.storage import Backbone, load_backbone
from backbone.texts import parse_json, read_text
from metering.energy import meter
from metering.thermal import thermometer
from metering.window import on_accelerator
from registry.database import open_registry
from registry.store import Store
from serving.bank import Envelope, Group
from serving.catalogue import Catalogue, FolderCatalogue, RegistryCatalogue
from serving.follow import Follower
from serving.runtime import Runtime
from serving.server.app import Server
from serving.server.endpoint import all_endpoints
from serving.server.limits import Tokens
from serving.server.openapi import document
from serving.server.settings import Settings

log = logging.getLogger(__name__)

BUCKETS = (16, 32, 64, 128)  # lengths in tokens by default; the backbone's longest input is added


@dataclass(frozen=True)
class ServeResult:
    """The result of `serve`; `--json` prints it."""

    requests: dict[str, int]  # rows by outcome: done, failed, cancelled
    batches: int
    exit: int = 0


def serve(settings: Settings) -> ServeResult:
    """Serves until SIGTERM or SIGINT. Raises InputError before anything is compiled if it cannot."""
    ready_to_answer()
    for port in (settings.port, settings.admin_port):
        if port is not None:
            _require_free(settings.host, port)
    tokens = Tokens.read(settings.token_file)
    _require_readable(settings)
    endpoints = all_endpoints()
    document(endpoints, settings.limits, tokens=False)  # raises for a reply without a schema
    catalogue = _catalogue(settings)
    backbone = load_backbone(resolve_backbone(settings.backbone), precision=settings.precision)
    start = time.perf_counter()
    runtime = _runtime(settings, backbone, catalogue)
    follower = Follower(runtime, catalogue, seconds=settings.poll_seconds)
    controller = settings.controller()
    runtime.submodel = controller.submodel
    server = Server(runtime, follower, settings.limits, tokens, controller, endpoints)
    follower.poll()
    warm(runtime)
    log.info(
        "%d programs, %d tasks in %.1f s", runtime.programs.count, len(runtime.entries), time.perf_counter() - start
    )
    follower.start()
    server.ready = True
    try:
        with _admin(server, settings):
            _listen(server, settings)
    finally:
        server.ready = False
        follower.stop()
        runtime.close()
    return ServeResult(dict(runtime.answered), runtime.counts.batches)


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


def warm(runtime: Runtime) -> None:
    """Loads as many grafts as there are slots.

    One that does not load is logged, and a request for it gets the reason.
    """
    room = [bank.group.slots for bank in runtime.banks]
    for served in runtime.entries.values():
        if not any(room):
            return
        try:
            graft = runtime.residency.prepare(served)
            if room[graft.group]:
                room[graft.group] -= 1
                runtime.warm(served)
                if (cost := runtime.scope_cost(graft)) and cost.extra_blocks:
                    log.info("%s: its out-of-scope score runs %d blocks more", served.task, cost.extra_blocks)
        except (InputError, OSError) as error:
            log.error("%s version %s does not load: %s", served.task, served.version, error)


def _catalogue(settings: Settings) -> Catalogue:
    if settings.grafts is not None:
        return FolderCatalogue(settings.grafts)
    assert settings.registry is not None
    assert settings.store is not None
    return RegistryCatalogue(open_registry(settings.registry), Store(settings.store))


def _runtime(settings: Settings, backbone: Backbone, catalogue: Catalogue) -> Runtime:
    envelope = (
        read_envelope(settings.envelope) if settings.envelope else default_envelope(settings, backbone, catalogue)
    )
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
    )


def read_envelope(file: str | Path) -> Envelope:
    """Reads an envelope from a JSON file; raises InputError.

    The file holds `{"labels": 64, "groups": [{"methods": [{"method": "lora", ...}], ...}]}`.
    """
    return decode(Envelope, parse_json(read_text(Path(file)), str(file)), str(file))


def default_envelope(settings: Settings, backbone: Backbone, catalogue: Catalogue) -> Envelope:
    """Returns the narrowest envelope around the live versions; without any, LoRA of rank 16 on query and value."""
    models: list[GraftModel] = []
    scopes, exits = {backbone.spec.blocks}, set[int]()
    for task, entry in catalogue.lives().items():
        try:
            path = catalogue.path(entry)
            manifest = read_manifest(path)
            model = model_on(manifest, backbone, str(path))
            Envelope.around([model])  # raises for a head that no bank holds
            scope = read_scope(path, manifest, model.pooled_width, backbone.spec.blocks)
            early = read_exits(path, manifest, backbone.spec.width, backbone.spec.blocks)
            models.append(model)
            if scope:
                scopes.add(scope.boundary)
            elif early and "exits" in settings.submodels:  # a graft with a score is answered in full
                exits.update(early.boundaries)
        except (InputError, OSError) as error:
            log.error("%s version %s: %s", task, entry.version, error)
    if not models:
        return Envelope((Group((Lora(rank=16),), slots=settings.slots),), settings.labels)
    return Envelope.around(models, slots=settings.slots, labels=settings.labels, scopes=sorted(scopes), exits=exits)


def _listen(server: Server, settings: Settings) -> None:
    """Runs uvicorn on the main thread; a signal ends it once the requests under way are answered."""
    config = uvicorn.Config(
        server.app(),
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
    with _signals_are_uvicorns():
        _Announcing(config).run()


class _Announcing(uvicorn.Server):
    """A server that logs its addresses once it listens."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                log.info("serving on http://%s:%d", *listening.getsockname()[:2])


@contextlib.contextmanager
def _signals_are_uvicorns() -> Iterator[None]:
    """Ignores signals outside uvicorn, which raises a signal once more after it has drained."""
    former = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _admin(server: Server, settings: Settings) -> Iterator[None]:
    """Serves the admin port, if there is one, in a thread of its own."""
    if settings.admin_port is None:
        yield
        return
    config = uvicorn.Config(
        server.admin(),
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
