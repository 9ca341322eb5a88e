"""The standard library's docstrings: collected on every machine, and whatever the garbage collector does meanwhile."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

import pytest

from trainers.data import docstrings


class _Cycle:
    """Garbage that parses when it is collected, as a logged traceback does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        def deeper(levels: int) -> ast.Module:
            return deeper(levels - 1) if levels else ast.parse("x = (1 + 2) * 3")

        deeper(20)


@pytest.mark.parametrize("threshold", [50, 200, 800])
def test_parsing_survives_garbage_that_parses(threshold):
    source = Path(ast.__file__).read_bytes()
    before = gc.get_threshold()
    gc.collect()
    try:
        _Cycle()
        gc.set_threshold(threshold)
        assert ast.dump(docstrings._parse(source)) == ast.dump(ast.parse(source))
    finally:
        gc.set_threshold(*before)


def test_every_class_has_its_rows_and_no_text_names_its_package():
    rows = docstrings.collect()
    labels = [label for _, label in rows]
    assert len(rows) > 3000
    assert len(set(labels)) >= 20
    assert all(labels.count(label) >= docstrings.MIN_ROWS for label in set(labels))
    assert not [text for text, label in rows if f" {label} " in f" {text.lower()} "]
