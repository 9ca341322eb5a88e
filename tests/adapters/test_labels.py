"""The spelling of labels and the reading of cells: one rule each, every decision by example."""

from __future__ import annotations

import math
import unicodedata
from decimal import Decimal

import numpy as np
import pytest

from adapters.heads.columns import OneLabel, SeveralLabels, Tags, label_name, unknown_labels
from adapters.heads.hot_vectors import HotVectors, ListedLabels
from adapters.labels.cells import as_number, as_parts, binary_digits, listed
from adapters.labels.spelling import Spellings, spelling, spelt
from backbone.errors import InputError
from trainers.config import Data

NAMES = Data(label_names=("shipping", "payment", "account"))


@pytest.mark.parametrize(
    ("label", "cells"),
    [
        (
            "payment",
            ("payment", "payment ", "\tpayment\r\n", "\u00a0payment\u3000", "\ufeffpayment", "\u200bpayment\u2060"),
        ),
        ("late parcel", ("late  parcel", "late\u2003parcel", "late\n parcel", "late \u200b parcel", b"late parcel")),
        ("caf\u00e9", ("cafe\u0301", "caf\u00e9")),
        ("0", (0, 0.0, -0.0, "0", "0.0", "-0.0", np.int8(0), np.float32(0), np.array(0), Decimal("0.00"))),
        ("1", (1, 1.0, "1", "1.0", " 1 ", np.uint8(1), np.float64(1), Decimal("1.0"), b"1")),
        ("-2", (-2, -2.0, "-2", "-2.0")),
        ("0.5", (0.5, "0.5", np.float64(0.5), Decimal("0.50"))),
        ("1000000", (10**6, 1e6, Decimal("1E+6"))),
        ("True", (True, np.bool_(True), "True")),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", ("\U0001f468\u200d\U0001f469\u200d\U0001f467",)),
        ("", (None, math.nan, np.float32("nan"), Decimal("nan"), "", " \u00a0\u200b", b"")),
    ],
)
def test_cells_of_one_label(label, cells):
    assert {spelling(cell) for cell in cells} == {label}
    assert unicodedata.is_normalized("NFC", label)
    assert not label or spelling(label) == label, "a normal form is its own"


def test_labels_that_stay_apart():
    apart = ["7", "007", "1.1", "1.10", "1.00", "spam", "Spam", "\uff53pam", "sp\u0430m", "+1", "1e0", "true", "1,0"]
    assert [spelling(text) for text in apart] == apart


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (math.inf, "f:1: label: inf is no label"),
        ("a\0b", "f:1: label: the label 'a.x00b' holds a NUL"),
        (b"\xff", "f:1: label: .* is not valid UTF-8"),
    ],
)
def test_cells_that_no_label_can_be(cell, message):
    with pytest.raises(InputError, match=message):
        spelling(cell, "label", "f:1")


def test_names_in_a_config_have_the_same_form():
    assert Data(label_names=("no ", "yes"), keep_labels=("yes\u00a0",)).label_names == ("no", "yes")
    assert Data(keep_labels=("1.0",)).keep_labels == ("1",)
    with pytest.raises(InputError, match=r"label_names: 'no' and 'no ' are one label; leave one out"):
        Data(label_names=("no", "no "))
    with pytest.raises(InputError, match="names: ' ' is no name"):
        spelt((" ",), "names")


def test_numbers_and_booleans_of_named_classes():
    two = Data(label_names=("no", "yes"))
    assert [label_name(cell, two, "f:1") for cell in (1, 1.0, "1.0", True, "True", "yes ")] == ["yes"] * 6
    assert [label_name(cell, two, "f:1") for cell in (0, np.False_, "no")] == ["no"] * 3
    assert label_name("True", Data(label_names=("True", "False")), "f:1") == "True", "a name goes before a number"
    for cell in (True, "\u0662", "-1", 1.5, "3"):
        with pytest.raises(InputError, match=r"f:1: label: .* is not 0\.\.2 of data.label_names"):
            label_name(cell, NAMES, "f:1")


def test_spellings_are_counted_and_look_alikes_named():
    tally = Spellings()
    cells = {"payment": 30, "payment ": 10, "Spam": 2, "spam": 1, "s\u00adpam": 1, "\uff53pam": 1, "late ": 3}
    for cell, count in (cells | {"nan": 1, "NULL": 1, "<NA>": 1}).items():
        for _ in range(count):
            tally.add(spelling(cell), cell)
    late, odd = tally.several()
    assert (odd.label, odd.rows) == ("payment", {"payment": 30, "payment ": 10})
    assert str(odd) == "'payment' (30 rows), 'payment ' (10 rows): one label, 'payment'"
    assert (late.label, late.rows) == ("late", {"late ": 3}), "never written as it is named"
    assert tally.alike() == (("Spam", "spam", "s\u00adpam", "\uff53pam"),)
    assert tally.missing() == ("<NA>", "NULL", "nan")


def test_labels_that_are_others_with_a_separator_between():
    for mark in "|,;":
        tally = Spellings()
        for label in ("a", f"a{mark}b", f"b{mark} c", f"c{mark}a", "c", f"food{mark} drink", "drink", f"{mark}a"):
            tally.add(label, label)
        assert tally.joined() == (f"a{mark}b", f"b{mark} c", f"c{mark}a")
        assert f"food{mark} drink" in tally.joined(several=True), "one part is a label, and rows have several"


def test_a_graft_of_a_former_version_keeps_its_names():
    column = OneLabel()
    names = ("0.0", "1.0", "payment ")
    assert column.encode([("1",), ("payment",), ("0",)], names, ["f:1"] * 3).tolist() == [1, 2, 0]
    assert unknown_labels([("1",), ("2",), ("2",)], names) == {"2": 2}


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a"]', ["a"]),
        ("('a',)", ["a"]),
        ("{'a', 'b'}", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("['a'\n 'b']", ["a", "b"]),
        ("['it\\'s', \"x\"]", ["it's", "x"]),
        ("[1 0 1]", [1, 0, 1]),
        ("[1. 0.]", [1.0, 0.0]),
        ("[True, False]", [True, False]),
        ("[]", []),
        ('{"a": 1, "b": 0}', {"a": 1, "b": 0}),
        ("{'a': 1}", {"a": 1}),
    ],
)
def test_lists_that_are_written_out(text, items):
    assert listed(f" {text}\n", "label", "f:1") == items


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "[UNK]", "(1)", "[007]", "[a]|[b]", "[a, b]", "['a'", "[1,,0]", "[x]y"),
        *("['a', 'b' 'c']", "[1, 0 1]"),  # Python would read 'b' 'c' as one text
    ],
)
def test_texts_that_are_no_list(text):
    assert listed(text, "label", "f:1") is None


def test_a_vector_may_have_blanks_around_it():
    assert binary_digits("\u00a01 0,1;0\n") == ["1", "0", "1", "0"]
    assert binary_digits("1") is binary_digits("1 2") is None


def test_a_key_that_stands_twice():
    for text in ('{"a": 1, "a": 0}', "{'a': 1, 'a': 0}"):
        with pytest.raises(InputError, match="f:1: label: the key 'a' stands twice"):
            listed(text, "label", "f:1")


@pytest.mark.parametrize(
    "cell",
    [
        "shipping|account",
        "shipping |account ",
        ["shipping", "account"],
        ("shipping", "account"),
        np.array(["shipping", "account"]),
        "['shipping', 'account']",
        '["shipping", "account"]',
        "['shipping' 'account']",
        {"shipping": 1, "payment": 0, "account": True},
        '{"shipping": 1, "payment": 0, "account": 1}',
        [("shipping", 1), ("payment", 0), ("account", 1)],
        [0, 2],
        "[0, 2]",
        "0|2",
    ],
)
def test_several_labels_in_every_spelling(cell):
    assert SeveralLabels().parse(cell, NAMES, "f:1") == ("shipping", "account")


@pytest.mark.parametrize("separator", ["|", ",", " "])
def test_a_list_as_text_is_no_text_to_be_split(separator):
    data = Data(label_separator=separator)
    assert SeveralLabels().parse("['late, again', 'payment']", data, "f:1") == ("late, again", "payment")
    assert SeveralLabels().parse("[]", data, "f:1") == SeveralLabels().parse(None, data, "f:1") == ()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "[shipping, account]",
            r"looks like a list, but is none \(quotes and brackets that end\); write labels with '|'",
        ),
        ("['shipping', 'account'", "looks like a list"),
        ('["shipping", "acc', "looks like a list"),
        ("{shipping,account}", "looks like a list"),
        ("[['shipping']]", "looks like a list"),
        ("array(['shipping'], dtype=object)", "looks like a list"),
        ([["shipping"]], r"expected a list of labels, got \[\['shipping'\]\]"),
        ({"shipping": 0.7}, "'shipping' has the value 0.7; a dictionary of labels holds 0 and 1"),
        ([0.2, 0.8, 0.1], r"\[0.2, 0.8, 0.1\] holds numbers with a point, which name no labels"),
        ([2.0], "holds numbers with a point"),
        ([1, 0, 1], "looks like a vector of 0 and 1, but the first rows hold lists"),
        (["shipping", None], "no label"),
        ([3], r"'3' is not 0\.\.2"),
    ],
)
def test_cells_that_are_no_labels(cell, message):
    with pytest.raises(InputError, match=f"^f:1: label: .*{message}"):
        SeveralLabels().parse(cell, NAMES, "f:1")


@pytest.mark.parametrize(
    "cell", [["a", "b"], "['a', 'b']", '["a", "b"]', {"a": 1}, np.array([0, 1, 0]), [0, 1, 0], "{'a', 'b'}"]
)
def test_one_label_is_no_list(cell):
    with pytest.raises(InputError, match=r"f:1: label: a list of labels needs head\.kind=multi_label, got "):
        OneLabel().parse(cell, Data(), "f:1")
    assert OneLabel().parse(["a "], Data(), "f:1") == OneLabel().parse("['a']", Data(), "f:1") == ("a",)


def settled(cells, data=NAMES):
    places = [(cell, f"f:{number}") for number, cell in enumerate(cells, 1)]
    column = SeveralLabels().settled(places, data)
    return type(column), [column.parse(cell, data, where) for cell, where in places]


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda x: np.array(x, float), str, lambda x: "|".join(map(str, x))]
)
def test_vectors_are_read_by_all_cells_of_a_split(kind):
    cells = [kind([1, 0, 1]), kind([0, 0, 0]), kind([0, 1, 0])]
    assert settled(cells) == (HotVectors, [("shipping", "account"), (), ("payment",)])
    assert settled(["1 0 1", "0;0;1"])[1] == settled(["1, 0, 1", "0,0,1"])[1] == [("shipping", "account"), ("account",)]
    booleans = [[True, False, True], [False, False, True]]
    assert settled(booleans) == (HotVectors, [("shipping", "account"), ("account",)])


def test_short_vectors():
    two, one = Data(label_names=("a", "b")), Data(label_names=("a",))
    assert settled([[0, 1], [1, 0]], two) == (HotVectors, [("b",), ("a",)])
    assert settled([[0, 1], [1]], two) == (ListedLabels, [("a", "b"), ("b",)])
    assert settled([1, 0, 1], one) == (HotVectors, [("a",), (), ("a",)])
    with pytest.raises(InputError, match=r"f:1: label: \[0, 1\] in every row may be two labels or a vector"):
        settled([[0, 1], [0, 1]], two)


@pytest.mark.parametrize(
    ("cells", "data", "message"),
    [
        ([[1, 0, 1]], Data(), r"f:1: .* looks like a vector of 0 and 1 for 3 labels; name them in data.label_names"),
        ([[1, 0, 1, 1]], NAMES, r"f:1: .* for 4 labels; name them in data.label_names, which holds 3"),
        ([[0, 1], [0, 1, 1]], NAMES, r"f:1: .*\[0, 1\] is no vector of 3 values 0 or 1, but f:2 holds one"),
        ([[0, 0, 1], ["payment"]], NAMES, r"f:2: .*\['payment'\] is no vector of 3 values"),
        ([[0, 0, 1], [2]], NAMES, r"f:2: .*\[2\] is no vector"),
        ([[0, 0, 1], []], NAMES, r"f:2: .*\[\] is no vector of 3 values 0 or 1, as in other rows"),
        ([[0.0, 0.5, 1.0]], NAMES, r"f:1: .* holds numbers with a point"),
    ],
)
def test_cells_that_contradict_each_other(cells, data, message):
    with pytest.raises(InputError, match=message):
        settled(cells, data)


def test_tags_as_lists_and_text():
    for cell in ("O B-x", ["O", "B-x "], "['O', 'B-x']", np.array(["O", "B-x"]), '["O", "B-x"]', "['O' 'B-x']"):
        assert Tags().parse(cell, Data(), "f:1") == ("O", "B-x")
    assert as_parts("[1] is cited", "text", "f:1") == ["[1]", "is", "cited"]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("3", 3.0),
        (" 3 ", 3.0),
        ("\ufeff-1.5\u00a0", -1.5),
        ("2e1", 20.0),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("007", 7.0),
        (b"4", 4.0),
        (7, 7.0),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array(3), 3.0),
        (Decimal("1.25"), 1.25),
        ("1e-400", 0.0),
    ],
)
def test_numbers(value, number):
    assert as_number(value, "score", "f:1") == number


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        *((value, "") for value in ("", " ", "1_000", "0x10", "1e400", "-1e400", "nan", "inf", "Infinity", "four")),
        *((value, "") for value in ("\u0663", "\uff13", "3%", "$3", "1 000", "--3", "1e", ".", "\u22123", b"nan")),
        *((value, "") for value in (None, math.nan, math.inf, Decimal("nan"), Decimal("sNaN"), 10**400, 1j, [3])),
        ("3,5", "; write a point for decimals, and nothing between thousands"),
        ("1,000", "; write a point for decimals"),
        (True, "; write 0 or 1"),
        (np.True_, "; write 0 or 1"),
        ("True", ""),
    ],
)
def test_what_is_no_number(value, hint):
    with pytest.raises(InputError, match=f"^f:1: score: .* is not a number{hint}"):
        as_number(value, "score", "f:1")
