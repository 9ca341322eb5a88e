"""Which rows are open when, and that everything is a function of (seed, epoch)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tests.command import call, tensors
from tests.tiny import as_json
from trainers.config import Curriculum
from trainers.data.order import Order, competence, length_difficulty, rarity_difficulty

BUCKETS = np.repeat([8, 16, 32], [100, 60, 40])
DIFFICULTY = np.arange(200.0)
ONE_BUCKET = np.full(200, 8)  # with batches of 20, each batch is one of the ten parts of an epoch
SHUFFLED = np.random.default_rng(7).permutation(200)  # difficulty of each row, 0..199
PACED = Curriculum(difficulty="length", start=0.1, duration=0.5)


def drawn(order: Order, epoch: int) -> np.ndarray:
    return np.concatenate([rows for _, rows in order.epoch(epoch)])


def open_rows(batch: int, epochs: int) -> int:
    """Number of rows that are open in part `batch` of a run with `PACED`: N sqrt(t (1 - c0^2) + c0^2)."""
    t = min(1.0, batch / 10 / epochs / 0.5)
    return round(200 * math.sqrt(t * (1 - 0.1**2) + 0.1**2))


def test_competence_by_the_formula():
    c = Curriculum(difficulty="length", start=0.01, duration=1.0)
    for t in (0.0, 0.3, 1.0):
        assert competence(t, c) == pytest.approx(min(1, math.sqrt(t * (1 - 0.01**2) + 0.01**2)))
    linear = Curriculum(difficulty="length", pacing="linear", start=0.2, duration=0.5)
    assert [competence(t, linear) for t in (0, 0.25, 0.5, 0.9)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    root = Curriculum(difficulty="length", start=0.2, duration=0.5)
    assert [competence(t, root) for t in (0, 0.25, 0.5, 0.9)] == pytest.approx([0.2, math.sqrt(0.52), 1.0, 1.0])


def test_a_part_of_an_epoch_draws_from_its_open_rows():
    order = Order(ONE_BUCKET, 20, 0, 4, PACED, SHUFFLED)
    for epoch in range(4):
        for part, (_, rows) in enumerate(order.epoch(epoch)):
            count = open_rows(10 * epoch + part, 4)
            assert len(rows) == 20
            assert SHUFFLED[rows].max() < count, "rows of a higher rank are closed"
            assert np.unique(rows, return_counts=True)[1].max() == max(1, -(-20 // count))
            assert count < 60 or SHUFFLED[rows].max() > 0.6 * count, "rows up to the last open one take part"


def test_easy_rows_come_first_and_all_in_the_end():
    order = Order(BUCKETS, 8, 0, 4, PACED, DIFFICULTY)
    means = [drawn(order, epoch).mean() for epoch in range(4)]
    assert means[0] < means[1] < means[3]
    assert abs(means[3] - 99.5) < 12, "every row is as likely as another"
    assert drawn(order, 3).max() > 190
    assert len(np.unique(drawn(order, 0))) < 200
    for epoch in range(4):
        assert len(drawn(order, epoch)) == 200, "an epoch is N drawn examples"
        for bucket, rows in order.epoch(epoch):
            assert (BUCKETS[rows] == bucket).all()
            assert len(rows) <= 8
    early = np.concatenate([rows for _, rows in order.epoch(0)[:3]])
    assert early.max() < 200 * 0.5


def test_the_control_has_the_same_pacing_and_no_order():
    order = Order(ONE_BUCKET, 20, 0, 4, replace(PACED, control=True), SHUFFLED)
    opened: set[int] = set()
    for number in range(40):
        epoch, place = order.place(number)
        opened |= set(order.epoch(epoch)[place][1].tolist())
        assert len(opened) <= open_rows(number, 4), "what is open stays open, and no more"
        assert len(opened) > 0.6 * open_rows(number, 4) - 20
    early = np.concatenate([rows for _, rows in order.epoch(0)])
    assert abs(SHUFFLED[early].mean() - 99.5) < 25, "easy rows and hard ones"
    assert SHUFFLED[order.epoch(0)[0][1]].max() > 100


def test_random_subsets_are_others_in_each_epoch():
    order = Order(BUCKETS, 8, 0, 3, Curriculum(subset=0.25))
    sets = [set(drawn(order, epoch).tolist()) for epoch in range(3)]
    assert [len(s) for s in sets] == [50, 50, 50]
    assert [len(drawn(order, epoch)) for epoch in range(3)] == [50, 50, 50]
    assert all(len(a & b) < 30 for a, b in combinations(sets, 2)), "of 50 rows, 12 or 13 are the same by chance"


def test_without_a_curriculum_an_epoch_is_every_row_once():
    order = Order(BUCKETS, 8, 0, 2)
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(drawn(order, epoch)), np.arange(200))
        sizes = [len(rows) for _, rows in order.epoch(epoch)]
        assert sorted(sizes) == [4, 4, *[8] * 24], "100 = 12 x 8 + 4, 60 = 7 x 8 + 4, 40 = 5 x 8"
        assert [bucket for bucket, _ in order.epoch(epoch)] != sorted(bucket for bucket, _ in order.epoch(epoch))
    assert order.ends == (26, 52)
    assert Order(BUCKETS, 8, 0, 1.3).ends == (26, 34), "0.3 of 26 batches are 7.8"


@pytest.mark.parametrize("curriculum", [Curriculum(), Curriculum(difficulty="length"), Curriculum(subset=0.5)])
def test_any_batch_of_any_epoch_can_be_found_again(curriculum):
    difficulty = DIFFICULTY if curriculum.difficulty != "none" else None
    order, again, other = (Order(BUCKETS, 8, seed, 2.5, curriculum, difficulty) for seed in (3, 3, 4))
    lengths = [len(again.epoch(number)) for number in range(3)]
    assert order.ends == (lengths[0], lengths[0] + lengths[1], lengths[0] + lengths[1] + math.ceil(lengths[2] / 2))
    assert order.place(0) == (0, 0)
    assert order.place(order.ends[0] - 1) == (0, lengths[0] - 1)
    assert order.place(order.ends[0]) == (1, 0)
    assert order.place(order.ends[0] + 5) == (1, 5)
    for (bucket, left), (same, right) in zip(order.epoch(1), again.epoch(1), strict=True):
        assert bucket == same
        np.testing.assert_array_equal(left, right)
    for different in (order.epoch(0), other.epoch(1)):
        rows = np.concatenate([rows for _, rows in different])
        assert not np.array_equal(rows, drawn(order, 1)), "another epoch, or another seed"


def test_difficulties():
    rows = [np.array([1, 1, 1]), np.array([1, 2]), np.array([3])]
    assert length_difficulty(rows).tolist() == [3, 2, 1]
    p = {1: 4 / 6, 2: 1 / 6, 3: 1 / 6}
    wanted = [sum(-math.log(p[t]) for t in row.tolist()) for row in rows]
    np.testing.assert_allclose(rarity_difficulty(rows), wanted)


def test_every_difficulty_from_the_command_line(config, tmp_path, capsys):
    """Each trains, and on an order of its own."""
    for name in ("train", "test"):
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()
        body = [f"{line},{i % 7}" for i, line in enumerate(lines[1:])]
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0] + ",hard", *body]) + "\n")
    leaves = {}
    for difficulty in ("none", "length", "rarity", "probe_loss", "column"):
        settings = ["epochs=1", f"curriculum.difficulty={difficulty}", "data.difficulty=hard"]
        arguments = [part for setting in settings for part in ("--set", setting)]
        status, out, err = call("train", config, "--workdir", difficulty, *arguments, "--json", capsys=capsys)
        assert status == 0, err
        assert as_json(out)["metrics"]["test"]["accuracy"] > 0.8
        leaves[difficulty] = tensors(tmp_path / difficulty)["head.kernel"]
    for left, right in combinations(leaves, 2):
        assert not np.array_equal(leaves[left], leaves[right]), f"{left} and {right} give one order"


def test_a_difficulty_that_is_no_number(config, tmp_path, capsys):
    settings = ("--set", "curriculum.difficulty=column", "--set", "data.difficulty=text")
    status, _, err = call("train", config, "--workdir", "run", *settings, capsys=capsys)
    assert status == 2
    assert "is not a number" in err
    status, _, err = call("train", config, "--workdir", "run", *settings[:2], capsys=capsys)
    assert status == 2
    assert "column needs data.difficulty" in err
