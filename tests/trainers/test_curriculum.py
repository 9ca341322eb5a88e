"""Which rows are open when, and that everything is a function of (seed, epoch)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tiny import as_json
from tests.trainers.test_main import call
from tests.trainers.test_main import config as config
from trainers.config import Curriculum
from trainers.data.order import Order, competence, length_difficulty, rarity_difficulty

BUCKETS = np.repeat([8, 16, 32], [100, 60, 40])
DIFFICULTY = np.arange(200.0)


def drawn(order: Order, epoch: int) -> np.ndarray:
    return np.concatenate([rows for _, rows in order.epoch(epoch)])


def test_competence_by_the_formula():
    c = Curriculum(difficulty="length", start=0.01, duration=1.0)
    for t in (0.0, 0.3, 1.0):
        assert competence(t, c) == pytest.approx(min(1, math.sqrt(t * (1 - 0.01**2) + 0.01**2)))
    linear = Curriculum(difficulty="length", pacing="linear", start=0.2, duration=0.5)
    assert [competence(t, linear) for t in (0, 0.25, 0.5, 0.9)] == pytest.approx([0.2, 0.6, 1.0, 1.0])


def test_easy_rows_come_first_and_all_in_the_end():
    order = Order(BUCKETS, 8, 0, 4, Curriculum(difficulty="length", start=0.1, duration=0.5), DIFFICULTY)
    means = [drawn(order, epoch).mean() for epoch in range(4)]
    assert means[0] < means[1] < means[3]
    assert sorted(drawn(order, 3)) == sorted(drawn(order, 3))
    assert len(np.unique(drawn(order, 0))) < 200
    for epoch in range(4):
        assert len(drawn(order, epoch)) == 200, "an epoch is N drawn examples"
        for bucket, rows in order.epoch(epoch):
            assert (BUCKETS[rows] == bucket).all()
    early = np.concatenate([rows for _, rows in order.epoch(0)[:3]])
    assert early.max() < 200 * 0.5


def test_the_control_has_the_same_pacing_and_no_order():
    curriculum = Curriculum(difficulty="length", start=0.1, duration=0.5, control=True)
    order = Order(BUCKETS, 8, 0, 4, curriculum, DIFFICULTY)
    ours = Order(BUCKETS, 8, 0, 4, Curriculum(difficulty="length", start=0.1, duration=0.5), DIFFICULTY)
    assert abs(drawn(order, 0).mean() - 100) < 20
    counts = [len(np.unique(drawn(o, 0))) for o in (order, ours)]
    assert abs(counts[0] - counts[1]) <= 10


def test_random_subsets_are_others_in_each_epoch():
    order = Order(BUCKETS, 8, 0, 3, Curriculum(subset=0.25))
    sets = [set(drawn(order, epoch).tolist()) for epoch in range(3)]
    assert [len(s) for s in sets] == [50, 50, 50]
    assert sets[0] != sets[1] != sets[2]


@pytest.mark.parametrize("curriculum", [Curriculum(), Curriculum(difficulty="length"), Curriculum(subset=0.5)])
def test_any_batch_of_any_epoch_can_be_found_again(curriculum):
    difficulty = DIFFICULTY if curriculum.difficulty != "none" else None
    order = Order(BUCKETS, 8, 3, 2.5, curriculum, difficulty)
    again = Order(BUCKETS, 8, 3, 2.5, curriculum, difficulty)
    assert len(order.ends) == 3
    assert order.ends[:2] == tuple(np.cumsum([len(again.epoch(0)), len(again.epoch(1))]))
    assert order.place(0) == (0, 0)
    assert order.place(order.ends[0]) == (1, 0)
    assert order.place(order.ends[0] + 5) == (1, 5)
    for (_, left), (_, right) in zip(order.epoch(1), again.epoch(1), strict=True):
        np.testing.assert_array_equal(left, right)


def test_difficulties():
    rows = [np.array([1, 1, 1]), np.array([1, 2]), np.array([3])]
    assert length_difficulty(rows).tolist() == [3, 2, 1]
    p = {1: 4 / 6, 2: 1 / 6, 3: 1 / 6}
    wanted = [sum(-math.log(p[t]) for t in row.tolist()) for row in rows]
    np.testing.assert_allclose(rarity_difficulty(rows), wanted)


@pytest.mark.parametrize("difficulty", ["rarity", "probe_loss", "column"])
def test_every_difficulty_from_the_command_line(difficulty, config, tmp_path, capsys):
    settings = ["epochs=1", f"curriculum.difficulty={difficulty}"]
    if difficulty == "column":
        for name in ("train", "test"):
            lines = (tmp_path / f"{name}.csv").read_text().splitlines()
            body = [f"{line},{i % 7}" for i, line in enumerate(lines[1:])]
            (tmp_path / f"{name}.csv").write_text("\n".join([lines[0] + ",hard", *body]) + "\n")
        settings.append("data.difficulty=hard")
    arguments = [part for setting in settings for part in ("--set", setting)]
    status, out, err = call("train", config, "--workdir", "run", *arguments, "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"]["test"]["accuracy"] > 0.8


def test_a_difficulty_that_is_no_number(config, tmp_path, capsys):
    settings = ("--set", "curriculum.difficulty=column", "--set", "data.difficulty=text")
    status, _, err = call("train", config, "--workdir", "run", *settings, capsys=capsys)
    assert status == 2
    assert "is not a number" in err
    status, _, err = call("train", config, "--workdir", "run", *settings[:2], capsys=capsys)
    assert status == 2
    assert "column needs data.difficulty" in err
