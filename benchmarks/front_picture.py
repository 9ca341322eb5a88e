"""The picture of a search's front: operations of a prediction against the score of every point, as one SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, EDGE = 640, 360, 56  # pixels of the picture, and of the room around the plot
STYLE = (
    "text{font:12px sans-serif;fill:#222}.axis{stroke:#888}.point{fill:#bbb}.front{fill:#1b6ca8}"
    ".line{stroke:#1b6ca8;fill:none}"
)


@dataclass(frozen=True)
class Spot:
    """A point of a search in the picture."""

    flops: float  # operations of one prediction
    score: float
    front: bool


def picture(spots: Sequence[Spot], title: str) -> str:
    """Returns the SVG of a front; raises ValueError without a point."""
    if not spots:
        raise ValueError("a front needs a point")
    x, y = [math.log10(spot.flops) for spot in spots], [spot.score for spot in spots]
    across, down = _scale(x, EDGE, WIDTH - EDGE), _scale(y, HEIGHT - EDGE, EDGE)
    places = [(across(a), down(b), spot.front) for a, b, spot in zip(x, y, spots, strict=True)]
    steps = sorted((a, b) for a, b, front in places if front)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in steps)
    dots = [
        f'<circle class="{"front" if front else "point"}" cx="{a:.1f}" cy="{b:.1f}" r="{5 if front else 3}"/>'
        for a, b, front in sorted(places, key=lambda place: place[2])
    ]
    low, high = min(spot.flops for spot in spots), max(spot.flops for spot in spots)
    bottom = HEIGHT - EDGE + 18
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{title}</title><style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{EDGE}" y="24">{title}</text>',
            f'<path class="axis" d="M{EDGE} {EDGE}V{HEIGHT - EDGE}H{WIDTH - EDGE}" fill="none"/>',
            f'<text x="4" y="{down(max(y)) + 4:.1f}">{max(y):.3f}</text>',
            f'<text x="4" y="{down(min(y)) + 4:.1f}">{min(y):.3f}</text>',
            f'<text x="{EDGE}" y="{bottom}">{low / 1e6:.0f} MFLOP</text>',
            f'<text x="{WIDTH - EDGE}" y="{bottom}" text-anchor="end">{high / 1e6:.0f} MFLOP a prediction</text>',
            f'<polyline class="line" points="{line}"/>',
            *dots,
            "</svg>\n",
        ]
    )


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Returns the function from values to pixels; equal values lie in the middle."""
    low, high = min(values), max(values)
    if low == high:
        return lambda value: (start + end) / 2
    return lambda value: start + (end - start) * (value - low) / (high - low)
