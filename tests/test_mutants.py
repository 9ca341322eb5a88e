"""The list of mutants fits the tree; `make soak` runs the mutants themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.mutants import MUTANTS
from tests.mutants.__main__ import Copy
from tests.mutants.machine import MACHINE
from tests.mutants.mutant import ROOT, Mutant

EVERY = {str(number): mutant for number, mutant in enumerate(MUTANTS, 1)} | {
    f"machine {number}": mutant for number, mutant in enumerate(MACHINE, 1)
}


@pytest.mark.parametrize("mutant", EVERY.values(), ids=EVERY)
def test_a_mutant_applies_and_its_test_is_there(mutant):
    mutant.applied_to((ROOT / mutant.file).read_text(encoding="utf-8"))
    name = mutant.test.partition("::")[2].partition("[")[0]
    assert name, "one test is meant to kill it"
    assert f"def {name}(" in (ROOT / mutant.test_file).read_text(encoding="utf-8"), mutant.test


def test_no_mutant_is_there_twice():
    assert Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS).most_common(1)[0][1] == 1


def test_a_mutant_that_no_longer_applies_is_named():
    with pytest.raises(ValueError, match=r"trainers/x\.py: the text of the mutant 'a wrong sum' stands there 2 times"):
        Mutant("trainers/x.py", "a + b", "a - b", "tests/x.py::test_x", "a wrong sum").applied_to("a + b; a + b")


def test_a_mutant_is_killed_by_a_test_that_means_to_and_survives_another(tmp_path):
    killed = Mutant(
        "backbone/buckets.py",
        "if isinstance(row, Sides) else (row,)",
        "if isinstance(row, Sides) else (row, row)",
        "tests/trainers/data/test_pairs_and_tags.py::test_the_key_of_a_row_names_all_of_it",
        "a plain row would have two sides",
    )
    copy = Copy(tmp_path / "tree")
    before = (copy.folder / killed.file).read_text()
    assert copy.fate(killed) == "killed"
    survived = replace(killed, test="tests/backbone/test_cache.py::test_int8_takes_a_quarter")
    assert copy.fate(survived) == "survived"
    assert (copy.folder / killed.file).read_text() == before
    with pytest.raises(RuntimeError, match="no test ran"):
        copy.fate(replace(killed, test="tests/backbone/test_cache.py::test_that_nobody_wrote"))
