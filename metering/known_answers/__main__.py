"""Runs every program, and prints its verdict. The programs of one file are compiled together."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import jax
import numpy as np

from metering.known_answers import functions, loops, moves, products, reductions
from metering.known_answers.program import Answer, Program, failed, judged

KINDS: tuple[Callable[[np.random.Generator, float], Iterator[Program]], ...] = (
    products.programs,
    reductions.programs,
    functions.programs,
    moves.programs,
    loops.programs,
)
# relative error with which a backend reads the inputs of a float32 product: none, TensorFloat-32, bfloat16
ROUNDING = {"cpu": 0.0, "gpu": 2.0**-11, "tpu": 2.0**-8}


def answers() -> Iterator[Answer]:
    """Yields the verdict on each program; an error of the compiler is one too."""
    rounding = ROUNDING.get(jax.default_backend(), 0.0)
    for number, kind in enumerate(KINDS):
        programs = list(kind(np.random.default_rng(number), rounding))
        try:
            given = jax.device_get(jax.jit(_together(programs))([program.inputs for program in programs]))
        except jax.errors.JaxRuntimeError as error:
            problem = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            yield from (failed(program.name, problem) for program in programs)
        else:
            yield from (judged(program, np.asarray(array)) for program, array in zip(programs, given, strict=True))


def _together(programs: list[Program]) -> Callable[[list[tuple[jax.Array, ...]]], list[jax.Array]]:
    return lambda inputs: [program.compute(*given) for program, given in zip(programs, inputs, strict=True)]


def main() -> int:
    """Prints the verdicts as JSON lines or as a table, and returns the exit status: 1 where an answer is wrong."""
    started, wrong, count = time.monotonic(), 0, 0
    as_json = "--json" in sys.argv[1:]
    if as_json:
        print(json.dumps({"backend": jax.default_backend()}), flush=True)
    for answer in answers():
        count, wrong = count + 1, wrong + (not answer.right)
        print(json.dumps(asdict(answer)) if as_json else _line(answer), flush=True)
    seconds = time.monotonic() - started
    if not as_json:
        counts = f"{count - wrong} of {count} known answers are right: Python {sys.version.split()[0]}, "
        print(f"{counts}jax {jax.__version__}, {jax.default_backend()}, {seconds:.1f} s")
    return 1 if wrong else 0


def _line(answer: Answer) -> str:
    verdict = "right" if answer.right else "WRONG"
    difference = "-" if answer.difference is None else f"{answer.difference:.1e}"
    problem = f": {answer.problem}" if answer.problem else ""
    return f"{verdict}  {difference:>8} of {answer.allowed:<8.1e} {answer.program}{problem}"


if __name__ == "__main__":
    sys.exit(main())
