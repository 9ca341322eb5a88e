"""The page of an audit: what needs attention first, then owners, trends, approvals and exceptions."""

from __future__ import annotations

from collections.abc import Sequence

from backbone.console.page import COLOURS, document, esc, table
from backbone.errors import counted
from registry.budgets.audit import BudgetAudit, Trend
from registry.budgets.judge import Finding
from registry.budgets.limits import is_floor, keeps, unit_of
from registry.budgets.usage import PerThousand

MAX_TRENDS = 200  # trends that the page draws, those nearest to their bound
OVER = "#b3261e"  # colour of versions over their bound


def audit_page(audit: BudgetAudit, at: str) -> str:
    """Returns the page of an audit that was made at the time `at`."""
    heading = "Budgets: " + (
        f"{counted(len(audit.over), 'limit')} broken"
        if audit.over
        else "no limit broken"
        if audit.budgets
        else "no file"
    )
    expired = [one for one in audit.exceptions if not one.holds]
    parts = [
        f"<h1>{esc(heading)}</h1>",
        f"<p class=note>{esc(audit.registry)}, {esc(at)}: {audit.counts}; "
        f"{counted(sum(audit.former_over.values()), 'former version')} would break a limit. "
        f"Budgets: {esc(audit.budgets or 'none')}.</p>",
        _section("Over budget", _findings(audit.over), "No live version breaks a limit."),
        _section("Without a figure", _findings(audit.missing), "Every bounded figure of a live version is known."),
        _section("Waived", _findings(audit.excepted), ""),
        _section(
            "Exceptions that ended",
            _rows(
                ("task", "limit", "owner", "reason", "ended", "line"),
                [(e.task, e.limit, e.owner, e.reason, e.until, e.source) for e in expired],
            ),
            "None.",
        ),
        _section("Owners", _owners(audit), "Nobody is named in the file."),
        _section("Trends", _trends(audit), "No bounded figure is known."),
        _section(
            "Approved by",
            _rows(
                ("task", "version", "owner", "by", "verdict", "reason", "at"),
                [(a.task, a.version, a.owner, a.by, a.verdict, a.reason, a.at) for a in audit.approvals],
            ),
            "Nothing is live.",
        ),
        _section("Exceptions that hold", _exceptions(audit), "None."),
    ]
    return document(heading, parts)


def _section(title: str, body: str, empty: str) -> str:
    """Returns a section; one without a body says so, or is left out."""
    if not body and not empty:
        return ""
    return f"<h2>{esc(title)}</h2>{body or f'<p class=note>{esc(empty)}</p>'}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return table(head, rows) if rows else ""


def _findings(findings: Sequence[Finding]) -> str:
    rows = [
        (
            one.task,
            one.version,
            one.limit,
            _known(one.value),
            _known(one.bound),
            unit_of(one.limit),
            one.source.replace(f" {one.limit}", ""),
            one.reason,
        )
        for one in findings
    ]
    return _rows(("task", "version", "limit", "figure", "bound", "unit", "line", "figure from"), rows)


def _answers(spent: PerThousand) -> str:
    """Returns what 1,000 answers took, and how many there were."""
    if spent.cpu_seconds is None:
        return "-"
    joules = "".join(f"; {value:.4g} J {quality}" for quality, value in spent.joules.items())
    return f"{spent.cpu_seconds:.4g} CPU s{joules} (of {spent.answers})"


def _owners(audit: BudgetAudit) -> str:
    now, before = f"CPU s of trainings in {audit.days:g} days", "CPU s in those before"
    rows = [
        (
            one.owner or "nobody",
            one.tasks,
            one.live,
            one.over,
            one.missing,
            _known(one.cpu_seconds),
            _known(one.cpu_seconds_before),
            "; ".join(f"{value:.4g} J {quality}" for quality, value in one.joules.items()) or "-",
            _answers(one.answers),
            _answers(one.answers_before),
        )
        for one in audit.owners
    ]
    answers = ("CPU s and J of 1,000 answers", "CPU s and J of 1,000 before")
    return _rows(("owner", "tasks", "live", "over", "no figure", now, before, "J of trainings", *answers), rows)


def _trends(audit: BudgetAudit) -> str:
    trends = sorted(audit.trends, key=_headroom)[:MAX_TRENDS]
    rows = "".join(
        f"<tr><td>{esc(one.task)}</td><td>{esc(one.limit)}</td>"
        f"<td>{_known(one.values[-1])}</td><td>{_known(one.bound)}</td>"
        f"<td>{'' if one.change is None else f'{one.change:+.0%}'}</td><td>{spark(one)}</td></tr>"
        for one in trends
    )
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("task", "limit", "last", "bound", "since the first", "versions"))
    left = len(audit.trends) - len(trends)
    note = f"<p class=note>{left} more have more room; --json has them.</p>" if left else ""
    return f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>{note}"


def _headroom(trend: Trend) -> float:
    """Returns the room below the bound as a share of it; less is more urgent."""
    if not trend.bound:
        return float("inf")
    room = (trend.bound - trend.values[-1]) / trend.bound
    return -room if is_floor(trend.limit) else room


def spark(trend: Trend) -> str:
    """Draws a trend with its bound as a dashed line, and a point for its last version and for each over it, as SVG."""
    width, height, edge = 160, 28, 3
    levels = [*trend.values, *([trend.bound] if trend.bound else [])]
    low, high = min(levels), max(levels)

    def up(value: float) -> float:
        return height - edge - (height - 2 * edge) * (value - low) / max(1e-12, high - low)

    step = (width - 2 * edge) / max(1, len(trend.values) - 1)
    places = [(f"{edge + i * step:.1f}", f"{up(value):.1f}") for i, value in enumerate(trend.values)]
    over = [trend.bound is not None and not keeps(trend.limit, value, trend.bound) for value in trend.values]
    points = "".join(
        f'<circle cx="{x}" cy="{y}" r="2.4" fill="{OVER if is_over else COLOURS[0]}"/>'
        for i, ((x, y), is_over) in enumerate(zip(places, over, strict=True))
        if is_over or i == len(places) - 1
    )
    bound = ""
    if trend.bound:
        y = f"{up(trend.bound):.1f}"
        bound = f'<line x1="0" x2="{width}" y1="{y}" y2="{y}" stroke="{COLOURS[1]}" stroke-dasharray="4 3"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">{bound}'
        f'<polyline points="{" ".join(map(",".join, places))}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.6"/>'
        f"{points}</svg>"
    )


def _exceptions(audit: BudgetAudit) -> str:
    rows = [
        (e.task, e.limit, _known(e.value, "waived"), e.owner, e.reason, e.until, e.source)
        for e in audit.exceptions
        if e.holds
    ]
    return _rows(("task", "limit", "bound", "owner", "reason", "until", "line"), rows)


def _known(value: float | None, absent: str = "-") -> str:
    """Returns a number as the file of budgets writes it, with at most six digits."""
    return absent if value is None else f"{value:g}"
