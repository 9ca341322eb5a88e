"""Latencies of a load in the registry, where budgets and audits read them."""

from __future__ import annotations

import re
from pathlib import Path

from adapters.artefact.manifest import read_manifest
from backbone.console.options import LARGEST
from backbone.errors import InputError
from metering.window import platform
from registry.budgets.limits import LOAD_PERCENTILES, measured_latency
from registry.database import Registry
from registry.place import Place
from trainers.scenarios.result import ScenarioResult

NUMBER = re.compile(r"[1-9][0-9]*")  # of a version


def version_of(place: Place, named: str, graft: str) -> tuple[Registry, str, int]:
    """Returns the registry, and task and version by their name TASK:VERSION.

    Raises InputError for a name of another form, for a version that is not there, and for one that is another graft.
    """
    task, colon, number = named.rpartition(":")
    if not colon or not NUMBER.fullmatch(number) or len(number) > len(str(LARGEST)) or int(number) >= LARGEST:
        raise InputError(f"--record: expected TASK:VERSION, as topics:3, got {named!r}")
    registry = place.open()
    version = registry.version(task, int(number))
    if version.content_id != (present := read_manifest(Path(graft)).content_id):
        raise InputError(
            f"--record: {named} is {version.content_id[:19]}..., the graft in {graft} is {present[:19]}...; name the "
            "version that was published from it"
        )
    return registry, task, version.number


def record_latencies(registry: Registry, task: str, version: int, result: ScenarioResult) -> None:
    """Records the percentiles that budgets bound, each with its proven bound and the circumstances of the run."""
    measured = {round(100 * one.percentile): one for one in result.latencies}
    for percentile in LOAD_PERCENTILES:
        one = measured[percentile]
        detail = {
            "queries": result.queries,
            "failures": result.failures,
            "rate": result.rate,
            "bound_ms": one.bound_ms,  # None: the run had too few answers for one
            "seed": result.seed,
            "platform": platform(),
        }
        name = measured_latency(result.scenario, percentile)
        registry.measure(task, version, name, one.ms, "measured_counter", detail)
