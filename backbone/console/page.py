"""HTML pages that stand alone: no script, no network; plots are inline SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #eee } th { color: #666; font-weight: 500 }
td { white-space: nowrap } td:first-child, th:first-child, .text { text-align: left } td.text { white-space: normal }
.wide { overflow-x: auto; margin-bottom: .8rem } .wide table { width: max-content; max-width: 60rem }
.facts { overflow-wrap: anywhere; padding-left: 1.2rem } .facts b { font-weight: 500 }
svg { background: #fafafa; max-width: 100%; height: auto } svg text { font: 11px system-ui; fill: #555 }
.wide .plot { min-width: 36rem } @media (max-width: 40rem) { td.text:first-child { max-width: 9rem } }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto }
.note { color: #666; overflow-wrap: anywhere }
"""
LONG = 20  # characters from which a cell holds a text, and no number or name
COLOURS = ("#2a7f4f", "#b5651d", "#3b6ea5", "#8e44ad")


def document(title: str, parts: Sequence[str]) -> str:
    """Returns a whole page of parts that are HTML already."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{esc(title)}</title>"
    width = "<meta name=viewport content='width=device-width'>"
    return f"{head}{width}<style>{STYLE}</style><body>{''.join(parts)}</body></html>"


def esc(value: Any) -> str:
    """Returns a value as HTML text; floats with four digits."""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table with a head, as HTML; one that is wider than the page scrolls by itself.

    A column with a long text, such as a path, is set to the left, and may break after a slash.
    """
    texts = {column for row in rows for column, cell in enumerate(row) if len(esc(cell)) >= LONG}

    def line(tag: str, cells: Sequence[Any]) -> str:
        parts = [esc(cell).replace("/", "/<wbr>") if i in texts else esc(cell) for i, cell in enumerate(cells)]
        opened = [f"<{tag} class=text>" if i in texts else f"<{tag}>" for i in range(len(cells))]
        return "".join(f"{start}{part}</{tag}>" for start, part in zip(opened, parts, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{line('th', head)}</tr>{body}</table></div>"


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Returns names with their values as a list, as HTML; values may be long."""
    return f"<ul class=facts>{''.join(f'<li>{esc(name)}: <b>{esc(value)}</b></li>' for name, value in pairs)}</ul>"


def plot(series: Mapping[str, Sequence[tuple[float, float]]], label: str, lowest: float = 0.0) -> str:
    """Draws lines over a shared x axis, as SVG of the class `plot` that can stand alone; y starts at `lowest`."""
    width, height, left, bottom, right, top = 720, 260, 48, 34, 12, 12
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    low, high, peak = min(xs), max(xs), max([*ys, 1e-9])

    def at(x: float, y: float) -> str:
        across = left + (width - left - right) * (x - low) / max(1e-9, high - low)
        return f"{across:.1f},{height - bottom - (height - bottom - top) * (y - lowest) / max(1e-9, peak - lowest):.1f}"

    lines = [
        f'<line x1="{left}" y1="{height - bottom}" x2="{width - right}" y2="{height - bottom}" stroke="#ccc"/>',
        f'<text x="{width - right}" y="{height - 6}" text-anchor="end">{esc(label)}: {esc(low)} to {esc(high)}</text>',
        f'<text x="4" y="{top + 8}">{esc(float(peak))}</text><text x="4" y="{height - bottom}">{esc(lowest)}</text>',
    ]
    legend = left
    for i, (name, points) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(at(x, y) for x, y in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        lines += [
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="2" fill="{colour}"/>' for p in path.split()[-1:]
        ]
        lines.append(f'<text x="{legend}" y="{height - 6}" style="fill:{colour}">{esc(name)}</text>')
        legend += 18 + 6 * len(name)
    head = f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
    return f'{head} role="img" font-family="sans-serif" font-size="11">{"".join(lines)}</svg>'
