"""The page of a benchmark report: one HTML file without a script or the network. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbone.console.page import document, esc, facts, table
from benchmarks.measures import MEANINGS, Measure, Part


def report_page(parts: Sequence[Part], provenance: Mapping[str, Any], seconds: float) -> str:
    """Returns the page of a report that took some seconds."""
    machine = provenance["machine"]
    quota = "none" if machine["quota"] is None else f"{machine['quota']:g} processors"
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    origin = [
        ("processor", machine["processor"]),
        ("instruction sets", " ".join(machine["instruction_sets"])),
        ("cores, quota, system", f"{machine['cores']}, {quota}, {machine['system']}"),
        ("load before", provenance["load"]),
        ("versions", versions),
        ("flags", ", ".join(f"{name}={value}" for name, value in provenance["flags"].items()) or "none"),
        ("known answers", provenance["known_answers"]),
        ("commit", provenance["commit"]),
        ("code", provenance["code"]),
        ("started, minutes", f"{provenance['started']}, {seconds / 60:.1f}"),
    ]
    body = [
        "<h1>Benchmark report</h1>",
        "<p class=note>Compare it with that of another machine or day: "
        "<code>python -m benchmarks.report compare A.json B.json</code></p>",
        "<h2>Origin</h2>",
        facts(origin),
    ]
    for part in parts:
        body += [f"<h2>{esc(part.name)}</h2>", _measures(part.measures), f"<p class=note>{esc(_settings(part))}</p>"]
    body += ["<h2>Kinds of figures</h2>", facts(list(MEANINGS.items()))]
    return document("Benchmark report", body)


def _measures(measures: Sequence[Measure]) -> str:
    rows = [(one.name, _number(one.value), one.unit, _range(one), one.kind, one.source) for one in measures]
    return table(("figure", "value", "unit", "range", "kind", "source"), rows)


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _range(one: Measure) -> str:
    if one.low is None and one.high is None:
        return ""
    return f"{'' if one.low is None else _number(one.low)} to {'' if one.high is None else _number(one.high)}"


def _settings(part: Part) -> str:
    settings = ", ".join(f"{name}={' '.join(str(value).split())}" for name, value in part.settings.items())
    return f"{part.seconds:.0f} s; {settings}"
