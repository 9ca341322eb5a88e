"""A search in the terminal. Imports no jax."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.search.front import Candidate
from trainers.search.result import SearchResult

OTHERS = 10  # points off the front that are shown


def table(result: SearchResult) -> str:
    """Returns the front, the best of the other points with why they are off it, and what the search cost."""
    front = [one for one in result.candidates if one.front]
    others = [one for one in result.candidates if not one.front]
    lines = [
        f"{result.name}: {len(result.candidates)} points tried in {result.groups} groups, "
        f"{len(result.untried)} not tried, {len(result.refused)} not possible",
        f"cost: {result.cpu_seconds:.0f} CPU s, predicted {result.predicted_cpu_seconds:.0f}"
        + (f", budget {result.budget:g}" if result.budget else ""),
        *([f"ended early: {result.ended}"] if result.ended else []),
        *([f"lost to a full disk: {', '.join(result.lost)}"] if result.lost else []),
        *([f"left to the gate: {', '.join(result.unchecked)}"] if result.unchecked else []),
        "",
        "front:",
        *_rows(front, result),
    ]
    for one in front:
        if (millions := result.paid_back(one)) is not None:
            lines.append(f"{one.id} pays for the search after {millions:.3g} million predictions")
    if others:
        lines += ["", f"others ({min(len(others), OTHERS)} of {len(others)}):", *_rows(others[:OTHERS], result)]
        lines += [f"{one.id}: {one.reason}" for one in others[:OTHERS]]
    lines += ["", f"recommended: {result.recommended or 'none'}; page: {result.page}"]
    return "\n".join(lines)


def _rows(points: Sequence[Candidate], result: SearchResult) -> list[str]:
    """Returns aligned lines of points."""
    measured = [name for name in result.objectives if name != "score"]
    brittle = ("seeds", "neighbours", "over random", "worst slice")
    rows = [("id", result.metric, "95 % interval", *measured, *brittle, "settings")]
    for one in points:
        worst = "-" if one.worst_score is None else f"{one.worst_score:.3f} {one.worst_slice}"
        rows.append(
            (
                one.id,
                f"{one.score:.4f}",
                f"{one.low:.4f} to {one.high:.4f}",
                *(f"{one.measures[name]:.4g}" for name in measured),
                _number(one.seeds),
                _number(one.neighbours),
                _number(one.over_random),
                worst,
                " ".join(f"{name}={value}" for name, value in one.settings.items()),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
