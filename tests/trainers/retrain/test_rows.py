"""Rows of two trainings: their changes, and how they are kept."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainers.data.rows import LabelledRow
from trainers.retrain.lineage import Changes
from trainers.retrain.rows import changes, hashed, load_rows, rows_file, save_rows

PAIRS = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")), max_size=12)


def split(pairs):
    return hashed({"train": [LabelledRow(text, (label,), "") for text, label in pairs]})[0]["train"]


@given(PAIRS, PAIRS)
def test_changes_are_the_least_edits_between_two_multisets(old, new):
    """By text: what is on both sides with other labels is relabelled, the rest added or removed."""
    expected = Counter()
    for text in "abcdef":
        before = Counter(label for t, label in old if t == text)
        after = Counter(label for t, label in new if t == text)
        gone, come = sum((before - after).values()), sum((after - before).values())
        expected["relabelled"] += min(gone, come)
        expected["removed"] += max(0, gone - come)
        expected["added"] += max(0, come - gone)
    found = changes(split(old), split(new))
    assert found == Changes(expected["added"], expected["removed"], expected["relabelled"])
    assert len(old) + found.added - found.removed == len(new)


def test_rows_are_kept_without_text_and_damage_counts_as_missing(tmp_path):
    table = [LabelledRow("a secret", ("x", "y"), ""), LabelledRow("another ☃", (), "")]
    rows, prints = hashed({"train": table, "dev": table[:1]})
    save_rows(tmp_path, rows, prints)
    again = load_rows(tmp_path, prints)
    assert again is not None
    assert again["train"].pairs == rows["train"].pairs
    assert again["train"].label_counts == {"x": 1, "y": 1}
    assert changes(again["train"], rows["train"]).total == 0
    path = rows_file(tmp_path, prints)
    assert b"secret" not in path.read_bytes()
    path.write_bytes(path.read_bytes()[:-30])
    assert load_rows(tmp_path, prints) is None
    assert load_rows(tmp_path, prints) is None
