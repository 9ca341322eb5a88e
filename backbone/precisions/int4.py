"""int4: weights in 4 bits by groups of inputs, for bytes; products are those of float32 with the dequantised kernel.

    W[i,o] = s[i / G, o] q[i,o],   q in -8..7,   G = 32 inputs

A group has one scale in bfloat16, so that a weight takes 4.5 bits. Of some shares of a group's largest magnitude, the
scale is the one with the smallest squared error (Nagel et al. 2021, arXiv 2106.08295, section 3.1.2, "MSE"). Two values
lie in one byte. States are not rounded: a trunk in int4 is small, and no faster than one in float32.

Shapes: N rows, I inputs, O outputs, V rows of a table, D width; inputs are filled up to whole groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np

from backbone.lazy import jnp
from backbone.network.stored import STATIC, Array, StoredKernel, StoredTable, register
from backbone.precisions.precision import Precision

GROUP = 32  # inputs that share a scale
LARGEST = 7  # magnitude that a scale stands for; -8 is used where rounding asks for it
SHARES = np.linspace(1.0, 0.6, 9)  # shares of a group's largest magnitude that are tried as its range
SMALLEST = 1e-30  # scale of a group of zeros


@dataclass(frozen=True)
class Int4Kernel(StoredKernel):
    """A kernel in int4 with one scale for each group of inputs and each output."""

    values: Array  # uint8 [I/2,O]: input 2k in the low half of a byte, 2k+1 in the high one
    scales: Array  # bfloat16 [I/G,O]
    inputs: int = field(metadata=STATIC)  # I, before it is filled up

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs, int(self.values.shape[1])

    def times(self, x: Array) -> Array:
        return x @ self.dense()

    def transposed_times(self, g: Array) -> Array:
        return g @ self.dense().T

    def columns(self, part: slice) -> Self:
        return type(self)(self.values[:, part], self.scales[:, part], self.inputs)

    def dense(self) -> Array:
        halves = jnp.stack([self.values & 15, self.values >> 4], axis=1)  # [I/2,2,O]
        groups = halves.reshape(len(self.scales), GROUP, -1).astype(jnp.float32) - 8
        whole = groups * self.scales.astype(jnp.float32)[:, None]
        return whole.reshape(-1, whole.shape[-1])[: self.inputs]


@dataclass(frozen=True)
class Int4Table(StoredTable):
    """A table in int4 with one scale for each group of a row."""

    values: Array  # uint8 [V,D/2], two of a row's values in a byte
    scales: Array  # bfloat16 [V,D/G]
    width: int = field(metadata=STATIC)  # D, before it is filled up

    @property
    def shape(self) -> tuple[int, ...]:
        return int(self.values.shape[0]), self.width

    def rows(self, key: Any) -> Array:
        values, scales = self.values[key], self.scales[key]
        halves = jnp.stack([values & 15, values >> 4], axis=-1)
        groups = halves.reshape(*scales.shape, GROUP).astype(jnp.float32) - 8
        whole = groups * scales.astype(jnp.float32)[..., None]
        return whole.reshape(*values.shape[:-1], -1)[..., : self.width]

    def dense(self) -> Array:
        return self.rows(slice(None))


class Int4(Precision, tag="int4"):
    """Kernels and tables in int4 by groups, products in float32: fewer bytes, not fewer seconds."""

    faster: ClassVar[bool] = False
    # states are not rounded, so platforms differ as they do in float32
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({"cpu": 1e-3, "gpu": 2e-2, "tpu": 2e-2})

    def kernel(self, values: Any) -> Any:
        packed, scales = quantised(np.asarray(values, np.float32).T)
        register(Int4Kernel)
        stored: tuple[Any, Any] = np.ascontiguousarray(packed.T), np.ascontiguousarray(scales.T)
        return Int4Kernel(*stored, inputs=len(values))

    def table(self, values: Any) -> Any:
        register(Int4Table)
        return Int4Table(*quantised(np.asarray(values, np.float32)), values.shape[1])


def quantised(lines: np.ndarray) -> tuple[Any, Any]:
    """Returns the packed values uint8 [K,I/2] and the scales bfloat16 [K,I/G] of lines float32 [K,I]."""
    filled = np.pad(lines, ((0, 0), (0, -lines.shape[1] % GROUP)))
    groups = filled.reshape(len(lines), -1, GROUP)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    best = np.full(largest.shape, np.inf, np.float32)
    scales = np.ones(largest.shape, ml_dtypes.bfloat16)
    for share in SHARES:
        tried = np.maximum(largest * np.float32(share / LARGEST), SMALLEST).astype(ml_dtypes.bfloat16)
        error = np.square(_rounded(groups, tried) * tried.astype(np.float32) - groups).sum(axis=-1, keepdims=True)
        scales = np.where(error < best, tried, scales)
        best = np.minimum(error, best)
    halves = (_rounded(groups, scales) + 8).astype(np.uint8).reshape(len(lines), -1, 2)
    return halves[..., 0] | halves[..., 1] << 4, scales[..., 0]


def _rounded(groups: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(groups / scales.astype(np.float32)), -LARGEST - 1, LARGEST)


__all__ = ["GROUP", "Int4", "Int4Kernel", "Int4Table", "quantised"]
