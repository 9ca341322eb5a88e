"""The words of production code, by the rules of `benchmarks/house.py`: docstrings, names and comments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.house import FILLERS, Source, code_counts, comments_of, read_sources, word_faults

ROOT = Path(__file__).resolve().parents[1]
MIN_VERBS = 0.98  # share of function docstrings that begin with a verb
MAX_DICTS = 109  # uses of `dict[str, Any]`; records come in their place, so the number only falls
PLANTED = '''
class Thing:
    """A thing."""

    seed: int = 0  # of A and B
    told: str = ""  # report of the run

    def size(self, asked: int) -> int:
        """The size of the thing."""
        for found in range(asked):
            held = found
        with open("x") as begun:
            return held + len(begun.read())
'''


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return read_sources(ROOT)


def source_of(text: str) -> Source:
    return Source("planted.py", len(text.splitlines()), ast.parse(text), comments_of(text))


def test_no_filler_is_bound_and_no_comment_begins_with_of(sources):
    faults = [fault for source in sources for fault in word_faults(source) if fault.rule != "verb"]
    assert not faults, "\n".join(map(str, faults))


def test_docstrings_of_functions_begin_with_a_verb(sources):
    counts, _ = code_counts(sources)
    faults = [fault for source in sources for fault in word_faults(source) if fault.rule == "verb"]
    assert counts["function docstrings"] - counts["  with a verb first"] == len(faults)
    assert len(faults) <= (1 - MIN_VERBS) * counts["function docstrings"], "\n".join(map(str, faults))


def test_results_are_records(sources):
    assert code_counts(sources)[0]["dict[str, Any]"] <= MAX_DICTS, "a result with known keys is a frozen dataclass"


def test_a_planted_fault_is_found():
    faults = word_faults(source_of(PLANTED))
    assert [(fault.rule, fault.line, fault.text) for fault in faults] == [
        ("of", 5, "of A and B"),
        ("filler", 6, "told"),
        ("filler", 8, "asked"),
        ("verb", 9, "The size of the thing."),
        ("filler", 10, "found"),
        ("filler", 11, "held"),
        ("filler", 12, "begun"),
    ]


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize(
    "text", ["{} = 1", "def f({}): ...", "def f(*, {}=1): ...", "lambda {}: 1", "[1 for {} in ()]"]
)
def test_every_binding_of_every_filler_is_found(name, text):
    assert [fault.text for fault in word_faults(source_of(text.format(name)))] == [name]


@pytest.mark.parametrize("text", ["size = asked", "x.found = 1", 'f(told="")', "def f():\n    '''Returns it.'''"])
def test_what_binds_no_filler_is_let_through(text):
    assert not word_faults(source_of(text))
