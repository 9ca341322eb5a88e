"""The figures of a version that a budget bounds, from what the registry recorded. Imports no jax.

A figure is what somebody measured: by `Registry.measure`, by the gate, or by the training. Nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

from adapters.artefact.manifest import Manifest, read_manifest, stored_cost, stored_phases, uncounted
from backbone.errors import InputError
from metering.cost import CostRecord, add_costs
from registry.budgets.limits import FLOORS, LOAD_PERCENTILES, LOADS, limit_of, measured_latency
from registry.entries import Measurement, Version
from registry.store import Store

MEASURED = {  # limits by the names of measurements (`Registry.measure`)
    "retraining, CPU seconds": "max_cpu_seconds",
    "retraining, joules": "max_joules",
    "latency, ms": "max_latency_ms",
    "memory, MB": "max_memory_mb",
    **{measured_latency(load, q): f"{load}.max_p{q}_ms" for load in LOADS for q in LOAD_PERCENTILES},
}
BY_GATE = ("max_latency_ms", "max_memory_mb", *(f"single_stream.max_p{q}_ms" for q in (50, 95, 99)))
SPLITS = ("dev", "out_of_fold", "held_out", "test")  # splits whose scores stand for those of a gate, the best first


@dataclass(frozen=True)
class Figure:
    """One figure of a version."""

    value: float | None  # None: nobody has it
    quality: str
    origin: str  # where it comes from, or why there is none
    platform: str = ""  # platform on which it was measured; "" where nobody recorded it
    bound: float | None = None  # what it is no larger than, with the confidence of its run; None: it is no sample


def figures_of(
    version: Version, measurements: Iterable[Measurement] = (), manifest: Manifest | None = None
) -> dict[str, Figure]:
    """Returns the figures of a version by the names of limits; of a limit that is not in it nobody has one.

    `manifest` adds the costs of a training that no retraining recorded. Measurements of the same name: the last counts.
    """
    figures = dict(_scores(version, manifest))
    figures |= _costs(version, manifest)
    figures |= dict(_by_gate(version.lineage.get("gate") or {}))
    for entry in measurements:
        if entry.name in MEASURED:
            figures[MEASURED[entry.name]] = _recorded(entry)
    return figures


def _recorded(entry: Measurement) -> Figure:
    """Returns a measurement as a figure; a load whose run proved no bound has an infinite one."""
    bound = None
    if "bound_ms" in entry.detail:
        bound = math.inf if entry.detail["bound_ms"] is None else float(entry.detail["bound_ms"])
    platform = str(entry.detail.get("platform", ""))
    return Figure(entry.value, entry.quality, "recorded measurement", platform, bound)


def _scores(version: Version, manifest: Manifest | None) -> Iterator[tuple[str, Figure]]:
    """Yields the floors' figures: of the gate's rows where a gate judged the version, else of held-out rows."""
    gate = version.lineage.get("gate") or {}
    scores, split = gate.get("candidate"), gate.get("split", "gate")
    if not scores:
        split = next((name for name in SPLITS if version.metrics.get(name)), "")
        scores = version.metrics.get(split, {})
    for metric, value in scores.items():
        yield f"{FLOORS}{metric}", Figure(value, "measured_counter", f"{metric} on the rows of {split}")
    metric = version.lineage.get("metric") or (manifest.training.config.get("metric") if manifest else None)
    if metric in scores:
        yield "min_score", Figure(scores[metric], "measured_counter", f"{metric} on the rows of {split}")


def _costs(version: Version, manifest: Manifest | None) -> dict[str, Figure]:
    """Returns what the training took: by the retraining's record, else by the phases in the manifest."""
    cost = stored_cost(version.lineage.get("measured"))
    origin = "record of the retraining"
    if cost is not None:
        flops, bytes_moved = (Figure(one, "counted", origin) for one in (cost.flops, cost.bytes_moved))
    elif manifest is not None and (phases := stored_phases(manifest.training)):
        cost, origin = reduce(add_costs, phases.values()), "phases of the training, in its manifest"
        flops, bytes_moved = _counted(phases, "flops", origin), _counted(phases, "bytes_moved", origin)
    else:
        return {}
    return {
        "max_cpu_seconds": Figure(cost.cpu_seconds, cost.quality, origin),
        "max_joules": Figure(cost.joules.value, cost.joules.quality, f"{origin}; {cost.joules.source}"),
        "max_flops": flops,
        "max_bytes": bytes_moved,
    }


def _counted(phases: Mapping[str, CostRecord], figure: Literal["flops", "bytes_moved"], origin: str) -> Figure:
    """Returns the operations or bytes of all phases together; no figure where one that computes lacks its count."""
    if missing := uncounted(phases, figure):
        return Figure(None, "unavailable", f"nobody counted the phases {', '.join(missing)} of the training")
    counted = [value for cost in phases.values() if (value := getattr(cost, figure)) is not None]
    return Figure(sum(counted) if counted else None, "counted", origin)


def unrecorded(version: Version, store: Store) -> Manifest | None:
    """Returns the manifest of a version that no retraining recorded; None for others, and where it cannot be read."""
    if "measured" in version.lineage:
        return None
    try:
        return read_manifest(store.path(version.content_id))
    except InputError:
        return None


def _by_gate(gate: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Yields what the gate measured of predictions."""
    for check in gate.get("checks", ()):
        name = limit_of(str(check.get("name", "")))
        if name in BY_GATE and check.get("found") is not None:
            value, platform = float(check["found"]), str(gate.get("platform", ""))
            yield name, Figure(value, "measured_counter", "measured by the gate", platform)
