"""The judge of known answers: exact programs, bounds, and what is no number. The programs themselves run in
`tests/adapters/test_machine.py`, in a process of their own with the flags that users have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from metering.known_answers import functions, loops, moves, products, reductions
from metering.known_answers.moves import PUBLISHED, threefry
from metering.known_answers.program import Program, U, gamma, judged

ROOT = Path(__file__).resolve().parents[2]
KINDS = (products, reductions, functions, moves, loops)


def program(right, allowed=None) -> Program:
    return Program("p", lambda: None, (), np.asarray(right), None if allowed is None else np.asarray(allowed))


def test_whole_numbers_are_compared_exactly():
    right = np.array([3, 5], np.int32)
    assert judged(program(right), right).right
    answer = judged(program(right), np.array([3, 6], np.int32))
    assert (answer.right, answer.difference, answer.allowed) == (False, 1.0, 0.0)


def test_a_bound_holds_for_each_entry():
    small = program([1.0, 1000.0], [1e-6, 1.0])
    assert judged(small, np.array([1.0, 1000.9], np.float32)).right
    answer = judged(small, np.array([1.1, 1000.9], np.float32))
    assert not answer.right
    assert answer.difference == pytest.approx(0.1, rel=1e-5), "the entry that is wrong, not the one that differs most"
    assert answer.allowed == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.array([np.nan, 2.0], np.float32), "nan instead of 1.0"),
        (np.array([np.inf, 2.0], np.float32), "inf instead of 1.0"),
        (np.array([1.0], np.float32), "float32[1] instead of float64[2]"),
    ],
    ids=["nan", "infinite", "shape"],
)
def test_what_is_no_answer_is_wrong(given, problem):
    answer = judged(program([1.0, 2.0], 0.5), given)
    assert (answer.right, answer.difference, answer.problem) == (False, None, problem)


def test_an_exact_answer_has_the_dtype_too():
    right = np.array([1.0], np.float32)
    assert not judged(program(right), right.astype(ml_dtypes.bfloat16)).right


def test_the_bound_of_a_sum_holds_for_the_worst_order():
    """Adding 1 and then 2^-25 again and again loses each of them; the bound is not smaller than that loss."""
    terms, total = 2000, np.float32(1)
    for _ in range(terms):
        total += np.float32(2.0**-25)
    exact = 1 + terms * 2.0**-25
    assert terms * U / 4 < abs(float(total) - exact) <= gamma(terms) * exact


def test_threefry_in_numpy_gives_the_published_values():
    for key, counter, bits in PUBLISHED:
        words = np.array([[counter[0]], [counter[1]]], np.uint32)
        first, second = threefry(np.array(key, np.uint32), words[0], words[1])
        assert (int(first[0]), int(second[0])) == bits


def test_every_program_has_a_name_of_its_own_and_a_bound_that_says_something():
    made = [p for kind in KINDS for p in kind.programs(np.random.default_rng(0), 0.0)]
    assert len(made) >= 30
    assert len({p.name for p in made}) == len(made)
    for p in made:
        if p.allowed is not None:
            assert p.right.dtype == np.float64, p.name
            share = np.linalg.norm(np.broadcast_to(p.allowed, p.right.shape)) / np.linalg.norm(p.right)
            assert 0 < share < 0.08, f"{p.name}: a bound of {share:.1%} finds nothing"


def test_a_wrong_answer_is_told_by_the_status(tmp_path):
    """A program that is wrong on purpose, beside one that is right."""
    script = (
        "import numpy as np, sys\n"
        "from metering.known_answers import __main__ as main\n"
        "from metering.known_answers.program import Program\n"
        "one = np.ones(3, np.float32)\n"
        "main.KINDS = (lambda draw, rounding: [Program('sound', lambda x: x, (one,), one),"
        " Program('unsound', lambda x: x + 1, (one,), one)],)\n"
        "sys.exit(main.main())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, "--json"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1, done.stderr
    head, *answers = map(json.loads, done.stdout.splitlines())
    assert head == {"backend": "cpu"}
    assert [(a["program"], a["right"], a["difference"]) for a in answers] == [
        ("sound", True, 0.0),
        ("unsound", False, 1.0),
    ]
