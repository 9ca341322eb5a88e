"""FLOPs and bytes of dense algebra, counted on paper."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """Work: floating-point operations, and bytes if every operand and result moves once."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Count:
        return Count(self.flops * times, self.bytes * times)

    __rmul__ = __mul__


def product(rows: int, inputs: int, outputs: int, *, itemsize: int = 4, batch: int = 1) -> Count:
    """Adds up [rows, inputs] x [inputs, outputs], `batch` times: 2 rows inputs outputs FLOPs each."""
    moved = rows * inputs + inputs * outputs + rows * outputs
    return Count(2.0 * rows * inputs * outputs, float(moved * itemsize)) * batch


def elementwise(elements: int, flops_each: float, *, itemsize: int = 4, arrays: int = 2) -> Count:
    """Counts a fused pass over `arrays` arrays of `elements` elements, with `flops_each` operations on each."""
    return Count(flops_each * elements, float(arrays * elements * itemsize))
