"""The verb `serve`: one process that owns the device and answers over HTTP until SIGTERM.

On SIGTERM it takes no more connections, answers the requests that it has received, and ends with status 0.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
from serving.controller import Bounds, Controller
from serving.follow import Follower
from serving.runtime import BATCH_SIZES, Runtime
from serving.server.app import Server
from serving.server.endpoint import all_endpoints
from serving.server.limits import Limits, Tokens

log = logging.getLogger(__name__)

BUCKETS = (16, 32, 64, 128)  # lengths in tokens by default; the backbone's longest input is added


@dataclass(frozen=True)
class Settings:
    """How to serve; the options of the verb."""

    backbone: str  # folder or name
    registry: str | None = None  # URL; with `store`
    store: str | None = None  # folder of the registry's artefacts
    grafts: str | None = None  # a folder of grafts, instead of a registry
    host: str = "127.0.0.1"  # address to listen on
    port: int = 8080  # 0: any free one
    admin_port: int | None = None  # None: no admin routes
    dtype: str = "float32"  # of the backbone
    envelope: str | None = None  # JSON file; default: the narrowest around what is live, with LoRA of rank 16 beside
    slots: int = 32  # of each group of the default envelope
    labels: int = 128  # widest head of the default envelope
    buckets: tuple[int, ...] = ()  # tokens
    batch_sizes: tuple[int, ...] = BATCH_SIZES  # rows
    max_wait_ms: float = 2.0  # that a row waits for others
    max_waiting: int = 1024  # rows in the queue before 429
    host_mb: int = 256  # verified grafts kept on the host
    cache_mb: int = 0  # prefix states kept by input
    poll_seconds: float = 2.0  # between looks at what is live
    token_file: str | None = None  # bearer tokens, one a line
    submodels: tuple[str, ...] = ("full",)  # that may answer, from the best to the cheapest
    p95: float | None = None  # seconds of a response beyond which a cheaper submodel answers
    max_queued: int | None = None  # rows in the queue beyond which one does
    max_watts: float | None = None  # the same for power, where a counter can be read
    max_celsius: float | None = None  # the same for the hottest sensor, where one can be read
    dwell: float = 30.0  # seconds between two switches, at least
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if (self.registry is None) == (self.grafts is None):
            raise InputError("serve: give --registry URL with --store PATH, or --grafts DIR")
        if self.registry is not None and self.store is None:
            raise InputError("--store: the folder of the registry's artefacts is needed with --registry")
        for name in ("slots", "labels", "max_waiting", "host_mb", "poll_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}: must be positive, got {getattr(self, name)}")
        for name in ("cache_mb", "max_wait_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}: must be at least 0, got {getattr(self, name)}")
        for name in ("port", "admin_port"):
            if not 0 <= (getattr(self, name) or 0) < 2**16:
                raise InputError(f"{name}: must lie in 0..65535, got {getattr(self, name)}")
        self.controller()
        if self.max_queued is not None and self.max_queued >= self.max_waiting:
            raise InputError(
                f"--max-queued: {self.max_queued} rows are never exceeded: --max-waiting is {self.max_waiting}"
            )
        if "bfloat16" in self.submodels and self.dtype != "float32":
            raise InputError(f"--submodels: bfloat16 is a cheaper variant of float32, and --dtype is {self.dtype}")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise InputError(f"batch_sizes: at least one, each at least 1, got {self.batch_sizes}")

    def controller(self) -> Controller:
        """Which of the submodels answers; raises InputError for bounds that cannot be."""
        bounds = Bounds(self.p95, self.max_queued, self.max_watts, self.max_celsius, self.dwell)
        return Controller(self.submodels, bounds)


@dataclass(frozen=True)
class ServeResult:
    """The result of `serve`; `--json` prints it."""

    requests: dict[str, int]  # rows by outcome: done, failed, cancelled
    batches: int
    exit: int = 0


def serve(settings: Settings) -> ServeResult:
    """Serves until SIGTERM or SIGINT. Raises InputError before anything is compiled if it cannot."""
    use_compilation_cache()
    for port in (settings.port, settings.admin_port):
        if port is not None:
            _require_free(settings.host, port)
    tokens = Tokens.read(settings.token_file)
    _require_readable(settings)
    endpoints = all_endpoints()
    catalogue = _catalogue(settings)
    backbone = load_backbone(resolve_backbone(settings.backbone), dtype=settings.dtype)
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
        ("--max-watts", settings.max_watts, meter(on_accelerator())),
        ("--max-celsius", settings.max_celsius, thermometer(on_accelerator())),
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
        bfloat16=load_backbone(backbone.path, dtype="bfloat16") if "bfloat16" in settings.submodels else None,
    )


def read_envelope(file: str | Path) -> Envelope:
    """Reads an envelope from a JSON file; raises InputError.

    The file holds `{"labels": 64, "groups": [{"methods": [{"method": "lora", ...}], ...}]}`.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}") from error
    return decode(Envelope, values, str(file))


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


def numbers(text: str, option: str) -> tuple[int, ...]:
    """`16,32,64` as numbers; raises InputError naming the option."""
    parts: Sequence[str] = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{option}: expected whole numbers with commas between, got {text!r}")
    return tuple(int(part) for part in parts)
