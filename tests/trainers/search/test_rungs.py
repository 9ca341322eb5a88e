"""The first rung of a sampler that learns: it draws no more points than the budget trains to the last rung."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from tests.trainers.search.searches import config_of
from trainers.inputs import prepare
from trainers.runs.run import Run
from trainers.search.halving import RUNGS, expected_price
from trainers.search.pieces import Piece, SearchPlan
from trainers.search.records import Folder
from trainers.search.rungs import Rungs
from trainers.search.samplers.random import RandomOrder
from trainers.search.shared import Shared, Trial
from trainers.search.space import Space, points_of
from trainers.search.trials import Pricing
from trainers.search.workers import InThisProcess


class Clock:
    """A clock that a test moves."""

    spent = 0.0

    def add(self, seconds: float) -> None:
        self.spent += seconds


@pytest.fixture
def trials(config) -> dict[str, Trial]:
    """Twenty points of one group."""
    space = Space(grids=({"optimizer.learning_rate": tuple(1e-4 * i for i in range(1, 21))},))
    inputs = prepare(config_of(config), Run(Path(), show=False))
    model = GraftModel(inputs.backbone.network, (Lora(rank=2),), Classification(), inputs.data.labels)
    points = points_of(space, config_of(config)).points
    return {point.id: Trial(point, inputs, model, model) for point in points}


def rungs_of(trials: dict[str, Trial], folder: Path, budget: float) -> Rungs:
    """A search whose points cost 90 seconds each, and a second for each comparison."""
    pricing = Pricing(1.0, 0.0, 1.0, dict.fromkeys(trials, 90.0), 1, None)
    plan = SearchPlan(("score",), "accuracy", (), RUNGS, {}, 0.0, 0.0, budget, count=len(trials))
    shared, stored = Shared(Run(folder)), Folder(folder)
    alone = InThisProcess(trials, shared, stored)
    return Rungs(trials, shared, stored, Clock(), plan, pricing, RandomOrder(), alone)


def draw(rungs: Rungs) -> list[Piece]:
    """The pieces of the first rung, each of which takes its predicted price."""
    pieces: list[Piece] = []
    for identity in rungs.drawn(pieces):
        rungs.clock.spent += rungs.pricing.piece(rungs.trials[identity], 0)
        pieces.append(Piece(identity, 0, 1, 9, 0.5, (), {"score": 0.5}, {}, 11.0, rungs.clock.spent))
        rungs.folder.add(pieces[-1])
    return pieces


def test_drawing_stops_while_the_rungs_that_follow_are_affordable(trials, tmp_path):
    rungs = rungs_of(trials, tmp_path, budget=400.0)
    pieces = draw(rungs)
    assert 1 < len(pieces) < len(trials)
    assert expected_price([90.0] * len(pieces), 1.0) <= 400 < expected_price([90.0] * (len(pieces) + 1), 1.0)
    (tmp_path / "whole").mkdir()
    assert len(draw(rungs_of(trials, tmp_path / "whole", budget=0.0))) == len(trials), "without a budget all are drawn"


def test_a_search_that_goes_on_draws_no_more_once_its_second_rung_began(trials, tmp_path):
    before = draw(rungs_of(trials, tmp_path, budget=400.0))
    last = before[-1]
    Folder(tmp_path).add(Piece(last.point, 1, 3, 9, 0.5, (), {"score": 0.5}, {}, 20.0, 1.0))
    assert draw(rungs_of(trials, tmp_path, budget=400.0)) == before, "though its clock lost what was not stored"
