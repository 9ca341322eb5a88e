"""Rows that say the same."""

from __future__ import annotations

from trainers.data.copies import Copies, Placed, copies_in


def test_contradictions_come_first_and_then_copies_across_parts():
    rows = [
        Placed("a.csv", "One text", ("x",), "a.csv:2"),
        Placed("a.csv", "another", ("x",), "a.csv:3"),
        Placed("a.csv", "one  TEXT ", ("x",), "a.csv:4"),
        Placed("b.csv", "another", ("x",), "b.csv:2"),
        Placed("a.csv", "third", ("x", "y"), "a.csv:5"),
        Placed("a.csv", "\uff54hird", ("y",), "a.csv:6"),
        Placed("a.csv", "alone", ("y",), "a.csv:7"),
    ]
    assert copies_in(rows) == (
        Copies(("a.csv:5", "a.csv:6"), ("x|y", "y"), across=False, conflict=True),
        Copies(("a.csv:3", "b.csv:2"), ("x", "x"), across=True, conflict=False),
        Copies(("a.csv:2", "a.csv:4"), ("x", "x"), across=False, conflict=False),
    )
    assert str(copies_in(rows)[0]) == "a.csv:5 x|y, a.csv:6 y"
