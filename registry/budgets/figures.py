"""The figures of a version that a budget bounds, from what the registry recorded. Imports no jax.

A figure is what somebody measured: by `Registry.measure`, by the gate, or by the training. Nothing is measured here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from adapters.artefact.manifest import Manifest, stored_cost
from metering.cost import add_costs
from registry.budgets.limits import FLOORS, LOAD_PERCENTILES, LOADS, measured_latency
from registry.entries import Measurement, Version

MEASURED = {  # limits by the names of measurements (`Registry.measure`)
    "retraining, CPU seconds": "max_cpu_seconds",
    "retraining, joules": "max_joules",
    "latency, ms": "max_latency_ms",
    "memory, MB": "max_memory_mb",
    **{measured_latency(load, q): f"{load}.max_p{q}_ms" for load in LOADS for q in LOAD_PERCENTILES},
}
BY_GATE = ("max_latency_ms", "max_memory_mb", *(f"single_stream.max_p{q}_ms" for q in (50, 95, 99)))
NAME_OF_CHECK = re.compile(r"(?:^target\.|:\d+ )([\w.]+)(?:,|$)")  # of a check on a limit (`trainers.retrain.gate`)
SPLITS = ("dev", "out_of_fold", "held_out", "test")  # splits whose scores stand for those of a gate, the best first


@dataclass(frozen=True)
class Figure:
    """One figure of a version."""

    value: float | None  # None: nobody has it
    quality: str
    origin: str  # where it comes from, or why there is none


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
            figures[MEASURED[entry.name]] = Figure(entry.value, entry.quality, "recorded measurement")
    return figures


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
    if cost is None and manifest is not None:
        phases = [record for one in manifest.training.costs.values() if (record := stored_cost(one)) is not None]
        counted = [record.flops for record in phases if record.flops is not None]
        moved = [record.bytes_moved for record in phases if record.bytes_moved is not None]
        cost, origin = reduce(add_costs, phases) if phases else None, "phases of the training, in its manifest"
        flops, bytes_moved = (sum(counted) if counted else None), (sum(moved) if moved else None)
    elif cost is not None:
        flops, bytes_moved = cost.flops, cost.bytes_moved
    if cost is None:
        return {}
    return {
        "max_cpu_seconds": Figure(cost.cpu_seconds, cost.quality, origin),
        "max_joules": Figure(cost.joules.value, cost.joules.quality, f"{origin}; {cost.joules.source}"),
        "max_flops": Figure(flops, "counted", origin),
        "max_bytes": Figure(bytes_moved, "counted", origin),
    }


def _by_gate(gate: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Yields what the gate measured of predictions."""
    for check in gate.get("checks", ()):
        match = NAME_OF_CHECK.search(str(check.get("name", "")))
        if match and match[1] in BY_GATE and check.get("found") is not None:
            yield match[1], Figure(float(check["found"]), "measured_counter", "measured by the gate")
