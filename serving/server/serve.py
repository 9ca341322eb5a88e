"""The verb `serve`: one process that owns the device and answers over HTTP until SIGTERM.

On SIGTERM it takes no more connections, answers what it has, and ends with status 0.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from adapters.artefact.exits import read_exits
from adapters.artefact.manifest import read_manifest
from adapters.artefact.scope import read_scope
from adapters.artefact.write import model_on
from adapters.model import GraftModel
from adapters.specs import Lora
from backbone.errors import InputError
from backbone.home import resolve_backbone, use_compilation_cache
from backbone.records import decode
from backbone.storage import Backbone, load_backbone
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
from serving.server.limits import Tokens
from serving.server.settings import Settings

log = logging.getLogger(__name__)

BUCKETS = (16, 32, 64, 128)  # tokens; the backbone's longest input is added


def serve(settings: Settings) -> dict[str, Any]:
    """Serves until SIGTERM or SIGINT; returns what was done."""
    use_compilation_cache()
    for port in (settings.port, settings.admin_port):
        if port is not None:
            _require_free(settings.host, port)
    tokens = Tokens.read(settings.token_file)
    _require_readable(settings)
    catalogue = _catalogue(settings)
    backbone = load_backbone(resolve_backbone(settings.backbone), dtype=settings.dtype)
    begun = time.perf_counter()
    runtime = _runtime(settings, backbone, catalogue)
    follower = Follower(runtime, catalogue, seconds=settings.poll_seconds)
    controller = settings.controller()
    runtime.submodel = controller.submodel
    server = Server(runtime, follower, settings.limits, tokens, controller)
    follower.poll()
    warm(runtime)
    log.info(
        "%d programs, %d tasks in %.1f s", runtime.programs.count, len(runtime.entries), time.perf_counter() - begun
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
    return {"requests": dict(runtime.answered), "batches": runtime.counts.batches, "exit": 0}


def _require_free(host: str, port: int) -> None:
    """Raises InputError where nothing can listen, before anything is compiled."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InputError(f"--host, --port: cannot listen on {host}:{port}: {error}") from error


def _require_readable(settings: Settings) -> None:
    """Raises InputError for a bound on what this machine does not show."""
    for option, bound, meter_ in (
        ("--max-watts", settings.bounds.max_watts, meter(on_accelerator())),
        ("--max-celsius", settings.bounds.max_celsius, thermometer(on_accelerator())),
    ):
        if bound is not None and meter_ is None:
            raise InputError(f"{option}: cannot be read on this machine; bound --p95 or --max-queued instead")


def warm(runtime: Runtime) -> None:
    """Loads as many grafts as there are slots; one that does not load is told when it is asked for."""
    room = [bank.group.slots for bank in runtime.banks]
    for served in runtime.entries.values():
        if not any(room):
            return
        try:
            prepared = runtime.residency.prepare(served)
            if room[prepared.group]:
                room[prepared.group] -= 1
                runtime.warm(served)
                if (price := runtime.price_of_scope(prepared)) and price["extra_blocks"]:
                    log.info("%s: its out-of-scope score runs %d blocks more", served.task, price["extra_blocks"])
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
        log.warning("--submodels: no live graft has early exits, and the envelope names none: all answer in full")
    return Runtime(
        backbone,
        envelope,
        buckets=settings.buckets or (*(b for b in BUCKETS if b < backbone.lengths[-1]), backbone.lengths[-1]),
        batch_sizes=settings.batch_sizes,
        max_wait=settings.max_wait_ms / 1e3,
        max_waiting=settings.max_waiting,
        host_bytes=settings.host_mb << 20,
        cache_bytes=settings.cache_mb << 20,
        bfloat16=load_backbone(backbone.path, dtype="bfloat16") if "bfloat16" in settings.submodels else None,
    )


def read_envelope(file: str | Path) -> Envelope:
    """An envelope from a JSON file: `{"labels": 64, "groups": [{"methods": [{"method": "lora", ...}], ...}]}`."""
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}") from error
    return decode(Envelope, values, str(file))


def default_envelope(settings: Settings, backbone: Backbone, catalogue: Catalogue) -> Envelope:
    """The narrowest envelope around what is live; LoRA of rank 16 on query and value where nothing is."""
    models: list[GraftModel] = []
    scopes, exits = {backbone.spec.blocks}, set[int]()
    for task, entry in catalogue.lives().items():
        try:
            path = catalogue.path(entry)
            manifest = read_manifest(path)
            model = model_on(manifest, backbone, str(path))
            Envelope.around([model])  # raises for a head that no bank holds
            scope = read_scope(path, manifest, model.pooled_width, backbone.spec.blocks)
            found = read_exits(path, manifest, backbone.spec.width, backbone.spec.blocks)
            models.append(model)
            if scope:
                scopes.add(scope.boundary)
            elif found and "exits" in settings.submodels:  # a graft with a score is answered in full
                exits.update(found.boundaries)
        except (InputError, OSError) as error:
            log.error("%s version %s: %s", task, entry.version, error)
    if not models:
        return Envelope((Group((Lora(rank=16),), slots=settings.slots),), settings.labels)
    return Envelope.around(models, slots=settings.slots, labels=settings.labels, scopes=sorted(scopes), exits=exits)


def _listen(server: Server, settings: Settings) -> None:
    """Runs uvicorn on the main thread; a signal ends it after what is under way was answered."""
    config = uvicorn.Config(
        server.app(),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        # longer than load balancers keep a connection (60 s), or one that is closed here meets a request under way
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.limits.seconds + settings.limits.body_seconds) + 1,
        server_header=False,
    )
    with _signals_are_uvicorns():
        _Announcing(config).run()


class _Announcing(uvicorn.Server):
    """Says where it listens, on stderr, once it does."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for one in self.servers:
            for listening in one.sockets:
                log.info("serving on http://%s:%d", *listening.getsockname()[:2])


@contextlib.contextmanager
def _signals_are_uvicorns() -> Iterator[None]:
    """uvicorn raises a signal again after it has drained; by then it has been obeyed."""
    former = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _admin(server: Server, settings: Settings) -> Iterator[None]:
    if settings.admin_port is None:
        yield
        return
    config = uvicorn.Config(
        server.admin(), host=settings.host, port=settings.admin_port, log_level="warning", access_log=False
    )
    admin = _Announcing(config)
    thread = threading.Thread(target=admin.run, name="admin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        admin.should_exit = True
        thread.join(10)
