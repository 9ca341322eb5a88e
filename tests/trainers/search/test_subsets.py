"""Subsets as a field of a space: each beside a random one of its size, and as `train` would choose its rows."""

from __future__ import annotations

import pytest

from tests.trainers.search.searches import config_of
from trainers.search.run import search
from trainers.search.show import table
from trainers.search.space import Space
from trainers.train import train


def test_a_search_compares_a_subset_with_a_random_one_of_its_size(config, tmp_path):
    grid = {"adapter.method": ("probe",), "plan.stages": ("all",), "subset.method": ("kcentre",)}
    space = Space(grids=({**grid, "subset.share": (0.1, 0.5)},))
    result = search(config_of(config), space, tmp_path / "run")
    scores = {(one.settings["subset.method"], one.settings["subset.share"]): one for one in result.candidates}
    assert scores.keys() == {("kcentre", "0.1"), ("kcentre", "0.5"), ("random", "0.1"), ("random", "0.5")}
    for share in ("0.1", "0.5"):
        chosen, control = scores["kcentre", share], scores["random", share]
        assert chosen.over_random == pytest.approx(chosen.score - control.score)
        assert control.over_random is None
    assert "over random" in table(result)
    assert result.rows_computed <= 240, "subsets share the states of all rows"
    settings = [f"{name}={value}" for name, value in scores["kcentre", "0.1"].settings.items()]
    alone = train(config_of(config, *settings), tmp_path / "alone", judged_on_dev=True)
    assert alone.metrics["dev"]["accuracy"] == pytest.approx(scores["kcentre", "0.1"].score, abs=1e-9)
