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
from dataclasses import replace
from pathlib import Path

from adapters.machine import ready_to_compute
from backbone.errors import InputError
from backbone.files import write_durable
from backbone.records import encode
from backbone.variants.registered import variant
from metering.window import cpu_seconds, platform
from registry.budgets.budget import Budget
from trainers.config import TrainConfig
from trainers.config.former import with_former_stages
from trainers.retrain.fingerprint import read as read_rows
from trainers.runs.run import Run
from trainers.runs.workdir import RESULT, claimed, stored_result
from trainers.search.front import candidates, recommended
from trainers.search.halving import RUNGS, expected_price
from trainers.search.limits import Limits, limits_of
from trainers.search.objectives import require_measurable
from trainers.search.page import write_page
from trainers.search.pieces import SearchPlan
from trainers.search.records import Folder
from trainers.search.result import SearchResult
from trainers.search.rungs import Rungs
from trainers.search.samplers.random import RandomOrder
from trainers.search.samplers.sampler import Sampler
from trainers.search.shared import Shared, Trial
from trainers.search.space import Refused, Space, points_of
from trainers.search.trials import Pricing, priced
from trainers.search.workers import Executor, trainers

log = logging.getLogger(__name__)

START_SECONDS = 3.0  # CPU seconds until another process has imported everything
SLACK = 0.05  # share of a budget that a search keeps for what it cannot foresee


def search(
    config: TrainConfig,
    space: Space,
    workdir: Path,
    *,
    objectives: Sequence[str] = ("score",),
    budget: float = 0.0,
    sampler: str = "grid",
    limits: Budget | None = None,
    processes: int = 1,
    executor: Executor = "processes",
    resume: bool = False,
    show: bool = False,
) -> SearchResult:
    """Searches a space over a config; raises InputError for a bad space, objective, budget or data.

    `budget` in CPU seconds decides how many points are tried; 0 tries all of them. `sampler` is the tag of one of
    `trainers.search.samplers`. The narrowest of the config's target and `limits`, a team's budget, holds. With several
    `processes`, of this machine or of a Ray cluster, as many trials are trained at a time, to the same scores. Raises
    ChildProcessError where two of them end at one trial.
    """
    order = variant(Sampler, sampler, "--sampler")()
    order.require()
    if processes > 1 and order.learns:
        raise InputError(f"--processes: {sampler} looks at each trial before it chooses the next; leave the option out")
    team = limits or Budget(config.name)
    bounds = limits_of(config, team)
    within = replace(config, target=bounds.target)
    points = points_of(space, within)
    require_measurable(objectives, config)
    values = {
        "config": encode(with_former_stages(config)),  # the points name the stages
        "points": [[point.id, dict(point.settings)] for point in points.points],
        "objectives": list(objectives),
        "budget": budget,
        "sampler": sampler,
        **({"limits": team.key} if team.key else {}),
    }
    with claimed(workdir, values, resume) as stored:
        if stored is not None:
            return stored_result(SearchResult, workdir, stored)
        started = cpu_seconds()
        rows = read_rows(config).prints
        run = Run(workdir, show, known_answers=ready_to_compute().verdict)
        shared, folder = Shared(run), Folder(workdir)
        trials, refused = shared.trials(points)
        clock = Clock(folder, started)
        starts = processes * (START_SECONDS + cpu_seconds() - started) if processes > 1 else 0.0
        shared.fill(trials)
        plan, pricing = _planned(trials, shared, folder, clock, rows, objectives, budget, order, starts)
        for limit in bounds.unchecked:
            log.info("%s: a search does not check it; the gate does", limit)
        by_id = {trial.point.id: trial for trial in trials}
        with trainers(within, by_id, shared, folder, processes, executor) as several:
            rungs = Rungs(by_id, shared, folder, clock, plan, pricing, order, several)
            ended = rungs.run()
        return _result(config, run, folder, plan, trials, refused, ended, clock, bounds, rungs.lost)


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

    def add(self, seconds: float) -> None:
        """Counts CPU seconds of another process."""
        self._before += seconds


def _planned(
    trials: Sequence[Trial],
    shared: Shared,
    folder: Folder,
    clock: Clock,
    rows: dict[str, str],
    objectives: Sequence[str],
    budget: float,
    sampler: Sampler,
    starts: float,
) -> tuple[SearchPlan, Pricing]:
    """Returns which points are tried, in order, and what they will cost; an interrupted search keeps its choice.

    `starts` are the CPU seconds in which other processes become ready.
    """
    plan = folder.plan()
    if plan is not None and plan.rows != rows:
        changed = ", ".join(name for name in rows if plan.rows.get(name) != rows[name])
        raise InputError(f"--resume: rows of {changed} have changed since the search began; start in another --workdir")
    pricing = priced(trials, shared)
    if plan is not None:
        return plan, pricing
    by_id, points, seed = {trial.point.id: trial for trial in trials}, [trial.point for trial in trials], _seed(trials)
    before = RandomOrder() if sampler.learns else sampler  # what a sampler that learns will choose is priced by a draw
    order = [by_id[one] for one in before.choose(points, (), objectives, seed, len(points))]
    count = len(order)
    if budget:
        ready = clock.spent + starts
        left = budget * (1 - SLACK) - ready
        prices = [_price(order[:n], pricing) for n in range(1, len(order) + 1)]
        count = sum(price <= left for price in prices)
        if not count:
            raise InputError(
                f"--budget: {budget:g} CPU seconds are less than the shared pass, {ready:.0f}, and one trial, "
                f"{prices[0]:.0f}; allow at least {(ready + prices[0]) / (1 - SLACK):.0f}"
            )
    chosen = sorted(order[:count], key=lambda trial: -trial.boundary)  # the cheapest boundary first
    spent = clock.spent
    plan = SearchPlan(
        tuple(objectives),
        trials[0].inputs.config.metric,
        () if sampler.learns else tuple(trial.point.id for trial in chosen),
        RUNGS,
        rows,
        round(spent + starts + _price(chosen, pricing), 3),
        round(spent, 3),
        budget,
        {trial.point.id: round(pricing.seconds(trial), 3) for trial in (trials if sampler.learns else chosen)},
        count if sampler.learns else 0,
    )
    folder.write_plan(plan)
    log.info("search: %d of %d points, about %.0f CPU seconds", count, len(trials), plan.predicted_cpu_seconds)
    return plan, pricing


def _seed(trials: Sequence[Trial]) -> int:
    """Returns the seed of the sampler, that of the first point."""
    return trials[0].inputs.config.seed


def _price(trials: Sequence[Trial], pricing: Pricing) -> float:
    """Returns the CPU seconds of a search over these trials, programs included."""
    trained = [trial for trial in trials if not trial.fitted]
    groups = {trial.group for trial in trained}
    fitted = sum(pricing.seconds(trial) for trial in trials if trial.fitted)
    halving = expected_price([pricing.seconds(trial) for trial in trained], pricing.evaluation)
    return pricing.compile_of(groups) + halving + fitted


def _result(
    config: TrainConfig,
    run: Run,
    folder: Folder,
    plan: SearchPlan,
    trials: Sequence[Trial],
    refused: tuple[Refused, ...],
    ended: str,
    clock: Clock,
    bounds: Limits,
    lost: Sequence[str],
) -> SearchResult:
    """Compares what was tried, and writes result and page."""
    points, tried = [trial.point for trial in trials], {piece.point for piece in folder.pieces.values()}
    front = candidates(points, list(folder.pieces.values()), plan.objectives, bounds.target, bounds.names, lost)
    result = SearchResult(
        workdir=str(run.workdir),
        name=config.name,
        metric=plan.metric,
        objectives=plan.objectives,
        recommended=recommended(front, plan.objectives),
        candidates=front,
        untried=tuple(dict(point.settings) for point in points if point.id not in tried),
        refused=refused,
        rows=plan.rows,
        groups=len({trial.group for trial in trials}),
        rows_computed=run.computed.rows,
        predicted_cpu_seconds=plan.predicted_cpu_seconds,
        cpu_seconds=round(clock.spent, 3),
        budget=plan.budget,
        ended=ended,
        unchecked=bounds.unchecked,
        lost=tuple(lost),
        page=str(run.workdir / "search.html"),
        platform=platform(),
    )
    write_page(result)
    write_durable(run.workdir / RESULT, json.dumps(encode(result), indent=1).encode())
    folder.clear_states()
    return result
