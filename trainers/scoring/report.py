"""`report.html`: one self-contained page about a run. No script, no network; plots are inline SVG."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from backbone.console.page import COLOURS, document, esc, plot, table
from backbone.texts import load_json
from metering.cost import CostRecord
from metering.energy import Joules
from trainers.config import ClimbStep
from trainers.runs.logs import read_scalars
from trainers.runs.result import ClimbRecord, Estimate, StageRecord, TrainResult
from trainers.runs.workdir import PLAN
from trainers.scoring.examine import Examined

log = logging.getLogger(__name__)

LARGEST_MATRIX = 30  # classes shown as a matrix; with more, the pairs confused most often
PAIRS = 15
CURVES = ("train/loss", "dev/loss", "dev/accuracy", "dev/pearson", "dev/entity_f1")


def write_report(
    workdir: Path,
    result: TrainResult,
    scores: Mapping[str, Examined],
    labels: Sequence[str],
    environment: Mapping[str, Any],
) -> Path:
    """Writes the page from a run's result, its `metrics.jsonl` files and, where there is one, its `plan.json`.

    `scores` holds the examined splits by name; `labels` names the rows and columns of a confusion.
    """
    parts = [
        f"<h1>{esc(environment['name'])}</h1>",
        f"<p class=note>{esc(result.content_id)}</p>",
        "<h2>Scores</h2>",
        _scores(result.metrics),
        _estimates(result.estimates),
        *(["<h2>Climb</h2>", _climb(result.climb)] if result.climb else []),
        "<h2>Learning curves</h2>",
        _curves(workdir),
        "<h2>Freeze timeline</h2>",
        _timeline(result.stages, environment["blocks"]),
        "<h2>Predicted and measured</h2>",
        _predicted(workdir / PLAN, result.stages),
        "<h2>Costs by phase</h2>",
        _costs(result.costs),
    ]
    for split, score in scores.items():
        parts += [f"<h2>{esc(split)}: slices</h2>", _scores(score.slices)]
        if score.confusion is not None:
            parts += [f"<h2>{esc(split)}: confusion</h2>", _confusion(np.array(score.confusion), labels)]
    parts += [
        "<h2>Environment</h2>",
        table(("", ""), [(name, value) for name, value in environment.items() if name != "blocks"]),
        f"<pre>{esc(' '.join(sys.argv))}</pre>",
    ]
    path = workdir / "report.html"
    path.write_text(document(environment["name"], parts), encoding="utf-8")
    return path


def _scores(metrics: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    return table(("", *names), [(k, *(values.get(n, "") for n in names)) for k, values in metrics.items()])


def _estimates(estimates: Sequence[Estimate]) -> str:
    """Returns the table of the config's metric with intervals."""
    rows = [(one.split, one.metric, one.value, one.low, one.high, one.rows, one.how) for one in estimates]
    return table(("rows of", "metric", "value", "95 % from", "to", "rows", "measured"), rows)


def _climb(steps: Sequence[ClimbRecord]) -> str:
    """Returns the table of the steps that plan.stages=auto tried."""
    rows = [
        (s.name, s.score, _known(s.gain), _known(s.noise), "kept" if s.kept else "not kept",
         s.cost.wall_seconds, s.cost.cpu_seconds)
        for s in steps
    ]  # fmt: skip
    head = ("step", "development score", "gain over what was kept", "noise", "", "wall s", "CPU s")
    return table(head, rows) + "<p class=note>The last step that was kept is the graft.</p>"


def _known(value: float | None) -> float | str:
    return "" if value is None else value


def _curves(workdir: Path) -> str:
    """Plots the run, or each step of plan.stages=auto that was trained by gradient, in a folder of its own."""
    drawn = []
    for folder in (workdir, *(workdir / step for step in get_args(ClimbStep))):
        scalars = read_scalars(folder / "metrics.jsonl")
        names = sorted({n for line in scalars for n in line if n in CURVES})
        values = {n: [(line["step"], line.get(n, math.nan)) for line in scalars] for n in names}
        finite = {n: [(step, value) for step, value in points if math.isfinite(value)] for n, points in values.items()}
        series = {n: points for n, points in finite.items() if points}
        if series:
            title = "" if folder == workdir else f"<h3>{esc(folder.name)}</h3>"
            drawn.append(f"{title}<div class=wide>{plot(series, 'optimiser micro-batches')}</div>")
    return "".join(drawn) or "<p class=note>Nothing was trained step by step.</p>"


def _timeline(stages: Sequence[StageRecord], blocks: int) -> str:
    total = sum(stage.steps for stage in stages)
    if not total:
        return "<p class=note>No stage: the head that was kept was fitted in closed form on features.</p>"
    width, row, done, shapes = 720, 18, 0, []
    for stage in stages:
        x, across = width * done / total, width * stage.steps / total
        for block in range(blocks):
            state, colour = ("live", COLOURS[0]) if block >= stage.boundary else ("frozen", "#d5dde3")
            shapes.append(
                f'<rect x="{x:.1f}" y="{(blocks - 1 - block) * row}" width="{max(1.0, across - 1):.1f}" '
                f'height="{row - 2}" fill="{colour}"><title>block {block}: {state}</title></rect>'
            )
        done += stage.steps
    picture = f'<svg viewBox="0 0 {width} {blocks * row}" width="{width}" role="img">{"".join(shapes)}</svg>'
    note = "<p class=note>Time runs to the right, block 0 is at the bottom; green is live, grey is frozen.</p>"
    head = ("stage", "live from block", "steps", "wall s", "CPU s", "GFLOP of steps", "joules", "quality")
    rows = [
        (i + 1, s.boundary, s.steps, s.wall_seconds, s.cpu_seconds, (s.flops or 0.0) / 1e9, *_joules(s.joules))
        for i, s in enumerate(stages)
    ]
    return picture + note + table(head, rows)


def _joules(joules: Joules) -> tuple[str, str]:
    if joules.parts:
        parts = [" ".join(_joules(part)) for part in joules.parts]
        return "-", f"{joules.source}: {'; '.join(parts)}"
    if joules.value is None:
        return "-", f"{joules.quality}: {joules.source}"
    spread = "" if joules.low is None else f" ({joules.low:.0f} to {joules.high:.0f})"
    return f"{joules.value:.0f}{spread}", f"{joules.quality}, {joules.source}"


def _predicted(plan: Path, stages: Sequence[StageRecord]) -> str:
    """Returns the table of predicted and measured costs; a damaged prediction breaks no report."""
    if not plan.exists():
        return "<p class=note>No prediction: run <code>topgraft plan CONFIG --workdir DIR</code> before training.</p>"
    rows = []
    try:
        prices = load_json(plan.read_text(encoding="utf-8"))["stages"]
        for i, (price, measured) in enumerate(zip(prices, stages, strict=False)):
            predicted = price["cpu_seconds"]
            error = f"{measured.cpu_seconds / predicted - 1:+.0%}" if predicted else "-"
            walls = (price["step_seconds"], price["seconds"], measured.wall_seconds)
            rows.append((i + 1, price["live"], *walls, predicted, measured.cpu_seconds, error))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        reason = (
            f"{plan}: damaged ({type(error).__name__}: {error}); `topgraft plan CONFIG --workdir DIR` writes it anew"
        )
        log.warning("%s", reason)
        return f"<p class=note>No prediction: {esc(reason)}</p>"
    head = ("stage", "live", "steps s", "predicted s", "measured s", "predicted CPU s", "measured CPU s", "of CPU s")
    return table(head, rows)


def _costs(costs: Mapping[str, CostRecord]) -> str:
    head = ("phase", "wall s", "CPU s", "peak MB", "joules", "quality")
    rows = []
    for name, cost in costs.items():
        peak = "-" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e6:.0f}"
        rows.append((name, cost.wall_seconds, cost.cpu_seconds, peak, *_joules(cost.joules)))
    return table(head, rows)


def _confusion(counts: np.ndarray, labels: Sequence[str]) -> str:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.dstack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape))[0][:PAIRS]
    rows = [(labels[t], labels[p], int(wrong[t, p])) for t, p in pairs if wrong[t, p]]
    mistakes = table(("truth", "predicted as", "rows"), rows) if rows else "<p class=note>No mistake.</p>"
    if len(labels) > LARGEST_MATRIX:
        return mistakes
    cells = []
    for truth, row in enumerate(counts):
        share = row / max(1, row.sum())
        shades = ""
        for i, (number, part) in enumerate(zip(row.tolist(), share.tolist(), strict=True)):
            title = f"{esc(labels[truth])} as {esc(labels[i])}"
            colours = f"background:rgba(42,127,79,{part:.2f});color:{'#fff' if part > 0.6 else '#222'}"
            shades += f'<td style="{colours}" title="{title}">{number}</td>'
        cells.append(f"<tr><th>{esc(labels[truth])}</th>{shades}</tr>")
    matrix = f"<div class=wide><table>{''.join(cells)}</table></div>"
    return f"{matrix}<p class=note>Rows are the truth, columns what was predicted.</p>{mistakes}"
