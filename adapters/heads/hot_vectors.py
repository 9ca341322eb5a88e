"""Cells of several labels that are vectors of 0 and 1, told from lists of labels. Imports no jax.

`[1, 0, 1]` is the first and the third of three labels, never the classes 1, 0 and 1. What a cell of two values means
(`[0, 1]`) only the other cells can tell, so the cells of a whole split decide for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adapters.heads.columns import LabelFields, SeveralLabels
from adapters.labels.spelling import spelling
from backbone.errors import InputError


class ListedLabels(SeveralLabels):
    """Cells of which it is settled that they are lists of labels."""

    reads_whole = False


class HotVectors(SeveralLabels):
    """Cells of which it is settled that they are vectors of 0 and 1, a value for each of `data.label_names`."""

    reads_whole = False

    def items(self, cell: Any, data: LabelFields, where: str) -> Sequence[Any]:
        values = self.raw(cell, where, data)
        if not is_binary(values) or len(values) != len(data.label_names):
            raise InputError(
                f"{where}: {data.label}: {_shown(values)} is no vector of {len(data.label_names)} values 0 or 1, as in "
                "other rows; write one for each of data.label_names"
            )
        return [name for name, value in zip(data.label_names, values, strict=True) if spelling(value) in ("1", "True")]

    def cell(self, labels: Sequence[str], data: LabelFields) -> Any:
        return [int(name in labels) for name in data.label_names]


def is_binary(values: Sequence[Any]) -> bool:
    """Returns whether every value is 0 or 1, in any spelling."""
    return all(spelling(value) in ("0", "1", "False", "True") for value in values)


def is_of_vectors(cells: Iterable[tuple[list[Any], str]], data: LabelFields) -> bool:
    """Returns whether the cells of a split, each with its file and line, are vectors of 0 and 1.

    A cell that names a class twice (`[1, 0, 1]`) is certain to be one; then all must be, of the same length. Pairs
    of 0 and 1 are vectors where both `[0, 1]` and `[1, 0]` occur, and single values where there is one name. Raises
    InputError where cells contradict each other, where there are no names for their values, or where pairs may be
    either.
    """
    filled = [(values, where) for values, where in cells if values]
    certain = next(((v, w) for v, w in filled if _is_vector(v)), None)
    if len(data.label_names) == 1:
        certain = next(((v, w) for v, w in filled if len(v) == 1 and spelling(v[0]) in ("1", "True")), certain)
    pairs = bool(filled) and all(len(v) == 2 and is_binary(v) for v, _ in filled)
    if certain is None and not pairs:
        return False
    first, where = certain or filled[0]
    if certain is None and len({tuple(spelling(value) for value in v) for v, _ in filled}) < 2:
        raise InputError(
            f"{where}: {data.label}: {_shown(first)} in every row may be two labels or a vector of 0 and 1; write the "
            "labels by their names"
        )
    for values, place in filled:
        if not is_binary(values) or len(values) != len(first):
            raise InputError(
                f"{place}: {data.label}: {_shown(values)} is no vector of {len(first)} values 0 or 1, but {where} "
                f"holds one, {_shown(first)}; write all rows in one way"
            )
    if len(data.label_names) != len(first):
        raise InputError(
            f"{where}: {data.label}: {_shown(first)} looks like a vector of 0 and 1 for {len(first)} labels; name "
            f"them in data.label_names, which holds {len(data.label_names)}"
        )
    return True


def require_labels(items: Sequence[Any], data: LabelFields, where: str, *, of_list: bool) -> None:
    """Raises InputError unless the items of a cell can be labels; `of_list` says that the cell is a list."""
    if _is_vector(items):
        raise InputError(
            f"{where}: {data.label}: {_shown(items)} looks like a vector of 0 and 1, but the first rows hold lists of "
            "labels; write all rows in one way"
        )
    if of_list and any(isinstance(item, float) and item == item for item in items):
        raise InputError(
            f"{where}: {data.label}: {_shown(items)} holds numbers with a point, which name no labels; write names, "
            "whole numbers, or a vector of 0 and 1 for data.label_names"
        )


def _is_vector(values: Sequence[Any]) -> bool:
    """Returns whether values of 0 and 1 hold one of them twice, so that they are no list of classes."""
    return len(values) > 1 and is_binary(values) and len({spelling(value) for value in values}) < len(values)


def _shown(values: Sequence[Any]) -> str:
    return str(list(values))[:60]
