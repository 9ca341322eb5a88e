"""The decision about a change: a new head, a warm start, or a run from scratch; and its price.

    head     the live version's adapter stays, its head is fitted anew to cached features
    warm     one more epoch or so from the live version, in the top blocks, on cached states
    scratch  the config's own plan; also where the live version is another kind of graft, or there is none

Costs are predicted from earlier runs of the task of the same kind, in CPU seconds of the whole verb. Without one they
come from the plan, whose steps are timed where somebody asks for a price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from adapters.artefact.manifest import Manifest
from adapters.specs import Probe
from metering.energy import Joules, modelled
from metering.window import cpu_seconds
from registry.entries import Run
from trainers.config import Plan, Stage, TrainConfig
from trainers.retrain.diagnose import Diagnosis
from trainers.retrain.fingerprint import LEARNT_FROM, Fingerprint
from trainers.retrain.lineage import PriceEstimate

Action = Literal["head", "warm", "scratch"]
TOP_BLOCKS = 2  # live blocks of a warm start
HISTORY = 5  # newest runs of a kind that predict the next
USUAL = (0.2, 0.2)  # exponents of rows and of changed rows in a run's seconds, where history tells none
PULL = 1.0  # weight of the usual exponents, in squared logarithms of sizes


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


def from_history(runs: Sequence[Run], action: Action, rows: int, changed: int) -> PriceEstimate | None:
    """Predicts the cost of the whole verb from earlier runs of this kind; None without one.

    `rows` are those to train on, `changed` those that differ from the live version's. Former versions recorded the
    training alone, and no count of changed rows; they are read where there is nothing newer.
    """
    known = [
        run.detail
        for run in runs
        if run.detail.get("action") == action and run.detail.get("cpu_seconds") and run.detail.get("train_rows")
    ]
    newer = [detail for detail in known if detail.get("changed_rows")]
    known = (newer or known)[:HISTORY]
    if not known:
        return None
    sizes = [(detail["train_rows"], detail.get("changed_rows", 1)) for detail in known]
    seconds = [detail.get("verb_cpu_seconds") or detail["cpu_seconds"] for detail in known]
    predicted = scaled(sizes, seconds, (rows, max(1, changed) if newer else 1))
    source = f"{len(known)} earlier runs of kind {action}"
    return PriceEstimate(round(predicted, 2), modelled(predicted).rounded(), source)


def scaled(sizes: Sequence[tuple[int, int]], seconds: Sequence[float], size: tuple[int, int]) -> float:
    """Predicts the seconds of a run of `size`, (rows, changed rows), from runs of other sizes.

    The logarithm of the seconds is linear in those of rows and changed rows: a ridge regression towards the exponents
    of `USUAL`, which few runs move little (Hoerl and Kennard 1970). No exponent lies outside 0..1: more rows are not
    cheaper, and twice the rows cost at most twice as much.
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float))
    centred = x - x.mean(axis=0)
    gram = centred.T @ centred + PULL * np.eye(2)
    exponents = np.clip(np.linalg.solve(gram, centred.T @ (y - y.mean()) + PULL * np.asarray(USUAL)), 0.0, 1.0)
    from_mean = np.log(np.asarray(size, float)) - x.mean(axis=0)
    return math.exp(float(y.mean() + from_mean @ exponents))


def from_plan(decision: Decision, changed: float, before: Sequence[Run], cpu_before: float) -> PriceEstimate:
    """Predicts the cost by what the verb took so far, and the plan's timed steps.

    `changed` is the share of train rows that the live version has not seen. The states of the others are in a cache,
    unless an adapter below them was trained since. `before` are earlier runs, newest first. `cpu_before` are the CPU
    seconds of the process when the verb began.
    """
    from trainers.pricing.price import price
    from trainers.runs.run import Run

    config, so_far = decision.config, cpu_seconds() - cpu_before
    missing = changed if config.adapter.fitted or states_kept(decision.action, before) else 1.0
    if decision.action == "head" or config.adapter.fitted:
        config = replace(config, plan=replace(config.plan, stages=(Stage("none"),)), epochs=1.0)
        if config.adapter.fitted:  # of more boundaries: one pass gives them all, the rest is a larger head
            config = replace(config, adapter=Probe())
    elif config.climbs:
        config = replace(config, plan=replace(config.plan, stages=(Stage(f"-{TOP_BLOCKS}:"),)))
    result = price(config, Run(Path()))
    over_rows = result.passes_cpu_seconds + sum(stage.fill_cpu_seconds for stage in result.stages)
    seconds = so_far + result.setup_cpu_seconds + result.cpu_seconds - (1 - missing) * over_rows
    source = f"the plan: {', '.join(stage.live for stage in result.stages)} live, steps timed on this machine"
    return PriceEstimate(round(seconds, 2), modelled(seconds).rounded(), source)


def states_kept(action: Action, before: Sequence[Run]) -> bool:
    """Returns whether the newest runs left the states that this action reads as they were.

    A run from scratch reads those of the bare backbone. A warm start reads those below its live blocks, which earlier
    warm starts computed and did not change. A head reads the last ones, which only a head leaves as they were.
    """
    trained = [run.detail.get("action") for run in before]
    if action == "head":
        return next((name for name in trained if name in ("head", "warm", "scratch")), "") == "head"
    return action == "scratch" or next((name for name in trained if name in ("warm", "scratch")), "") == "warm"


def unpriced() -> PriceEstimate:
    """Returns the estimate where nothing is known and nobody asks for a timing."""
    reason = "no earlier run of this kind; --max-price and --dry-run time the plan"
    return PriceEstimate(None, Joules("unavailable", None, source=reason), reason)
