"""The roles of columns: text, label, pair and head."""

from __future__ import annotations

import pytest

from backbone.errors import InputError
from trainers.data.columns import Roles, Stated, described, roles_of, splits_in

N = 40
TEXTS = [f"a sentence of words with number{i} in it" for i in range(N)]
OTHERS = [f"another sentence of words with word{i} here" for i in range(N)]


def roles(**table) -> Roles:
    return roles_of(table, described(table), "rows.csv")


@pytest.mark.parametrize(
    ("label", "cells", "kind"),
    [
        ("kind", [("a", "b", "c")[i % 3] for i in range(N)], "classification"),
        ("label", [str(i % 2) for i in range(N)], "classification"),
        ("y", [f"{i / 7:.3f}" for i in range(N)], "regression"),
        ("price", [f"{i / 7:.3f}" for i in range(N)], "regression"),  # a number that never comes back, but is no id
        ("grade", [str(i % 20) for i in range(N)], "classification"),
        ("grade", [str(i % 21) for i in range(N)], "regression"),  # more of them than half the rows
        ("city", [("York, NY", "Boston, MA", "Austin, TX", "Reno, NV")[i % 4] for i in range(N)], "classification"),
        ("colour", ["red", "blue"] * (N // 2 - 1) + ["red", "red,blue"], "classification"),  # one cell is no rule
        ("topics", [["x", "y"][: i % 3] for i in range(N)], "multi_label"),
        ("topics", [("red|blue", "red", "green|red", "blue|green")[i % 4] for i in range(N)], "multi_label"),
        ("slots", [("O O B-city I-city", "B-day O O O")[i % 2] for i in range(N)], "token_tagging"),
    ],
)
def test_the_label_says_the_head(label, cells, kind):
    chosen = roles(id=[str(1000 + i) for i in range(N)], text=TEXTS, **{label: cells})
    assert (chosen.text, chosen.label, chosen.kind) == ("text", label, kind)


def test_ids_dates_constants_addresses_and_confidences_are_no_labels():
    chosen = roles(
        id=[f"q{i}" for i in range(N)],
        created=[f"2024-01-{1 + i % 28:02}" for i in range(N)],
        source=["web"] * N,
        url=[f"https://a.example/{i % 4}" for i in range(N)],
        mood=["good", "bad"] * (N // 2),
        mood_confidence=[f"{1 / (1 + i % 9):.2f}" for i in range(N)],
        note=["", "x", "", "y"] * (N // 4),
        body=TEXTS,
    )
    assert (chosen.text, chosen.label, chosen.kind) == ("body", "mood", "classification")


@pytest.mark.parametrize(
    ("first", "second"), [("sentence1", "sentence2"), ("premise", "hypothesis"), ("text_a", "text_b")]
)
def test_pairs_are_known_by_their_names(first, second):
    chosen = roles(**{second: OTHERS, first: TEXTS, "label": ["yes", "no"] * (N // 2)})
    assert (chosen.text, chosen.text_pair) == (first, second)


def test_two_possible_labels_are_refused_with_the_setting_for_each():
    with pytest.raises(
        InputError, match=r"could be the label.*data\.label='mood' \(good, bad\) or --set data\.label='team' \(a, b\)"
    ):
        roles(text=TEXTS, mood=["good", "bad"] * (N // 2), team=["a", "a", "b", "b"] * (N // 4))


def test_two_possible_texts_are_refused():
    with pytest.raises(InputError, match=r"2 columns could be the text.*data\.text='one'"):
        roles(one=TEXTS, two=OTHERS, label=["a", "b"] * (N // 2))


def test_a_number_and_a_name_of_one_class_are_one_label():
    chosen = roles(text=TEXTS, label=[0, 1] * (N // 2), label_text=["no", "yes"] * (N // 2))
    assert chosen.label == "label_text"


def test_names_that_nobody_chose_make_no_pair():
    table = {"column1": TEXTS, "column2": OTHERS, "column3": ["a", "b"] * (N // 2)}
    with pytest.raises(InputError, match="2 columns could be the text"):
        roles_of(table, described(table), "rows.tsv", named=False)
    chosen = roles_of(table, described(table), "rows.tsv", Stated(text="column2", text_pair="column1"), named=False)
    assert (chosen.text, chosen.text_pair, chosen.label) == ("column2", "column1", "column3")


def test_a_second_text_that_is_named_is_one_beside_any_text():
    table = {"one": TEXTS, "two": OTHERS, "label": ["a", "b"] * (N // 2)}
    chosen = roles_of(table, described(table), "rows.csv", Stated(text_pair="two"))
    assert (chosen.text, chosen.text_pair) == ("one", "two")


def test_texts_without_blanks_are_texts():
    texts = [f"我们在这里等了{i}天才收到信用卡，非常失望" for i in range(N)]
    chosen = roles(text=texts, label=["信用卡", "汇率"] * (N // 2), city=["北京"] * N)
    assert (chosen.text, chosen.label, chosen.kind) == ("text", "label", "classification")


def test_lists_of_tags_are_tags_whatever_their_column_is_called():
    words, tags = [["Ada", "in", f"Rome{i}"] for i in range(N)], [["B-PER", "O", "B-LOC"]] * (N - 1) + [["O", "O", "O"]]
    chosen = roles(tokens=words, tags=tags)
    assert (chosen.text, chosen.label, chosen.kind) == ("tokens", "tags", "token_tagging")
    chosen = roles(tokens=list(map(str, words)), tags=list(map(str, tags)))
    assert (chosen.text, chosen.label, chosen.kind) == ("tokens", "tags", "token_tagging"), "written out as text"


def test_several_columns_of_flags_are_refused_rather_than_one_of_them_taken():
    flags = {name: [str(i // 2**k % 2) for i in range(N)] for k, name in enumerate(("toxic", "severe_toxic", "threat"))}
    with pytest.raises(InputError, match="3 columns of 0 and 1 could be the label"):
        roles(text=TEXTS, **flags)
    assert roles(text=TEXTS, label=["a", "b"] * (N // 2), **flags).label == "label"
    assert roles(text=TEXTS, toxic=flags["toxic"], threat=flags["threat"]).label == "toxic"


def test_a_column_of_splits_is_known_by_its_values():
    table = {"text": TEXTS, "mood": ["good", "bad"] * (N // 2), "part": ["train"] * 30 + ["Test"] * 10}
    chosen = roles_of(table, described(table), "rows.csv")
    assert (chosen.label, splits_in(table)) == ("mood", {"part": ("train", "test")})
    assert splits_in({**table, "part": ["train"] * N}) == splits_in(table, ["part"]) == {}
