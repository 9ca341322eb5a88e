"""Whether the first line of a table names its columns."""

from __future__ import annotations

import pytest

from backbone.errors import InputError
from trainers.config import Data
from trainers.data.headers import without_header
from trainers.data.rows import entries

TEXTS = [f"we saw it at last in the old town number {i}" for i in range(40)]


def verdict(path, lines, text="", label=""):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = Data(train=(str(path),), text=text, label=label)
    group = next(entries(data, "train"))
    first = group.format.first_line(group.names[0], data.read_settings("train", {}))
    return without_header(data, group, first)


def rows(*labels: str, between: str = "\t") -> list[str]:
    return [f"{labels[i % len(labels)]}{between}{text}" for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        ("a.tsv", rows("1", "0"), "1 stands in a column of numbers"),
        ("a.tsv", rows("2.5", "4.75", "3.2"), "2.5 stands in a column of numbers"),
        ("a.csv", rows("ham", "spam", between=","), "'ham' comes back below"),
        ("a.tsv", rows("spam", "ham"), "'spam' comes back below"),  # although it is a usual name of a column
        ("a.tsv", [f"{line}\t" for line in rows("gj04\t1\t", "cj99\t0\t*")], "'gj04' comes back below"),
        ("a.tsv", [*rows("yes", "no"), rows("yes")[0]], "'yes' comes back below"),  # the first row is there twice
    ],
)
def test_a_row_in_the_first_line_is_known_by_its_label(name, lines, reason, tmp_path):
    bare = verdict(tmp_path / name, lines)
    assert bare is not None
    assert reason in bare.reason
    assert bare.columns[:2] == ("column1", "column2")


@pytest.mark.parametrize(
    "header", ["label\ttext", "mood\twords", "spam\tbody", "0\t1", "How happy were you with us at all today?\tWhy so?"]
)
@pytest.mark.parametrize("labels", [("good", "bad"), ("1", "0")])
def test_names_are_a_header(header, labels, tmp_path):
    assert verdict(tmp_path / "a.tsv", [header, *rows(*labels)]) is None


def test_a_header_that_is_repeated_does_not_vouch_for_itself(tmp_path):
    assert verdict(tmp_path / "a.tsv", ["mood\twords", *rows("good", "bad"), "mood\twords"]) is None


def test_a_single_cell_below_says_nothing_about_a_name(tmp_path):
    assert verdict(tmp_path / "a.tsv", ["mood\twords", *rows("good", "bad"), "good\twords"]) is None
    assert verdict(tmp_path / "a.tsv", ["mood\t2020", *rows("good", "bad"), "good\t2019"]) is None


def test_a_first_line_that_may_be_either_is_refused_with_both_remedies(tmp_path):
    lines = [f"{text} and once more\tlabel of its own {i}" for i, text in enumerate(TEXTS)]
    with pytest.raises(InputError, match=r"data\.columns=column1,column2.*--set data\.text=NAME"):
        verdict(tmp_path / "a.tsv", lines)


def test_names_that_a_person_sets_decide(tmp_path):
    lines = ["2020\tmood", *rows("1", "0")]
    assert verdict(tmp_path / "a.tsv", lines) is not None
    assert verdict(tmp_path / "a.tsv", lines, label="2020") is None
    assert verdict(tmp_path / "a.tsv", ["mood\twords", *rows("good", "bad")], label="column1") is not None


def test_only_tables_of_text_have_a_header(tmp_path):
    assert verdict(tmp_path / "a.jsonl", ['{"1": "a text", "0": "1"}'] * 4) is None
