"""The settings of a server, which are the options of the verb `serve`. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbone.console.options import check, option, required
from backbone.console.verbs import InPrecision
from backbone.errors import InputError
from registry.budgets.place import UnderBudgets
from serving.controller import Bounds, Controller
from serving.server.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Settings(UnderBudgets, InPrecision):
    """The settings of a server: its grafts, its address, and its limits."""

    backbone: str = required("backbone folder, or minilm")
    registry: str | None = option(None, "URL of the registry to follow; needs --store")
    store: str | None = option(None, "folder or address of the artefacts of --registry")
    grafts: str | None = option(None, "folder of grafts or of work folders of `train`, to follow instead of a registry")
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8080, "port to listen on; 0 takes any free one", min=0, max=65535)
    admin_port: int | None = option(None, "port of the admin routes (default: no such routes)", min=0, max=65535)
    envelope: str | None = option(None, "JSON file of what may be served (default: the narrowest around what is live)")
    slots: int = option(32, "grafts in memory of each group of the default envelope", min=1)
    labels: int = option(128, "labels of the widest head of the default envelope", min=1)
    buckets: tuple[int, ...] = option((), "lengths in tokens, commas between (default: by the backbone's longest)")
    batch_sizes: tuple[int, ...] = option((1, 8, 32), "rows of a batch, commas between", min=1)
    max_wait_ms: float = option(2.0, "milliseconds that a row waits for others, where others ask", min=0)
    max_waiting: int = option(1024, "rows in the queue beyond which a request gets 429", min=1, former="most-waiting")
    host_mb: int = option(256, "memory for verified grafts outside the slots, in MiB", min=1)
    cache_mb: int = option(0, "memory for prefix states, which are kept by input, in MiB", min=0)
    load_seconds: float = option(60.0, "seconds for a graft to be read and verified", above=0)
    stall_seconds: float = option(60.0, "seconds in one batch after which the server is no longer live", above=0)
    poll_seconds: float = option(2.0, "seconds between two looks at what is live", above=0)
    router: str | None = option(None, "folder of a router (topgraft route), which answers texts that name no task")
    usage: str | None = option(None, "file that gets a line of what answers took, every ten minutes and at the end")
    token_file: str | None = option(None, "file of bearer tokens, one a line (default: everybody may ask)")
    submodels: tuple[str, ...] = option(
        ("full",), "submodels that may answer, from the best to the cheapest, commas between"
    )
    bounds: Bounds = field(default_factory=Bounds)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check(self)
        if (self.registry is None) == (self.grafts is None):
            raise InputError("serve: give --registry URL with --store PATH, or --grafts DIR")
        if self.registry is not None and self.store is None:
            raise InputError("--store: the folder of the registry's artefacts is needed with --registry")
        self._require_read()
        if "bfloat16" in self.submodels:
            raise InputError("--submodels: bfloat16 is a precision of the whole server now; use --precision bfloat16")
        self.controller()
        queued = self.bounds.max_queued
        if queued is not None and queued >= self.max_waiting:
            raise InputError(f"--max-queued: {queued} rows are never exceeded: --max-waiting is {self.max_waiting}")
        if not self.batch_sizes:
            raise InputError("--batch-sizes: at least one is needed")

    def _require_read(self) -> None:
        """Raises InputError for an option that nothing would read beside the others."""
        if self.store is not None and self.grafts is not None:
            raise InputError("--store: belongs to --registry; --grafts names the folder of the grafts themselves")
        if self.budgets and self.grafts is not None:
            raise InputError("--budgets: belongs to --registry, which records the figures of its versions")
        for name in ("slots", "labels"):
            if self.envelope is not None and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"--{name}: is for the default envelope; {self.envelope} says its own")
        if self.bounds.dwell != type(self.bounds).dwell and not self.bounds.count:
            raise InputError("--dwell: nothing switches the submodel; set --submodels and a bound, such as --p95")

    def controller(self) -> Controller:
        """Returns a controller that chooses among the submodels; raises InputError for impossible bounds."""
        return Controller(self.submodels, self.bounds)
