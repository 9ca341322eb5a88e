"""int8: kernels by output channel, states by row, products of int8 with exact int32 sums.

    q(x) = round(x / r), r = max |x| / 127 of the row;   Q(W) = round(W / c), c = max |W| / 127 of the column
    y = (q(x) Q(W)) r c

A row's scale is made of that row alone and integer sums have no order, so a row's result has the same bits in every
batch. The gradient of the states takes the dequantised kernel in bfloat16. Source: LLM.int8() (Dettmers et al. 2022,
arXiv 2208.07339), section 2, "vector-wise quantization".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from backbone.lazy import jax, jnp
from backbone.network.stored import Array, StoredKernel, StoredTable, register
from backbone.precisions.precision import Precision

LARGEST = 127  # largest magnitude of a stored value; -128 is not used
SMALLEST = 1e-30  # scale of a row or channel of zeros


@dataclass(frozen=True)
class Int8Kernel(StoredKernel):
    """A kernel in int8 with one scale for each output."""

    values: Array  # int8 [I,O]
    scales: Array  # float32 [O]

    exact_rows: ClassVar[bool] = True
    rounds_states: ClassVar[bool] = True

    def times(self, x: Array) -> Array:
        largest = jnp.maximum(jnp.abs(x).max(axis=-1, keepdims=True), SMALLEST)
        rounded = jnp.round(x * (LARGEST / largest)).astype(jnp.int8)
        axes = (((1,), (0,)), ((), ()))
        sums = jax.lax.dot_general(rounded, self.values, axes, preferred_element_type=jnp.int32)
        return sums.astype(jnp.float32) * (largest * (1 / LARGEST)) * self.scales

    def transposed_times(self, g: Array) -> Array:
        kernel = self.dense().astype(jnp.bfloat16)
        axes = (((1,), (1,)), ((), ()))
        return jax.lax.dot_general(g.astype(jnp.bfloat16), kernel, axes, preferred_element_type=jnp.float32)

    def columns(self, part: slice) -> Self:
        return type(self)(self.values[:, part], self.scales[part])

    def dense(self) -> Array:
        return self.values.astype(jnp.float32) * self.scales


@dataclass(frozen=True)
class Int8Table(StoredTable):
    """A table in int8 with one scale for each row."""

    values: Array  # int8 [V,D]
    scales: Array  # float32 [V]

    exact_rows: ClassVar[bool] = True

    def rows(self, key: Any) -> Array:
        return self.values[key].astype(jnp.float32) * self.scales[key][..., None]

    def dense(self) -> Array:
        return self.rows(slice(None))


class Int8(Precision, tag="int8"):
    """Kernels in int8 by output channel, tables in int8 by row, and states quantised row by row."""

    factors: ClassVar[str] = "int8"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({"cpu": 2.5e-1, "gpu": 2.5e-1, "tpu": 2.5e-1})

    def kernel(self, values: Any) -> Any:
        stored, scales = quantised(values, axis=0)
        register(Int8Kernel)
        return Int8Kernel(stored, scales)

    def table(self, values: Any) -> Any:
        stored, scales = quantised(values, axis=1)
        register(Int8Table)
        return Int8Table(stored, scales)


def quantised(values: np.ndarray, *, axis: int) -> tuple[Any, Any]:
    """Returns int8 values of the same shape, and a float32 scale for each line along `axis`."""
    scales = np.maximum(np.abs(values).max(axis=axis, keepdims=True) / LARGEST, SMALLEST).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales.squeeze(axis)
