"""Which library computes each matrix product of a compiled program, read from the compiler's own text.

On a CPU, XLA hands products to YNNPACK, oneDNN or Eigen, or compiles loops of its own; on a GPU to cuBLAS, cuDNN or
Triton. A change of compiler, flag or processor may change the library, and with it the speed and the last digits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# beginnings of the names of custom calls and of kinds of fusions, by library
LIBRARIES = {
    "__ynn": "YNNPACK",
    "__xnn": "XNNPACK",
    "__onednn": "oneDNN",
    "__cublas": "cuBLAS",
    "__cudnn": "cuDNN",
    "__triton": "Triton",
    "__cutlass": "CUTLASS",
}
LOOPS = "XLA"  # loops of the compiler itself: products inside its fusions, and a CPU's products with a vector

_COMPUTATION = re.compile(r"^(?:ENTRY\s+)?%?([\w.\-]+)\s.*->.*\{\s*$")
_PRODUCT = re.compile(r"=\s+(\w+\[[\d,]*\])(?:\{[^}]*\})?\s+(?:dot|convolution)\(")
_RESULT = re.compile(r"=\s+\(?(\w+\[[\d,]*\])")
_CALLS = re.compile(r"\bcalls=%?([\w.\-]+)")
_NAMED = re.compile(r'(?:custom_call_target=|"kind":\s*)"(__\w+[\w$]*)"')


@dataclass(frozen=True)
class ProductUse:
    """The products of one shape that one library computes in a program."""

    library: str
    shape: str  # dtype and shape of the result, as XLA writes them
    count: int  # number of such products in the program


def products_of(text: str, backend: str) -> tuple[ProductUse, ...]:
    """Returns the products of an optimised program of XLA (`compiled.as_text()`), by library and shape.

    A product inside a loop counts once. Products inside the fusion of a library are that library's.
    """
    bodies = _bodies(text)
    fusions = {body: library for lines in bodies.values() for body, library in _fusions(lines)}
    counts: Counter[tuple[str, str]] = Counter()
    for name, lines in bodies.items():
        inside = fusions.get(name)
        for line in lines:
            if match := _PRODUCT.search(line):
                counts[inside or _alone(match[1], backend), match[1]] += 1
            elif "custom-call(" in line and (library := _library(line)) and (result := _RESULT.search(line)):
                counts[library, result[1]] += 1
    return tuple(ProductUse(library, shape, count) for (library, shape), count in sorted(counts.items()))


def _bodies(text: str) -> dict[str, list[str]]:
    """Returns the instructions of each computation, by its name."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = bodies.setdefault(match[1], [])
        elif "=" in line:
            lines.append(line)
    return bodies


def _fusions(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (computation, library) for the fusions among some instructions."""
    for line in lines:
        if " fusion(" in line and (match := _CALLS.search(line)):
            yield match[1], _library(line) or LOOPS


def _alone(shape: str, backend: str) -> str:
    """Returns the library of a product that is an instruction by itself: Eigen for matrices on a CPU."""
    sides = shape.partition("[")[2].rstrip("]").split(",")[-2:]
    return "Eigen" if backend == "cpu" and len(sides) == 2 and "1" not in sides else LOOPS


def _library(line: str) -> str | None:
    """Returns the library that an instruction names; None where it names none."""
    match = _NAMED.search(line)
    if match is None:
        return None
    return next((library for prefix, library in LIBRARIES.items() if match[1].startswith(prefix)), None)
