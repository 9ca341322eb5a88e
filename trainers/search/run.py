"""The verb `search`: a config and a space to a front of points.

    result = search(load_config("trec6"), load_space("small"), Path("runs/search"))

Reads top to bottom: points, one pass for what they share, a price, rungs of trials, the front, the page. Killed at any
instant, it is run again with `resume`: pieces that were stored are not trained again, and the choice of the points that
go on follows from stored pieces alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.records import encode
from metering.window import cpu_seconds, platform
from trainers.config import TrainConfig
from trainers.config.former import with_former_stages
from trainers.retrain.fingerprint import read as read_rows
from trainers.runs.run import Run
from trainers.runs.workdir import RESULT, claimed, stored_result
from trainers.search.front import candidates, recommended
from trainers.search.halving import RUNGS, expected_price, survivors
from trainers.search.objectives import require_measurable
from trainers.search.page import write_page
from trainers.search.pieces import Piece, SearchPlan
from trainers.search.records import Folder
from trainers.search.result import SearchResult
from trainers.search.shared import Shared, Trial
from trainers.search.space import Refused, Space, points_of
from trainers.search.trials import Pricing, priced, tried

log = logging.getLogger(__name__)

Sampler = Literal["grid", "random"]
SLACK = 0.05  # share of a budget that a search keeps for what it cannot foresee


def search(
    config: TrainConfig,
    space: Space,
    workdir: Path,
    *,
    objectives: Sequence[str] = ("score",),
    budget: float = 0.0,
    sampler: Sampler = "grid",
    resume: bool = False,
    show: bool = False,
) -> SearchResult:
    """Searches a space over a config; raises InputError for a bad space, objective, budget or data.

    `budget` in CPU seconds decides how many points are tried; 0 tries all of them. `random` draws their order by the
    config's seed.
    """
    points = points_of(space, config)
    require_measurable(objectives, config)
    _require_target(config)
    values = {
        "config": encode(with_former_stages(config)),  # the points name the stages
        "points": [[point.id, dict(point.settings)] for point in points.points],
        "objectives": list(objectives),
        "budget": budget,
        "sampler": sampler,
    }
    with claimed(workdir, values, resume) as stored:
        if stored is not None:
            return stored_result(SearchResult, workdir, stored)
        started = cpu_seconds()
        rows = read_rows(config).prints
        run = Run(workdir, show, known_answers=ready_to_compute().verdict)
        shared, folder = Shared(run), Folder(workdir)
        trials, refused = shared.trials(points)
        shared.fill(trials)
        clock = Clock(folder, started)
        plan, pricing = _planned(trials, shared, folder, clock, rows, objectives, budget, sampler)
        ended = _rungs({trial.point.id: trial for trial in trials}, shared, folder, clock, plan, pricing)
        return _result(config, run, folder, plan, trials, refused, ended, clock)


class Clock:
    """The CPU seconds of a search, in all of its processes."""

    def __init__(self, folder: Folder, started: float):
        plan = folder.plan()
        before = [piece.spent for piece in folder.pieces.values()] + ([plan.spent] if plan else [])
        self._before, self._started = max(before, default=0.0), started

    @property
    def spent(self) -> float:
        """Returns the CPU seconds so far."""
        return self._before + cpu_seconds() - self._started


def _require_target(config: TrainConfig) -> None:
    """Raises InputError for a limit that a search does not check."""
    for name in ("max_memory_mb", "max_joules"):
        if getattr(config.target, name):
            raise InputError(f"target.{name}: a search does not check it; leave it out, and let the gate check it")
    if config.plan.max_memory_mb:
        raise InputError("plan.max_memory_mb: a search has other steps; leave it out, and train the choice with it")
    config.target.require_platform(platform(), "the search")


def _planned(
    trials: Sequence[Trial],
    shared: Shared,
    folder: Folder,
    clock: Clock,
    rows: dict[str, str],
    objectives: Sequence[str],
    budget: float,
    sampler: Sampler,
) -> tuple[SearchPlan, Pricing]:
    """Returns which points are tried, in order, and what they will cost; an interrupted search keeps its choice."""
    plan = folder.plan()
    if plan is not None and plan.rows != rows:
        changed = ", ".join(name for name in rows if plan.rows.get(name) != rows[name])
        raise InputError(f"--resume: rows of {changed} have changed since the search began; start in another --workdir")
    pricing = priced(trials, shared)
    if plan is not None:
        return plan, pricing
    order = list(trials)
    if sampler == "random":
        draw = np.random.default_rng(trials[0].inputs.config.seed)
        order = [order[i] for i in draw.permutation(len(order))]
    count = len(order)
    if budget:
        left = budget * (1 - SLACK) - clock.spent
        prices = [_price(order[:n], pricing) for n in range(1, len(order) + 1)]
        count = sum(price <= left for price in prices)
        if not count:
            raise InputError(
                f"--budget: {budget:g} CPU seconds are less than the shared pass, {clock.spent:.0f}, and one trial, "
                f"{prices[0]:.0f}; allow at least {(clock.spent + prices[0]) / (1 - SLACK):.0f}"
            )
    chosen = sorted(order[:count], key=lambda trial: -trial.boundary)  # the cheapest boundary first
    spent = clock.spent
    plan = SearchPlan(
        tuple(objectives),
        trials[0].inputs.config.metric,
        tuple(trial.point.id for trial in chosen),
        RUNGS,
        rows,
        round(spent + _price(chosen, pricing), 3),
        round(spent, 3),
        budget,
        {trial.point.id: round(pricing.seconds(trial), 3) for trial in chosen},
    )
    folder.write_plan(plan)
    log.info("search: %d of %d points, about %.0f CPU seconds", count, len(trials), plan.predicted_cpu_seconds)
    return plan, pricing


def _price(trials: Sequence[Trial], pricing: Pricing) -> float:
    """Returns the CPU seconds of a search over these trials, programs included."""
    trained = [trial for trial in trials if not trial.fitted]
    groups = {trial.group for trial in trained}
    fitted = sum(pricing.seconds(trial) for trial in trials if trial.fitted)
    halving = expected_price([pricing.seconds(trial) for trial in trained], pricing.evaluation)
    return pricing.compile_of(groups) + halving + fitted


def _rungs(
    trials: dict[str, Trial], shared: Shared, folder: Folder, clock: Clock, plan: SearchPlan, pricing: Pricing
) -> str:
    """Trains every point through the rungs; returns why it ended before the last one, "" if it did not."""
    alive = plan.tried
    for rung in range(len(plan.rungs)):
        pieces: list[Piece] = []
        for identity in alive:
            trial = trials[identity]
            known = folder.pieces.get((0 if trial.fitted else rung, identity))
            if known is not None:  # stored before, or a head that is fitted once
                pieces.append(known)
                continue
            needed = pricing.piece(trial, rung)
            if plan.budget and clock.spent + needed > plan.budget:
                return f"budget: {clock.spent:.0f} of {plan.budget:g} CPU seconds are spent, a trial takes {needed:.0f}"
            piece = tried(trial, rung, shared, folder, plan.objectives, clock, pricing)
            folder.add(piece)
            pieces.append(piece)
            log.info(
                "rung %d, %s: %s %.4f after %d of %d steps", rung, identity, plan.metric, piece.score, piece.steps,
                piece.total,
            )  # fmt: skip
        if rung + 1 < len(plan.rungs):
            alive = survivors(pieces, plan.objectives)
    return ""


def _result(
    config: TrainConfig,
    run: Run,
    folder: Folder,
    plan: SearchPlan,
    trials: Sequence[Trial],
    refused: tuple[Refused, ...],
    ended: str,
    clock: Clock,
) -> SearchResult:
    """Compares what was tried, and writes result and page."""
    points = [trial.point for trial in trials]
    front = candidates(points, list(folder.pieces.values()), plan.objectives, config.target)
    result = SearchResult(
        workdir=str(run.workdir),
        name=config.name,
        metric=plan.metric,
        objectives=plan.objectives,
        recommended=recommended(front, plan.objectives),
        candidates=front,
        untried=tuple(dict(point.settings) for point in points if point.id not in plan.tried),
        refused=refused,
        rows=plan.rows,
        groups=len({trial.group for trial in trials}),
        rows_computed=run.computed.rows,
        predicted_cpu_seconds=plan.predicted_cpu_seconds,
        cpu_seconds=round(clock.spent, 3),
        budget=plan.budget,
        ended=ended,
        page=str(run.workdir / "search.html"),
        platform=platform(),
    )
    write_page(result)
    write_durable(run.workdir / RESULT, json.dumps(encode(result), indent=1).encode())
    folder.clear_states()
    return result
