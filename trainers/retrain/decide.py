"""The decision about a change: a new head, a warm start, or a run from scratch; and its price.

    head     the live version's adapter stays, its head is fitted anew to cached features
    warm     one more epoch or so from the live version, in the top blocks, on cached states
    scratch  the config's own plan; also where the live version is another kind of graft, or there is none

Costs are predicted from earlier runs of the task of the same kind, in CPU seconds of the whole verb. Without one they
come from the plan, whose steps are timed where somebody asks for a price.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adapters.artefact.manifest import Manifest
from adapters.specs import Probe
from metering.energy import Joules, modelled
from registry.entries import Run
from trainers.config import Plan, Stage, TrainConfig
from trainers.retrain.diagnose import Diagnosis
from trainers.retrain.fingerprint import LEARNT_FROM, Fingerprint
from trainers.retrain.lineage import PriceEstimate

Action = Literal["head", "warm", "scratch"]
TOP_BLOCKS = 2  # live blocks of a warm start
HISTORY = 5  # newest runs of a kind that predict the next


@dataclass(frozen=True)
class Decision:
    """An action, and the reason for it."""

    action: Action
    reason: str
    config: TrainConfig  # config to train with


def decide(
    config: TrainConfig, now: Fingerprint, before: Fingerprint | None, parent: Manifest | None, diagnosis: Diagnosis
) -> Decision:
    """Chooses the cheapest action that can be expected to do."""
    policy = config.retrain
    if before is None or parent is None:
        return Decision("scratch", "nothing is live that says what it was made from", config)
    if before.graft != now.graft:
        return Decision(
            "scratch", "method, head, longest input or backbone are others than those of the live version", config
        )
    if before.config != now.config or before.numerics != now.numerics:
        return Decision("scratch", "the config, or the numerics version, has changed", config)
    share = f"{diagnosis.changed} of {sum(diagnosis.rows.get(n, 0) for n in LEARNT_FROM)} rows changed"
    if diagnosis.share > policy.warm_share:
        return Decision("scratch", f"{share}, more than retrain.warm_share ({policy.warm_share:g})", config)
    method = parent.methods[0]
    if len(parent.methods) > 1:
        return Decision("scratch", "the live version has several methods", config)
    attends = config.head.pooling == "attention"  # learnt by gradient: cached features are its beginning, the mean
    if attends and method.fitted:
        return Decision("scratch", "the live version is a probe, which has no attention to start from", config)
    settled = replace(config, adapter=method, extra=(), plan=replace(config.plan, stages="all"))
    if method.fitted:
        return Decision("head", f"{share}; the live version is a probe, whose fit has one optimum", settled)
    if diagnosis.share <= policy.head_share and not diagnosis.labels_added and not attends:
        return Decision("head", f"{share}, at most retrain.head_share ({policy.head_share:g})", settled)
    added = ", ".join(diagnosis.labels_added[:5])
    why = f"new labels: {added}" if added else "at most retrain.warm_share"
    plan = replace(config.plan, stages=warm_stages(config.plan))
    return Decision("warm", f"{share}; {why}", replace(settled, plan=plan, epochs=policy.warm_epochs))


def warm_stages(plan: Plan) -> str | tuple[Stage, ...]:
    """Returns the stages of a warm start: the plan's own top blocks, else the top two."""
    return (Stage(f"-{plan.schedule.warm_blocks(TOP_BLOCKS)}:"),)


def from_history(runs: Sequence[Run], action: Action, rows: int) -> PriceEstimate | None:
    """Predicts the cost of the whole verb from earlier runs of this kind; None without one.

    Runs of former versions recorded their training alone.
    """
    known = [
        (run.detail["train_rows"], run.detail.get("verb_cpu_seconds") or run.detail["cpu_seconds"])
        for run in runs
        if run.detail.get("action") == action and run.detail.get("cpu_seconds") and run.detail.get("train_rows")
    ][:HISTORY]
    if not known:
        return None
    constant, per_row = line_through(known)
    seconds = constant + per_row * rows
    source = f"{len(known)} earlier runs of kind {action}"
    return PriceEstimate(round(seconds, 2), modelled(seconds).rounded(), source)


def line_through(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Returns the constant and the slope of a line through (rows, seconds), neither of them negative.

    The slope is the median over pairs of points (Theil 1950, Sen 1968). Points of equal rows say nothing about it, so
    the cost is then taken as proportional to the rows.
    """
    slopes = [(b - a) / (m - n) for (n, a), (m, b) in itertools.combinations(points, 2) if n != m]
    proportional = statistics.median(seconds / rows for rows, seconds in points)
    slope = min(max(statistics.median(slopes), 0.0), proportional) if slopes else proportional
    return max(statistics.median(seconds - slope * rows for rows, seconds in points), 0.0), slope


def from_plan(decision: Decision, missing: float) -> PriceEstimate:
    """Predicts the cost by the plan's timed steps; `missing` is the share of rows whose states no cache has."""
    from trainers.pricing.price import price
    from trainers.runs.run import Run

    config = decision.config
    if decision.action == "head" or config.adapter.fitted:
        config = replace(config, plan=replace(config.plan, stages=(Stage("none"),)), epochs=1.0)
        if config.adapter.fitted:  # of more boundaries: one pass gives them all, the rest is a larger head
            config = replace(config, adapter=Probe())
    elif config.plan.climbs:
        config = replace(config, plan=replace(config.plan, stages=(Stage(f"-{TOP_BLOCKS}:"),)))
    result = price(config, Run(Path()))
    over_rows = result.passes_cpu_seconds + sum(stage.fill_cpu_seconds for stage in result.stages)
    seconds = result.cpu_seconds - (1 - missing) * over_rows
    source = f"the plan: {', '.join(stage.live for stage in result.stages)} live, steps timed on this machine"
    return PriceEstimate(round(seconds, 2), modelled(seconds).rounded(), source)


def unpriced() -> PriceEstimate:
    """Returns the estimate where nothing is known and nobody asks for a timing."""
    reason = "no earlier run of this kind; --max-price and --dry-run time the plan"
    return PriceEstimate(None, Joules("unavailable", None, source=reason), reason)
