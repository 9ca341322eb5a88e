"""The nearest names among many tasks, at a bounded cost."""

from __future__ import annotations

import difflib

import pytest

from serving.names import BESIDE, Names

MANY = [f"team-{number % 40}-intent-classifier-{number:05d}" for number in range(10_000)]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("team-1-intent-clasifier-00041", "team-1-intent-classifier-00041"),
        ("taem-1-intent-classifier-00041", "team-1-intent-classifier-00041"),
        ("team-39-intent-classifier-0999", "team-39-intent-classifier-09999"),
        ("Team-7-intent-classifier-00007", "team-7-intent-classifier-00007"),
    ],
)
def test_one_slip_is_found_among_ten_thousand(wrong, meant):
    said = Names(MANY).nearest(wrong)
    assert said.startswith("nearest: ")
    assert meant in said
    assert said.endswith("(10000 tasks are served)")


def test_the_work_is_bounded(monkeypatch):
    compared = []
    original = difflib.get_close_matches
    monkeypatch.setattr(
        difflib,
        "get_close_matches",
        lambda name, names, **more: compared.append(names) or original(name, names, **more),
    )
    names = Names(MANY)
    names.nearest("team-1-intent-classifier-99000")
    names.nearest("x" * 1_000_000)  # near to nothing: not compared at all
    assert len(compared) == 1
    assert len(compared[0]) <= 4 * BESIDE


def test_few_names_are_all_compared():
    assert Names(["alpha", "beta"]).nearest("alhpa") == "nearest: alpha"
    assert Names(["alpha", "beta"]).nearest("zzzzz") == "known: alpha, beta"
    assert Names([]).nearest("alpha") == "known: none"
