"""Latencies of a load in the registry, where budgets and audits read them."""

from __future__ import annotations

from pathlib import Path

from adapters.artefact.manifest import read_manifest
from backbone.errors import InputError
from registry.budgets.limits import LOAD_PERCENTILES, measured_latency
from registry.database import Registry
from registry.place import Place
from trainers.scenarios.result import ScenarioResult


def version_of(place: Place, named: str, graft: str) -> tuple[Registry, str, int]:
    """Returns the registry, and task and version by their name TASK:VERSION.

    Raises InputError for a name of another form, for a version that is not there, and for one that is another graft.
    """
    task, colon, number = named.rpartition(":")
    if not colon or not number.isdecimal():
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
    """Records the percentiles that budgets bound, each with the circumstances of the run."""
    measured = {round(100 * one.percentile): one for one in result.latencies}
    for percentile in LOAD_PERCENTILES:
        one = measured[percentile]
        detail = {"queries": result.queries, "rate": result.rate, "bound_ms": one.bound_ms, "seed": result.seed}
        name = measured_latency(result.scenario, percentile)
        registry.measure(task, version, name, one.ms, "measured_counter", detail)
