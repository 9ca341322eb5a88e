"""The first lines of a run."""

from __future__ import annotations

import pytest

from adapters.specs import Classification, MultiLabel, Regression, TokenTagging
from tests.tiny import rows, write_csv
from trainers.config import Data, TrainConfig
from trainers.data import overview as overview_module
from trainers.data.examples import load_data
from trainers.data.overview import overview

CLASSES = Classification()


@pytest.fixture
def made(tiny, tmp_path):
    """Returns the overview of rows under a head."""

    def make(table, test=(), head=CLASSES, **settings):
        files = {"train": str(write_csv(tmp_path / "train.csv", list(table)))}
        if test:
            files["test"] = str(write_csv(tmp_path / "test.csv", list(test)))
        config = TrainConfig(data=Data(max_tokens=16, **files, **settings), head=head, metric=head.metrics[0])
        return overview(config, load_data(config.data, head, tiny))

    return make


def test_a_run_says_what_its_rows_are(made, tmp_path):
    table = rows(200, seed=3)
    some = made(table, rows(30, seed=4))
    assert sum(some.labels.values()) == 230
    assert some.lengths.cut > 0, "texts of 20 words are 22 tokens"
    assert not list(some.warnings())
    lines = list(some.lines())
    assert len(lines) == 6
    assert lines[0] == f"data: train {tmp_path / 'train.csv'} (csv, utf-8); test {tmp_path / 'test.csv'} (csv, utf-8)"
    assert lines[1] == "head: classification, scored by accuracy, text=text, label=label"
    assert lines[2].endswith("test 30 (dev: 10% of train, by hash)")
    assert lines[3].startswith("3 labels: class")
    assert lines[4].endswith(f"longest 16; max_tokens 16: {some.lengths.cut} cut")
    assert lines[5] == "copies: 1 text more than once, 0 in several splits, 0 contradicting"


def test_contradictions_and_rows_of_several_splits_are_warned_of(made):
    table = rows(100, seed=3)
    other = {"class0": "class1", "class1": "class2", "class2": "class0"}
    wrong = (table[0][0].upper(), other[table[0][1]])
    differing, across = made([*table, wrong], table[5:8]).warnings()
    assert differing.startswith("labels of equal texts differ: 1 (")
    assert "train.csv:102 " in differing
    assert across.startswith("equal texts in several splits, so scores are too high: 3 (")


@pytest.mark.parametrize(
    ("head", "labels", "conflicts"),
    [
        (MultiLabel(), ("a|b", "b|a"), 0),
        (MultiLabel(), ("a|b", "a"), 1),
        (TokenTagging(), ("O B-a", "B-a O"), 1),
        (TokenTagging(), ("O B-a", "O B-a"), 0),
    ],
)
def test_labels_in_another_order_contradict_where_their_order_says_something(head, labels, conflicts, made):
    others = [(f"ban {word}", labels[0]) for word in ("bas", "bal", "bar")]
    some = made([*[("Ban ban", label) for label in labels], *others], head=head, dev_fraction=0)
    assert [group.conflict for group in some.copies] == [bool(conflicts)]


def test_a_development_file_of_ones_own_is_no_share_of_train(made, tmp_path):
    dev = write_csv(tmp_path / "dev.csv", rows(20, seed=8))
    some = made(rows(60, seed=7), dev=str(dev), dev_fraction=0.25)
    assert (some.rows, some.share) == ({"train": 60, "dev": 20}, 0.0)
    assert list(some.lines())[2] == "rows: train 60, dev 20"


def test_many_labels_take_one_line(made):
    table = [(text, f"label{i % 20:02}") for i, (text, _) in enumerate(rows(205, seed=5))]
    line = list(made(table).lines())[3]
    assert line.startswith("20 labels: label00 11, ")
    assert line.endswith(" and 12 more, down to 10")


def test_numbers_have_a_range(made):
    some = made([(text, str(i / 4)) for i, (text, _) in enumerate(rows(40, seed=6))], head=Regression(), dev_fraction=0)
    assert some.labels == {}
    assert "numbers: 0 to 9.75" in list(some.lines())
    assert some.rows == {"train": 40}


def test_copies_are_sought_among_the_first_rows(made, monkeypatch):
    monkeypatch.setattr(overview_module, "MAX_ROWS", 50)
    some = made(rows(60, seed=3) * 2)
    assert some.limited
    assert "copies among the first 50 rows: " in list(some.lines())[-1]
    monkeypatch.setattr(overview_module, "MAX_ROWS", 120)
    assert not made(rows(60, seed=3) * 2).limited, "all of them were compared"
