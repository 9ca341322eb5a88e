"""The verb `profile`: the cost of one prediction of a graft, counted and measured, against this machine's roofline."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.block_counts import block_forward
from adapters.costs import forward
from adapters.forward import forward_program
from adapters.graft import Graft, load_graft
from adapters.machine import ready_to_answer
from backbone.precisions.precision import precision_named
from backbone.trees import count
from metering.roofline import Roofline, measure
from metering.window import window

BATCHES = (1, 8, 32)  # rows
LENGTHS = (16, 64, 128)  # tokens
PASSES = 30  # passes timed at each shape, or as many as fit in SECONDS
SECONDS = 2.0  # seconds of timing at each shape


@dataclass(frozen=True)
class Shape:
    """The cost of one batch shape."""

    batch: int  # rows
    tokens: int  # tokens of a row
    flops: float  # FLOP of one pass
    bytes_moved: float  # bytes of one pass
    intensity: float  # FLOP per byte
    p50_ms: float  # median of a pass, milliseconds
    p95_ms: float  # 95th percentile
    p99_ms: float  # 99th percentile
    rows_per_second: float  # rows at the median
    gflops: float  # achieved rate, 10^9 FLOP/s
    attainable_gflops: float  # rate of the roofline at this intensity, 10^9 FLOP/s
    joules_per_row: float | None
    joules_quality: str  # quality of the joules: measured_counter, modelled or unavailable
    peak_bytes: int | None  # resident memory above the level after imports


@dataclass(frozen=True)
class Profile:
    """The result of `profile`; `--json` prints it."""

    graft: str  # folder
    content_id: str  # content_id of the graft
    parameters: int  # parameters of the graft
    backbone_parameters: int
    graft_bytes: int  # bytes on disk
    block_flops: float  # FLOP of one block for one row of LENGTHS[1] tokens
    block_parameters: int
    roofline_gflops: float  # peak rate of products in the trunk's precision, 10^9 FLOP/s
    roofline_gb_per_second: float  # bandwidth of the memory
    shapes: tuple[Shape, ...]
    plot: str | None  # SVG file, if one was requested

    def table(self) -> str:
        """Returns the profile as a table for people."""
        lines = [
            f"graft: {self.parameters:,} parameters, {self.graft_bytes / 1e6:.2f} MB on disk; "
            f"backbone: {self.backbone_parameters:,} parameters",
            f"this machine: {self.roofline_gflops:.0f} GFLOP/s, {self.roofline_gb_per_second:.0f} GB/s",
            "rows x tokens    p50 ms    p95 ms    p99 ms    rows/s   GFLOP/s  attainable  FLOP/byte  J/row",
        ]
        for s in self.shapes:
            joules = "-" if s.joules_per_row is None else f"{s.joules_per_row:.3f} ({s.joules_quality})"
            lines.append(
                f"{s.batch:4d} x {s.tokens:<6d} {s.p50_ms:9.2f} {s.p95_ms:9.2f} {s.p99_ms:9.2f} "
                f"{s.rows_per_second:9.1f} {s.gflops:9.1f} {s.attainable_gflops:11.1f} {s.intensity:10.1f}  {joules}"
            )
        return "\n".join(lines)


def profile(
    path: str | Path, *, backbone: str | Path | None = None, precision: str = "", plot: str | Path | None = None
) -> Profile:
    """Profiles the graft at `path`; raises InputError if it does not load."""
    ready_to_answer()
    graft = load_graft(path, backbone, precision=precision)
    machine = measure(precision_named(graft.backbone.precision).factors)
    buckets = graft.backbone.lengths  # images have a single length
    lengths = [n for n in LENGTHS if n <= buckets[-1] and len(buckets) > 1] or [buckets[-1]]
    shapes = tuple(_shape(graft, machine, batch, n) for n in lengths for batch in BATCHES)
    spec = graft.backbone.spec
    if plot is not None:
        Path(plot).write_text(roofline_svg(machine, shapes), encoding="utf-8")
    return Profile(
        graft=str(path),
        content_id=graft.manifest.content_id if graft.manifest else "",
        parameters=count(graft.params),
        backbone_parameters=count(graft.backbone.params),
        graft_bytes=sum(p.stat().st_size for p in Path(path).iterdir()),
        block_flops=block_forward(spec, 1, lengths[len(lengths) // 2]).flops if spec.blocks else 0.0,
        block_parameters=count(graft.backbone.network.block_weights(graft.backbone.params, 0)) if spec.blocks else 0,
        roofline_gflops=machine.flops / 1e9,
        roofline_gb_per_second=machine.bandwidth / 1e9,
        shapes=shapes,
        plot=None if plot is None else str(plot),
    )


def _shape(graft: Graft, machine: Roofline, batch: int, tokens: int) -> Shape:
    program = forward_program(graft.model)
    rows = batch * graft.model.sides
    ids, mask = graft.backbone.made_up_ids(rows, tokens), np.ones((rows, tokens), bool)

    def run() -> Any:
        return np.asarray(program(graft.backbone.params, graft.params, ids, mask))

    run()
    seconds: list[float] = []
    with window("profile") as cost:
        while len(seconds) < PASSES and (sum(seconds) < SECONDS or len(seconds) < 3):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    counted = forward(graft.model, batch, tokens)
    p50, p95, p99 = (float(np.percentile(seconds, q)) for q in (50, 95, 99))
    joules = cost.joules.value
    return Shape(
        batch=batch,
        tokens=tokens,
        flops=counted.flops,
        bytes_moved=counted.bytes,
        intensity=counted.flops / counted.bytes,
        p50_ms=1e3 * p50,
        p95_ms=1e3 * p95,
        p99_ms=1e3 * p99,
        rows_per_second=batch / p50,
        gflops=counted.flops / p50 / 1e9,
        attainable_gflops=machine.attainable(counted.flops / counted.bytes) / 1e9,
        joules_per_row=None if joules is None else joules / len(seconds) / batch,
        joules_quality=cost.joules.quality,
        peak_bytes=cost.peak_bytes,
    )


def roofline_svg(machine: Roofline, shapes: tuple[Shape, ...]) -> str:
    """Draws achieved FLOP/s against intensity under the measured ceilings; both axes are logarithmic."""
    width, height, margin = 640, 360, 48
    low, high = 1.0, max(1e3, 2 * max(s.intensity for s in shapes))
    floor, top = machine.flops / 1e3, machine.flops * 2

    def at(intensity: float, rate: float) -> tuple[float, float]:
        across = np.log(intensity / low) / np.log(high / low)
        up = np.log(max(rate, floor) / floor) / np.log(top / floor)
        return margin + (width - 2 * margin) * across, height - margin - (height - 2 * margin) * up

    roof = " ".join("{:.1f},{:.1f}".format(*at(i, machine.attainable(i))) for i in (low, machine.ridge, high))
    parts = [f'<polyline points="{roof}" fill="none" stroke="#555" stroke-width="2"/>']
    for shape in shapes:
        x, y = at(shape.intensity, shape.gflops * 1e9)
        name = f"{shape.batch} x {shape.tokens}"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2a7f4f"><title>{name}</title></circle>')
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" font-size="10">{name}</text>')
    parts.append(f'<text x="{margin}" y="{height - 12}" font-size="12">FLOP per byte, {low:g} to {high:g}</text>')
    parts.append(f'<text x="8" y="20" font-size="12">GFLOP/s; roof {machine.flops / 1e9:.0f}, ')
    parts[-1] += f"{machine.bandwidth / 1e9:.0f} GB/s; rows x tokens</text>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return head + f'<rect width="{width}" height="{height}" fill="white"/>' + "".join(parts) + "</svg>"
