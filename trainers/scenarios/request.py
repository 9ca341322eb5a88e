"""The options of a scenario. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from backbone.console.options import check, option
from backbone.errors import InputError

Scenario = Literal["single_stream", "server", "offline"]
MAX_QUERIES = 10_000_000  # arrivals of one run, which are drawn before it begins


@dataclass(frozen=True, kw_only=True)
class Load:
    """A scenario, its rows, and what a run has to keep to."""

    scenario: Scenario | None = option(None, "measure a load: one query after another, at random instants, all at once")
    files: tuple[str, ...] = option(
        (), "labelled rows of a scenario; may be repeated (default: the graft's test rows)", name="file", repeat=True
    )
    seconds: float = option(30.0, "shortest run of a scenario", above=0, max=604_800)
    seed: int = option(0, "seed of the order of the rows, and of the arrivals", min=0)
    rate: float | None = option(None, "arrivals a second, of the scenario server", above=0, max=100_000)
    max_latency_ms: float | None = option(None, "bound on a percentile of latency, milliseconds", above=0)
    percentile: float = option(99.0, "the percentile that --max-latency-ms bounds", above=0, max=99.99)
    min_score: float | None = option(None, "lower bound on the first metric of the answers")
    max_watts: float | None = option(None, "bound on the power", above=0)
    max_celsius: float | None = option(None, "bound on the hottest sensor", above=0)
    cores: int | None = option(None, "processors that the graft may use (default: all)", min=1)
    cpu_quota: float | None = option(None, "processors that a control group grants, where that is permitted", above=0)
    task: str = option("", "task of the server to measure")
    record: str = option("", "version of the registry that gets the latencies, as TASK:VERSION")
    token_file: str | None = option(None, "file whose first line is the server's bearer token")

    def __post_init__(self) -> None:
        check(self)
        if self.scenario is None:
            if any(getattr(self, one.name) != one.default for one in fields(self)):
                raise InputError("--scenario: name one; the other options of a load belong to it")
            return
        if (self.scenario == "server") != (self.rate is not None):
            raise InputError(f"--rate: queries a second of --scenario server, and needed there; got {self.rate}")
        if self.rate is not None and self.rate * self.seconds > MAX_QUERIES:
            raise InputError(
                f"--rate: {self.rate:g} a second for {self.seconds:g} s are more than {MAX_QUERIES:,} queries; "
                "make --seconds shorter"
            )
        if self.max_latency_ms is not None and self.scenario == "offline":
            raise InputError("--max-latency-ms: --scenario offline has no latency; bound single_stream or server")
        if self.record and self.scenario == "offline":
            raise InputError("--record: latencies are recorded, and --scenario offline has none")

    def require_fits(self, system: str, *, remote: bool) -> None:
        """Raises InputError for options that belong to a server's URL or to a graft alone."""
        for name, value in (("cores", self.cores), ("cpu-quota", self.cpu_quota), ("record", self.record or None)):
            if remote and value is not None:
                raise InputError(f"--{name}: belongs to a graft in this process; {system} is a server")
        for name, text in (("task", self.task), ("token-file", self.token_file)):
            if not remote and text:
                raise InputError(f"--{name}: belongs to a server's URL, got it with the graft {system}")
        if remote and not self.files:
            raise InputError("--file: a server's answers are checked in the same run: pass labelled rows")
