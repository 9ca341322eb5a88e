"""Samplers: every one tries each point once, from stored pieces alone; TPE finds what is good with fewer points."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from backbone.errors import InputError
from backbone.variants.registered import variants
from tests.command import call
from tests.trainers.search.searches import config_of
from trainers.search.pieces import Piece
from trainers.search.run import search
from trainers.search.samplers.sampler import Sampler
from trainers.search.samplers.tpe import TPE, grids_of
from trainers.search.space import Points, Space, points_of

SAMPLERS = variants(Sampler)
GRIDS = (
    {
        "adapter.method": ("lora",),
        "adapter.rank": (1, 2, 4, 8, 16),
        "optimizer.learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    },
    {"adapter.method": ("bottleneck",), "adapter.width": (4, 8, 16, 32, 64), "seed": (0, 1, 2)},
)


def score_of(settings: dict[str, str]) -> float:
    """A made-up score with one best point, at rank 8 and a rate of 0.003."""
    if settings["adapter.method"] == "bottleneck":
        return 0.5
    rank, rate = float(settings["adapter.rank"]), float(settings["optimizer.learning_rate"])
    return 0.9 - 0.05 * abs(np.log2(rank / 8)) - 0.1 * abs(np.log10(rate / 3e-3))


def tried(points: Points, sampler: Sampler, count: int, seed: int, objectives=("score",)) -> list[Piece]:
    pieces: list[Piece] = []
    by_id = {point.id: dict(point.settings) for point in points.points}
    while len(pieces) < count:
        identity = sampler.choose(points.points, pieces, objectives, seed, count)[0]
        score = score_of(by_id[identity])
        measures = {"score": score, "bytes": float(by_id[identity].get("adapter.rank", 64))}
        pieces.append(Piece(identity, 0, 1, 9, score, (), measures, {}, 1.0, len(pieces) + 1.0))
    return pieces


@pytest.fixture
def points(config) -> Points:
    return points_of(Space(GRIDS), config_of(config))


@pytest.mark.parametrize("tag", SAMPLERS)
def test_every_point_comes_once_and_again_the_same_from_half_of_the_pieces(tag, points):
    sampler, count = SAMPLERS[tag](), len(points.points)
    pieces = tried(points, sampler, count, seed=3)
    assert sorted(piece.point for piece in pieces) == sorted(point.id for point in points.points)
    half = pieces[: count // 2]
    following = sampler.choose(points.points, half, ("score",), 3, count)[0]
    assert following == pieces[len(half)].point, "what a resumed search tries next"


def test_tpe_finds_the_best_third_of_a_space_more_often_than_a_random_order(points):
    best = {"tpe": [], "random": []}
    for seed in range(6):
        for tag, scores in best.items():
            scores.append(np.mean([piece.score for piece in tried(points, SAMPLERS[tag](), 16, seed)[8:]]))
    assert np.mean(best["tpe"]) > np.mean(best["random"]) + 0.03


def test_tpe_reads_several_objectives_and_keeps_numbers_in_order(points):
    assert len({piece.point for piece in tried(points, TPE(), 12, 0, ("score", "bytes"))}) == 12
    grids = grids_of(points.points)
    assert len(grids) == 2
    ranks = next(grid["adapter.rank"] for grid in grids.values() if "adapter.rank" in grid)
    assert ranks == ["1", "2", "4", "8", "16"]


def test_a_search_by_tpe_is_the_same_again(config, tmp_path):
    space = Space(
        grids=({"adapter.method": ("probe",), "plan.stages": ("all",), "head.dropout": (0.0, 0.1, 0.2, 0.3)},)
    )
    one, other = (search(config_of(config), space, tmp_path / name, sampler="tpe") for name in "ab")
    assert [c.id for c in one.candidates] == [c.id for c in other.candidates]
    assert len(one.candidates) == 4
    assert not one.untried


def test_a_sampler_that_is_not_there_is_refused(config, tmp_path, capsys, monkeypatch):
    words = ("search", config, "--workdir", str(tmp_path / "run"))
    status, _, err = call(*words, "--sampler", "tpee", capsys=capsys)
    assert status == 2
    assert "--sampler: 'tpee' is unknown; nearest: tpe" in err
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"tpe needs optuna: pip install topgraft\[tpe\]"):
        search(config_of(config), Space(GRIDS), tmp_path / "run", sampler="tpe")
