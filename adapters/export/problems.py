"""transformers' `problem_type`, and the head of one vector a row that computes the same.

| `problem_type` | outputs | head |
|---|---|---|
| `single_label_classification` | two or more | `classification` |
| `multi_label_classification` | any number | `multi_label` |
| `regression` | one | `regression`, in the target's own units |
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from adapters.specs import Classification, Head, MultiLabel, Pooling, Regression

Problem: TypeAlias = Literal["single_label_classification", "multi_label_classification", "regression"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)


def assumed_problem(outputs: int) -> Problem:
    """Returns the problem where nobody says it: as in transformers, one output is a number."""
    return "regression" if outputs == 1 else "single_label_classification"


def head_of(problem: object, pooling: Pooling, outputs: int) -> Head | None:
    """Returns the head of a problem; None for an unknown one, and where the number of outputs does not fit it."""
    if problem == "single_label_classification" and outputs > 1:
        return Classification(pooling=pooling)
    if problem == "multi_label_classification":
        return MultiLabel(pooling=pooling)
    if problem == "regression" and outputs == 1:
        return Regression(pooling=pooling, center=0.0, spread=1.0)
    return None
