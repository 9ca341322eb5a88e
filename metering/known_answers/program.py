"""A program with its right answer, and bounds of the rounding error.

u is the unit roundoff: 2^-24 in float32, 2^-8 in bfloat16. A sum of products in any order, with at most k roundings on
a path from an input to the result, lies within gamma(k) = k u / (1 - k u) times the same sum of absolute values
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1 and lemma 3.1). exp, log, tanh, erf and
1/sqrt are approximations of the compiler; `FUNCTION` bounds their relative error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

U = 2.0**-24  # unit roundoff of float32
U16 = 2.0**-8  # unit roundoff of bfloat16
FUNCTION = 16 * U  # relative error of exp, log, tanh, erf and 1/sqrt in float32
TINY = 2.0**-120  # results that a processor may flush to zero


@dataclass(frozen=True)
class Program:
    """A program and its right answer."""

    name: str
    compute: Callable[..., Any]  # traced by jax: from the inputs to one array
    inputs: tuple[Array, ...]
    right: Array  # the right answer, in float64 or exactly
    allowed: Array | None = None  # largest error of each entry; None: the same bits, and the same dtype


@dataclass(frozen=True)
class Answer:
    """The verdict on one program."""

    program: str
    right: bool
    difference: float | None  # at the worst entry, from the right answer; None where there is no number
    allowed: float  # at the same entry; 0: exact
    problem: str = ""  # what came instead of an answer: an error, another shape or dtype


def gamma(roundings: int) -> float:
    """Returns the relative error bound of a sum of products with so many roundings on a path."""
    return roundings * U / (1 - roundings * U)


def judged(program: Program, given: Array) -> Answer:
    """Compares what a program gave with the right answer."""
    right = program.right
    exact = program.allowed is None
    if given.shape != right.shape or (exact and given.dtype != right.dtype):
        return failed(program.name, f"{given.dtype}{list(given.shape)} instead of {right.dtype}{list(right.shape)}")
    differences = np.abs(given.astype(np.float64) - right.astype(np.float64)).ravel()
    if exact:
        allowed = np.zeros(differences.shape)
    else:
        allowed = np.broadcast_to(np.asarray(program.allowed, np.float64) + TINY, right.shape).ravel()
    over = ~(differences <= allowed)  # also where the difference is no number
    if not over.any():
        worst = int(np.argmax(differences / np.maximum(allowed, TINY)))
    else:
        worst = int(np.argmax(np.where(over, np.nan_to_num(differences, nan=np.inf), -1.0)))
    difference = float(differences[worst])
    finite = bool(np.isfinite(difference))
    problem = "" if finite else f"{given.ravel()[worst]} instead of {right.ravel()[worst]}"
    return Answer(program.name, not over.any(), difference if finite else None, float(allowed[worst]), problem)


def failed(name: str, problem: str) -> Answer:
    """Returns the verdict on a program that gave nothing to compare."""
    return Answer(name, False, None, 0.0, problem)
